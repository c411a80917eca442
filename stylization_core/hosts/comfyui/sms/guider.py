"""A guider whose model can be asked for a style's prediction beside its own.

``CFGGuider.sample`` loads models and ControlNets, processes conditionings (areas, masks, ADM), scales latents, applies
wrappers and cleans up. :class:`StyleMatchingGuider` adds the style's prediction to it, from a row-gated branch of the
same network or from a second checkpoint, and the fake score that SMS compares it with.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....errors import StylizationError
from ....randomness import on_device, stream
from ....sms.schedule import SUBSTEPS, vp_sigma
from ..model import (
    BASE,
    BRANCHES,
    Branch,
    Levels,
    active,
    by_progress,
    foreign_cfg_functions,
    predict,
    refuse_step_caches,
    with_guidance_of,
    with_wrapper,
)
from .relevance_map import ask_pair
from .row_gate import RowGate
from .second_model import PROMPT_PAIR, SECOND_MODEL, STYLE, SecondModel
from .settings import REFINEMENT
from .style_source import StyleSource
from .trained_fake import TrainedFake, published_weight, refuse_untrainable, training_bytes

KEY = "stylization.style_sampling"


@dataclass(frozen=True)
class FakeScore:
    """What SMS compares the style with.

    Attributes:
        trained: fit a LoRA on a private copy of the base to the picture, one step per iteration, as published; else
            the base as it is.
        blend: share of the fake score that is the latent itself (see ``sms.optimize.Terms``).
        rank, alpha, learning_rate: of that LoRA, as published.
    """

    trained: bool = False
    blend: float = 0.0
    rank: int = 8
    alpha: float = 32.0
    learning_rate: float = 1e-3


class ScoreSampler(comfy.samplers.Sampler):
    """A sampler that asks :class:`StyleMatchingGuider` for pairs of predictions instead of one."""

    def idle(self, model_options: dict) -> bool:
        """Whether the run would change nothing, so that the input latent itself is the answer."""
        return False

    def work(self, sigmas: Tensor) -> str:
        """How often it asks, in words."""
        return f"SMS: {len(sigmas) - 1} iterations"


class StyleMatchingGuider(comfy.samplers.CFGGuider):
    """Guider whose model can be asked for a style prediction beside its own.

    Under a :class:`ScoreSampler` it answers with (style, fake) pairs; under an ordinary sampler it samples the style.
    Conditionings: ``positive``, ``negative``; optional ``source`` (instead of ``positive`` for the fake score),
    ``edit`` and ``empty`` (for the relevance map).

    Args:
        patcher: MODEL of the base.
        style: from :func:`find_style`.
        fake: what the style is compared with.
    """

    def __init__(self, patcher, style: StyleSource, fake: FakeScore = FakeScore()):
        if style.patcher is not None:
            patcher = patcher.clone()
            # both networks are loaded, and kept, together
            patcher.set_additional_models(SECOND_MODEL, [style.patcher])
        super().__init__(patcher)
        self.style, self.fake = style, fake
        self.windows = None
        self._gate = self._second = self._twin = self._draws = None

    def sample(self, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        """As the parent's; an idle score sampler returns the input latent itself, a mask of 0 its cells."""
        if not isinstance(sampler, ScoreSampler):
            return super().sample(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
        if len(sigmas) < 2:  # ComfyUI would return the input for an empty list
            raise StylizationError("sigmas", "they hold no step", "Connect 'Stylize SMS Sigmas' with at least 1 step")
        if sampler.idle(self.model_options):
            return latent_image
        refuse_step_caches(self.model_options, self.model_patcher)
        if self.style.patcher is not None:
            refuse_step_caches(self.style.patcher.model_options, self.style.patcher, "style_model")
        result = super().sample(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
        if denoise_mask is None:
            return result
        # the way into the model's scale and back rounds, and what is protected stays as it is
        mask = comfy.sampler_helpers.prepare_mask(denoise_mask, result.shape, result.device)
        return torch.where(mask == 0, latent_image.to(result), result)

    def outer_sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Prepare windows, row gate, second model and trained copy; take them down whatever happens."""
        if isinstance(sampler, ScoreSampler):
            self._say_cost(sampler.work(sigmas), noise.shape[0])
            if self.fake.trained:
                # before the models are loaded, so that none of this run's is unloaded for the copy
                needed = training_bytes(self.model_patcher, self.fake.rank)
                comfy.model_management.free_memory(needed, self.model_patcher.load_device)
            self.conds.update(self._refiner_prompts())
            self.windows = by_progress(self.conds)
            self.conds = self.windows.conditionings
        self._gate = None if self.style.branch is None else RowGate(self.style.branch, STYLE)
        try:
            return super().outer_sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self.windows = self._gate = None
            for part in (self._second, self._twin):
                if part is not None:
                    part.close()
            self._second = self._twin = self._draws = None

    def _say_cost(self, work: str, batch: int) -> None:
        rows = batch * (2 if math.isclose(self.cfg, 1.0) else 4)
        style = 0 if self.style.branch is None else self.style.branch.nbytes / 2**20
        text = "[Stylization] %s, %d model rows for the scores; style deltas %.1f MiB beside the model"
        logging.info(text, work, rows, style)
        if self.fake.trained:
            copy = training_bytes(self.model_patcher, self.fake.rank) / 2**20
            text = "[Stylization] trained fake score: %.0f MiB for a private copy of the model; %d rows with gradients"
            logging.info(text, copy, batch)

    def _refiner_prompts(self) -> dict[str, list]:
        """Prompts of a Semantic Refiner on the MODEL, for its map."""
        refinement = self.model_patcher.get_attachment(REFINEMENT)
        if refinement is None or refinement.mask is not None:
            return {}
        prompts = {"edit": refinement.edit, "empty": refinement.empty}
        return {key: comfy.sampler_helpers.convert_cond(value) for key, value in prompts.items()}

    def inner_sample(self, noise, latent_image, device, sampler, sigmas, denoise_mask, *args, **kwargs):
        """As the parent's; the second model's conditionings are processed by that model."""
        if self.style.patcher is not None:
            self._second = SecondModel(self.style.patcher, self.conds)
            self._name_ignored()
            shapes = kwargs.get("latent_shapes")
            self._second.open(noise, latent_image, device, denoise_mask, sigmas, shapes)
        if isinstance(sampler, ScoreSampler) and self.fake.trained:
            refuse_untrainable(self.model_patcher)
            seed = kwargs.get("seed", args[2] if len(args) > 2 else None) or 0
            settings = {"rank": self.fake.rank, "alpha": self.fake.alpha, "lr": self.fake.learning_rate, "seed": seed}
            self._twin = TrainedFake(self.inner_model, **settings)
            self._draws = stream(seed, "sms.fake")
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, denoise_mask, *args, **kwargs)

    def _name_ignored(self) -> None:
        """Say which CFG functions do not act: those of a second model, since guidance is the first one's."""
        names = foreign_cfg_functions(self.style.patcher.model_options)
        if names:
            text = "[Stylization] without effect on style_model, since guidance is that of model: %s. Put it on model."
            logging.warning(text, ", ".join(names))

    def _single(self) -> bool:
        return math.isclose(self.cfg, 1.0) or not self.conds.get("negative")

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        """One step of an ordinary sampler: the style's prediction with ordinary guidance.

        ComfyUI's own step does it, so that whatever other nodes put around guidance acts; what such a function asks
        the model for is the style's too.
        """
        model, conds, options, gate = self.inner_model, self.conds, model_options or {}, self._gate
        if self._second is not None:
            model, conds, gate = self._second.patcher.model, self._second.conds, self._second.gate
            options = with_guidance_of(self._second.options, options)

        def ask_style(executor, model, conds, x, sigma, options):
            """CALC_COND_BATCH wrapper: the style answers whoever does not say which branch is asked."""
            if BRANCHES in options["transformer_options"]:
                return executor(model, conds, x, sigma, options)
            requests = {index: (Branch(STYLE, index), cond) for index, cond in enumerate(conds) if cond is not None}
            denoised = predict(model, list(requests.values()), x, sigma, options, gate, executor)
            answers = dict(zip(requests, denoised, strict=True))
            # ComfyUI answers with zeros where nothing is asked
            return [answers.get(index, torch.zeros_like(x)) for index in range(len(conds))]

        options = with_wrapper(options, WrappersMP.CALC_COND_BATCH, KEY, ask_style, outermost=True)
        negative = conds.get("negative") or None
        scale = 1.0 if negative is None else self.cfg
        sampling = comfy.samplers.sampling_function
        return sampling(model, x, timestep, negative, conds["positive"], scale, model_options=options, seed=seed)

    def _style_predictions(self, prompts, x: Tensor, level: Tensor, model_options: dict, progress: float):
        if self._second is not None:
            return self._second.predict(prompts, x, level, progress)
        requests = [(Branch(STYLE, polarity), active(self.conds[key], progress)) for key, polarity in prompts]
        return predict(self.inner_model, requests, x, level, model_options, self._gate)

    def score_pair(self, x: Tensor, sigma: float, progress: float, model_options: dict):
        """Guided denoised predictions (style, fake) of noised latents at one level.

        Args:
            x: (B, C, H, W) in model scale.
            sigma: noise level of the model's own parametrisation.
            progress: share of the run done, for percent windows.
        """
        self.windows.at(progress)
        prompts = PROMPT_PAIR[:1] if self._single() else PROMPT_PAIR
        fake = self._fake_requests(prompts, progress)
        level = x.new_full((x.shape[0],), sigma)
        if self._second is None and self._twin is None:
            style = [(Branch(STYLE, polarity), active(self.conds[key], progress)) for key, polarity in prompts]
            denoised = predict(self.inner_model, style + fake, x, level, model_options, self._gate)
            return self._guided(denoised[: len(prompts)]), self._guided(denoised[len(prompts) :])
        style = self._style_predictions(prompts, x, level, model_options, progress)
        if self._twin is None:
            return self._guided(style), self._guided(predict(self.inner_model, fake, x, level, model_options))
        return self._guided(style), self._guided(self._twin.predict(fake, x, level, model_options))

    def _fake_requests(self, prompts, progress: float) -> list:
        keys = {"positive": "source" if self.conds.get("source") else "positive", "negative": "negative"}
        return [(Branch(BASE, polarity), active(self.conds[keys[key]], progress)) for key, polarity in prompts]

    def _guided(self, predictions: list[Tensor]) -> Tensor:
        if len(predictions) == 1:
            return predictions[0]
        return torch.lerp(predictions[1].float(), predictions[0].float(), float(self.cfg))

    def fit_fake(
        self, x: Tensor, levels: Levels, lowest: int, highest: int, progress: float, model_options: dict
    ) -> None:
        """One training step of the fake score on the latent of this step; nothing to do for a frozen one.

        Level and noise are its own draws. The range of levels does not narrow over the run, as published.

        Args:
            x: (B, C, H, W) in model scale.
            levels: of the base model.
            lowest, highest: timesteps of the reference chain.
        """
        if self._twin is None:
            return
        first = (lowest - 1) // 2
        last = max(first, min((highest - 1) // 2, SUBSTEPS - 1))
        t = 2 * int(torch.randint(first, last + 1, (1,), generator=self._draws)) + 1
        noise = on_device(torch.randn(x.shape, generator=self._draws), x.device)
        sigma = levels.model(vp_sigma(t))
        request = self._fake_requests(PROMPT_PAIR[:1], progress)[0]
        level = x.new_full((x.shape[0],), sigma)
        weight = published_weight(levels.reference(sigma))
        self._twin.train(request, x, levels.noised(x, noise, sigma), level, weight, model_options)

    def edit_pair(self, x: Tensor, sigma: float, model_options: dict) -> list[Tensor]:
        """The base's answers to the edit prompt and the empty prompt, for the relevance map."""
        self.windows.at(0.0)
        edit = self.conds.get("edit") or self.conds["positive"]
        empty = self.conds.get("empty") or self.conds["negative"]
        return ask_pair(self.inner_model, active(edit, 0.0), active(empty, 0.0), x, sigma, model_options)
