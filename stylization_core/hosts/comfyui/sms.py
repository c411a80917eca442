"""Style Matching Score through ComfyUI's guider and sampler, so that a run gets all that an ordinary one gets.

``CFGGuider.sample`` loads models and ControlNets, processes conditionings (areas, masks, ADM), scales latents, applies
wrappers and cleans up. :class:`StyleMatchingGuider` adds the style's prediction to it, :class:`StyleMatchingSampler`
runs the optimisation where an ordinary sampler would step.
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
from torch import Tensor

from ...errors import StylizationError
from ...randomness import stream
from ...relevance import discrepancy, robust_relevance
from ...sms.optimize import Terms, channel_spread, optimize
from ...sms.schedule import Schedule, flow_sigma, make_schedule, vp_sigma
from .branches import Branch, predict
from .percent import active, by_progress
from .reached import save_reached
from .row_gate import RowGate
from .style_branch import attached
from .style_source import StyleSource

DIAL = "stylization.dial"
STYLE, BASE = "style", "base"
KINDS = (("positive", 0), ("negative", 1))
RELEVANCE_TIMESTEPS = (101, 201, 301, 401)
REFERENCE_CELLS = 64 * 64
SECOND_MODEL = "stylization.style_model"


def dial(model_options: dict) -> float:
    """The pack's common strength factor on a MODEL's options; 1 when nobody set it."""
    return float(model_options.get("transformer_options", {}).get(DIAL, 1.0))


class StyleMatchingGuider(comfy.samplers.CFGGuider):
    """Guider whose model can be asked for a style prediction beside its own.

    Under :class:`StyleMatchingSampler` it runs SMS; under an ordinary sampler it samples the style.

    Args:
        patcher: MODEL of the base.
        style: from :func:`find_style`.
    """

    def __init__(self, patcher, style: StyleSource):
        if style.patcher is not None:
            patcher = patcher.clone()
            # both networks are loaded, and kept, together
            patcher.set_additional_models(SECOND_MODEL, [style.patcher])
        super().__init__(patcher)
        self.style = style
        self.windows = None
        self._gate = None
        self._second = None

    def sample(self, noise, latent_image, sampler, *args, **kwargs):
        """As the parent's; an SMS sampler of strength 0 returns the input latent itself, a mask of 0 its cells."""
        if not isinstance(sampler, StyleMatchingSampler):
            return super().sample(noise, latent_image, sampler, *args, **kwargs)
        if sampler.strength * dial(self.model_options) == 0:
            return latent_image
        result = super().sample(noise, latent_image, sampler, *args, **kwargs)
        mask = kwargs.get("denoise_mask")
        if mask is None:
            return result
        # the way into the model's scale and back rounds, and what is protected stays as it is
        mask = comfy.sampler_helpers.prepare_mask(mask, result.shape, result.device)
        return torch.where(mask == 0, latent_image.to(result), result)

    def outer_sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        """Prepare windows, row gate and second model; take them down whatever happens."""
        if isinstance(sampler, StyleMatchingSampler):
            self.windows = by_progress(self.conds)
            self.conds = self.windows.conditionings
        self._gate = None if self.style.branch is None else RowGate(self.style.branch, STYLE)
        try:
            return super().outer_sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self.windows = self._gate = None
            if self._second is not None:
                self._second.close()
                self._second = None

    def inner_sample(self, noise, latent_image, device, sampler, sigmas, denoise_mask, *args, **kwargs):
        """As the parent's; the second model's conditionings are processed by that model."""
        if self.style.patcher is not None:
            self._second = _SecondModel(self.style.patcher, self.conds)
            self._second.open(noise, latent_image, device, denoise_mask, sigmas, kwargs)
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, denoise_mask, *args, **kwargs)

    def _single(self) -> bool:
        return math.isclose(self.cfg, 1.0) or not self.conds.get("negative")

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        """One step of an ordinary sampler: the style's prediction with ordinary guidance."""
        model_options = model_options or {}
        single = self._single() and not model_options.get("disable_cfg1_optimization", False)
        kinds = KINDS[:1] if single else KINDS
        cond, *uncond = self._style_predictions(kinds, x, timestep, model_options, progress=None)
        if single:
            return cond
        conds = {"cond": self.conds["positive"], "uncond": self.conds["negative"]}
        return comfy.samplers.cfg_function(
            self.inner_model, cond, uncond[0], self.cfg, x, timestep, model_options=model_options, **conds
        )

    def _style_predictions(self, kinds, x: Tensor, level: Tensor, model_options: dict, progress: float | None):
        if self._second is not None:
            return self._second.predict(kinds, x, level, progress)
        requests = [(Branch(STYLE, polarity), active(self.conds[key], progress)) for key, polarity in kinds]
        return predict(self.inner_model, requests, x, level, model_options, self._gate)

    def score_pair(self, x: Tensor, sigma: float, progress: float, model_options: dict):
        """Guided denoised predictions (style, base) of noised latents at one level.

        Args:
            x: (B, C, H, W) in model scale.
            sigma: noise level of the model's own parametrisation.
            progress: share of the run done, for percent windows.
        """
        self.windows.at(progress)
        kinds = KINDS[:1] if self._single() else KINDS
        base = [(Branch(BASE, polarity), active(self.conds[key], progress)) for key, polarity in kinds]
        level = x.new_full((x.shape[0],), sigma)
        if self._second is None:
            style = [(Branch(STYLE, branch.polarity), cond) for branch, cond in base]
            found = predict(self.inner_model, style + base, x, level, model_options, self._gate)
            return self._guided(found[: len(kinds)]), self._guided(found[len(kinds) :])
        found = predict(self.inner_model, base, x, level, model_options)
        return self._guided(self._style_predictions(kinds, x, level, model_options, progress)), self._guided(found)

    def _guided(self, predictions: list[Tensor]) -> Tensor:
        if len(predictions) == 1:
            return predictions[0]
        return torch.lerp(predictions[1].float(), predictions[0].float(), float(self.cfg))

    def edit_discrepancy(self, x: Tensor, sigma: float, model_options: dict) -> Tensor:
        """(B, 1, H, W): where the base answers the edit prompt and the empty prompt differently."""
        self.windows.at(0.0)
        edit = self.conds.get("edit") or self.conds["positive"]
        empty = self.conds.get("empty") or self.conds["negative"]
        requests = [(Branch(BASE, 0), active(edit, 0.0)), (Branch(BASE, 1), active(empty, 0.0))]
        return discrepancy(*predict(self.inner_model, requests, x, x.new_full((x.shape[0],), sigma), model_options))


class _SecondModel:
    """The style's own network during one run."""

    def __init__(self, patcher, conditionings: dict[str, list]):
        self.patcher = patcher
        self.raw = {key: list(map(dict, conditionings[key])) for key, _ in KINDS if key in conditionings}
        branch = attached(patcher)
        self.gate = None if branch is None else RowGate(branch, STYLE)

    def open(self, noise, latent_image, device, denoise_mask, sigmas, kwargs) -> None:
        model = self.patcher.model
        self.options = comfy.model_patcher.create_model_options_clone(self.patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, self.raw, self.options)
        comfy.samplers.cast_to_load_options(self.options, device=device, dtype=self.patcher.model_dtype())
        self.options["transformer_options"]["sample_sigmas"] = sigmas
        self.patcher.pre_run()
        if latent_image is not None and torch.count_nonzero(latent_image) > 0:
            latent_image = model.process_latent_in(latent_image)
        self.conds = comfy.samplers.process_conds(
            model, noise, self.raw, device, latent_image, denoise_mask, latent_shapes=kwargs.get("latent_shapes")
        )

    def predict(self, kinds, x: Tensor, level: Tensor, progress: float | None) -> list[Tensor]:
        requests = [(Branch(STYLE, polarity), active(self.conds[key], progress)) for key, polarity in kinds]
        return predict(self.patcher.model, requests, x, level, self.options, self.gate)

    def close(self) -> None:
        self.patcher.cleanup()


@dataclass(frozen=True, eq=False)
class StyleMatchingSampler(comfy.samplers.Sampler):
    """SMS as a SAMPLER: as many iterations as SIGMAS has steps.

    Attributes:
        strength: multiplies every step of the optimisation.
        step_size: Adam step after the warm-up, in latent units.
        spectrum: weight of the low-band hold, 1 as published, 0 off.
        color: share of it that holds the mean colour, 1 as published.
        blend: share of the latent itself in the fake score, 0 is the frozen base alone.
        relevance_floor: smallest value of the relevance map; None leaves the map off.
        t_min, t_max: share of the noise chain visited.
        start, reached: continue a stopped run from this step and latent (model scale is made here).
    """

    strength: float = 1.0
    step_size: float = 0.1
    spectrum: float = 1.0
    color: float = 1.0
    blend: float = 0.0
    relevance_floor: float | None = None
    t_min: float = 0.02
    t_max: float = 0.5
    start: int = 0
    reached: Tensor | None = None

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        """Called by the guider; returns the optimised latent in model scale."""
        if not isinstance(model_wrap, StyleMatchingGuider):
            raise StylizationError(
                "guider",
                f"the SMS sampler needs the two predictions of an SMS guider, not a {type(model_wrap).__name__}",
                "Connect the 'Stylize SMS Guider' node",
            )
        return _Run(self, model_wrap, len(sigmas) - 1, extra_args, callback, latent_image, denoise_mask).run()


class _Run:
    """One optimisation: ties the loop to a guider. Nothing of it outlives :meth:`run`."""

    def __init__(self, settings: StyleMatchingSampler, guider, steps: int, extra_args: dict, callback, source, mask):
        self.settings, self.guider, self.callback = settings, guider, callback
        self.source, self.mask = source.float(), None if mask is None else mask.float()
        self.options, self.seed = extra_args["model_options"], extra_args["seed"] or 0
        self.schedule = make_schedule(
            steps, self.seed, step_peak=settings.step_size, t_min=settings.t_min, t_max=settings.t_max
        )
        self.step, self.x = settings.start, None

    def run(self) -> Tensor:
        finished = False
        try:
            terms = Terms(
                strength=self.settings.strength * dial(self.options),
                spectrum=self.settings.spectrum,
                color=self.settings.color,
                blend=self.settings.blend,
                relevance=self._relevance(),
                mask=self.mask,
            )
            result = optimize(
                self.source,
                self.schedule,
                self._predict,
                self._add_noise,
                self.seed,
                terms,
                spread=channel_spread(self.source),
                start=self.settings.start,
                reached=self._reached(),
                on_step=self._on_step,
            )
            finished = True
            return result
        finally:
            if not finished and self.x is not None:
                save_reached(self.guider.inner_model.process_latent_out(self.x), self.step, len(self.schedule), "sms")

    def _reached(self) -> Tensor | None:
        if self.settings.reached is None:
            return None
        return self.guider.inner_model.process_latent_in(self.settings.reached.to(self.source.device))

    def _relevance(self) -> Tensor | None:
        floor = self.settings.relevance_floor
        if floor is None:
            return None
        noises = stream(self.seed, "sms.relevance")
        maps = []
        for t in RELEVANCE_TIMESTEPS:
            noise = torch.randn(self.source.shape, generator=noises).to(self.source.device)
            sigma = self._model_sigma(vp_sigma(t))
            maps.append(self.guider.edit_discrepancy(self._noised(self.source, noise, sigma), sigma, self.options))
        return robust_relevance(torch.stack(maps).float(), floor=floor)

    def _predict(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress = step / max(1, len(self.schedule) - 1)
        return self.guider.score_pair(x, self._sigma_at(step), progress, self.options)

    def _add_noise(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        return self._noised(x, noise, self._sigma_at(step))

    def _noised(self, x: Tensor, noise: Tensor, sigma: float) -> Tensor:
        sampling = self.guider.inner_model.model_sampling
        return sampling.noise_scaling(x.new_full((x.shape[0], 1, 1, 1), sigma), noise, x, False)

    def _sigma_at(self, step: int) -> float:
        return self._model_sigma(self.schedule.sigmas[step])

    def _model_sigma(self, sigma_k: float) -> float:
        """The level of the reference chain in the model's own parametrisation, matched by signal-to-noise ratio."""
        sampling = self.guider.inner_model.model_sampling
        if self.guider.style.family.flow:
            cells = self.source.shape[-1] * self.source.shape[-2]
            sigma_k = flow_sigma(sigma_k, max(1.0, math.sqrt(cells / REFERENCE_CELLS)))
        return min(max(sigma_k, float(sampling.sigma_min)), float(sampling.sigma_max))

    def _on_step(self, step: int, x: Tensor) -> None:
        self.step, self.x = step + 1, x
        total = len(self.schedule)
        if self.callback is not None and (step + 1 == total or step % max(1, total // 50) == 0):
            self.callback(step, x, x, total)


def progress_sigmas(steps: int, t_max: float, t_min: float, seed: int) -> Tensor:
    """SIGMAS of an SMS run, (steps + 1,): the narrowing upper bound of the noise level, then 0.

    They set the number of iterations and what progress-aware nodes see; levels are drawn below them.
    """
    schedule: Schedule = make_schedule(steps, seed, t_min=t_min, t_max=t_max)
    return torch.tensor([*schedule.upper_sigmas, 0.0])


def log_plan(guider: StyleMatchingGuider, steps: int, batch: int) -> None:
    """Say beforehand what a run will cost."""
    rows = 2 if math.isclose(guider.cfg, 1.0) else 4
    extra = 0 if guider.style.branch is None else guider.style.branch.nbytes / 2**20
    logging.info(
        "[Stylization] SMS: %d iterations of %d model rows; style deltas %.1f MiB beside the model",
        steps,
        rows * batch,
        extra,
    )
