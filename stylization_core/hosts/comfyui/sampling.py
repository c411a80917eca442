"""Regularizer, refiner and score guidance in the steps of an ordinary sampler.

One wrapper around the sampler reads what the nodes left on the MODEL (``settings``), builds everything the run needs,
and puts it into the run's own copy of the model options; so nothing outlives the run. SMS reads the same settings
itself and passes through here untouched.
"""

from __future__ import annotations

import logging
import math

import comfy.model_management
import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...errors import StylizationError, naming
from ...masks import latent_mask
from ...relevance import live_relevance, placed
from ...sms.guidance import EditPath, added
from ...spectrum import hold_band
from .branches import BRANCHES, Branch, predict
from .dial import dial
from .levels import Levels
from .relevance_map import BASE, ask_pair, precomputed, process
from .row_gate import RowGate
from .settings import (
    GUIDANCE,
    REFINEMENT,
    REFINER,
    REGULARIZER,
    SCORE_GUIDANCE,
    SPECTRUM,
    Refinement,
    ScoreGuidance,
    SpectrumHold,
)
from .style_guider import KINDS, STYLE, ScoreSampler, SecondModel

KEY = "stylization.sampling"
HIGHEST = 1e4
"""Stands for the infinite noise-to-signal ratio of a flow's first level."""

EMPTY = "the run starts from an empty latent, so there is no content to keep"


def acting(patcher):
    """The MODEL (a clone already) with the wrapper that makes its attached settings act in ordinary sampling."""
    if not patcher.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _around_sampler)
    return patcher


def _around_sampler(executor, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *others, **named):
    """SAMPLER_SAMPLE wrapper."""
    strength = dial(extra_args["model_options"])
    if isinstance(executor.class_obj, ScoreSampler) or strength == 0:
        return executor(model_wrap, sigmas, extra_args, callback, noise, latent_image, *others, **named)
    run = _Run(model_wrap, sigmas, extra_args, noise, latent_image, strength)
    try:
        extra_args = {**extra_args, "model_options": run.options()}
        return executor(model_wrap, sigmas, extra_args, callback, noise, latent_image, *others, **named)
    finally:
        run.close()


class _Run:
    """What acts in one sampling run, in the order guidance, refiner, regularizer."""

    def __init__(self, guider, sigmas, extra_args: dict, noise: Tensor, latent_image: Tensor | None, strength: float):
        self.guider, self.given = guider, extra_args["model_options"]
        self.seed, self.strength, self.noise = extra_args.get("seed") or 0, strength, noise
        self.latent_image = latent_image
        self.levels = Levels(guider.inner_model.model_sampling)
        self.first = max(1, self.levels.timestep(float(sigmas[0])))
        attached = guider.model_patcher.get_attachment
        self.parts: list = []
        self.guidance = None
        if attached(GUIDANCE) is not None and attached(GUIDANCE).strength != 0:
            with naming(SCORE_GUIDANCE):
                self.guidance = _Guidance(self, attached(GUIDANCE), sigmas)
            self.parts.append(self.guidance)
        if attached(REFINEMENT) is not None:
            with naming(REFINER):
                self.parts.append(_Refiner(self, attached(REFINEMENT)))
        if attached(SPECTRUM) is not None and attached(SPECTRUM).hold != 0:
            with naming(REGULARIZER):
                self.parts.append(_Regularizer(self, attached(SPECTRUM)))

    def options(self) -> dict:
        """The run's model options with our functions at the end of the CFG chain."""
        options = {**self.given, "sampler_post_cfg_function": [*self.given.get("sampler_post_cfg_function", []), self]}
        if self.guidance is not None:
            transformer_options = dict(options.get("transformer_options", {}))
            wrappers = dict(transformer_options.get("wrappers", {}))
            # innermost: other wrappers see the two predictions that they expect
            others = wrappers.get(WrappersMP.CALC_COND_BATCH, {})
            wrappers[WrappersMP.CALC_COND_BATCH] = {**others, KEY: [self.guidance.beside]}
            transformer_options["wrappers"] = wrappers
            options["transformer_options"] = transformer_options
        return options

    def __call__(self, args: dict) -> Tensor:
        """Post-CFG function."""
        denoised, sigma = args["denoised"], float(args["sigma"].max())
        for part in self.parts:
            denoised = part.act(denoised, sigma, args)
        return denoised

    def window(self, start: float, end: float) -> _Window:
        return _Window(self.levels.sampling, start, end)

    def content(self, given: Tensor | None) -> Tensor:
        """The latent whose content is kept, in model scale, like the run's."""
        if given is not None:
            model = self.guider.inner_model
            content = model.process_latent_in(given.to(self.noise.device, torch.float32))
        elif self.latent_image is not None and torch.count_nonzero(self.latent_image):
            content = self.latent_image.float()
        else:
            raise StylizationError("content", EMPTY, "Connect VAE Encode of your picture to content, or sample from it")
        wanted = self.noise.shape
        if content.shape[1:] != wanted[1:] or content.shape[0] not in (1, wanted[0]):
            raise StylizationError(
                "content",
                f"its latent is {tuple(content.shape)}, the run's is {tuple(wanted)}",
                "Encode a picture of the size that is sampled, with the VAE of this model",
            )
        return content

    def close(self) -> None:
        """Take down a second model."""
        if self.guidance is not None:
            self.guidance.close()


class _Window:
    """A percent window in noise levels."""

    def __init__(self, sampling, start: float, end: float):
        self.highest = math.inf if start <= 0 else float(sampling.percent_to_sigma(start))
        self.lowest = -math.inf if end >= 1 else float(sampling.percent_to_sigma(end))

    def open_at(self, sigma: float) -> bool:
        return self.lowest <= sigma <= self.highest


class _Regularizer:
    """Holds the low band of the estimate, narrower as the noise falls."""

    def __init__(self, run: _Run, settings: SpectrumHold):
        self.run, self.settings = run, settings
        self.window = run.window(settings.start, settings.end)
        self.content = run.content(settings.content)

    def act(self, denoised: Tensor, sigma: float, args: dict) -> Tensor:
        if not self.window.open_at(sigma):
            return denoised
        rate = self.settings.band * min(1.0, self.run.levels.timestep(sigma) / self.run.first)
        share = min(1.0, self.settings.hold * self.run.strength)
        held = hold_band(
            denoised.float(),
            self.content,
            rate,
            share,
            color_weight=self.settings.color,
            proximal=self.settings.proximal,
        )
        return held.to(denoised)


class _Refiner:
    """Lets the estimate leave the content only where the map is high."""

    def __init__(self, run: _Run, settings: Refinement):
        self.run, self.settings = run, settings
        self.window = run.window(settings.start, settings.end)
        self.content = run.content(settings.content)
        self.map = None
        if settings.mask is not None:
            self.map = latent_mask(settings.mask, self.run.noise).clamp_min(settings.floor)
            return
        prompts = {"positive": settings.edit, "negative": settings.empty}
        entries = {key: comfy.sampler_helpers.convert_cond(value) for key, value in prompts.items()}
        self.conds = process(run.guider.inner_model, self.content, entries, run.seed)
        if not settings.live:
            self.map = precomputed(self.content, run.seed, run.levels, self._ask, floor=settings.floor)

    def _ask(self, x: Tensor, sigma: float) -> list[Tensor]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        model, options = self.run.guider.inner_model, self.run.given
        return ask_pair(model, self.conds["positive"], self.conds["negative"], x, sigma, options)

    def act(self, denoised: Tensor, sigma: float, args: dict) -> Tensor:
        if not self.window.open_at(sigma):
            return denoised
        relevance = self.map
        if relevance is None:
            content = self.content.expand_as(self.run.noise)
            noised = self.run.levels.noised(content, self.run.noise, sigma)
            relevance = live_relevance(*self._ask(noised, sigma), floor=self.settings.floor)
        return placed(denoised.float(), self.content, relevance, min(1.0, self.run.strength)).to(denoised)


class _Guidance:
    """Asks for the style's prediction beside the ones of the step, and adds the score or follows it alone."""

    def __init__(self, run: _Run, settings: ScoreGuidance, sigmas: Tensor):
        self.run, self.settings = run, settings
        self.window = run.window(settings.start, settings.end)
        self.path = EditPath(run.content(None)) if settings.edit else None
        style = settings.style
        self.gate = None if style.branch is None else RowGate(style.branch, STYLE)
        self.second = None
        if style.patcher is not None:
            guider = run.guider
            self.second = SecondModel(style.patcher, guider.original_conds)
            raw = guider.inner_model.process_latent_out(run.latent_image)
            self.second.open(run.noise, raw, run.noise.device, None, sigmas, [run.noise.shape])
        self._found: tuple | None = None

    def beside(self, executor, model, conds, x, level, options):
        """CALC_COND_BATCH wrapper: the style's row joins the batch of the step's own predictions.

        In the edit form the negative prediction would not be used and is not asked for.
        """
        own = options.get("transformer_options", {}).get(BRANCHES) is None and len(conds) == 2 and conds[0] is not None
        if not own or self.second is not None or not self.window.open_at(float(level.max())):
            return executor(model, conds, x, level, options)
        requests = [(Branch(BASE, 0), conds[0]), (Branch(STYLE, 0), conds[0])]
        negative = conds[1] is not None and self.path is None
        if negative:
            requests.insert(1, (Branch(BASE, 1), conds[1]))
        base, *others = predict(model, requests, x, level, options, self.gate, executor)
        self._found = (x, others[-1], base)
        if self.path is not None:
            return [base, base if conds[1] is not None else torch.zeros_like(base)]
        return [base, others[0] if negative else torch.zeros_like(base)]

    def act(self, denoised: Tensor, sigma: float, args: dict) -> Tensor:
        inside = self.window.open_at(sigma)
        strength = self.settings.strength * self.run.strength
        if self.path is None:
            return added(denoised, *self._pair(args), strength) if inside else denoised
        score = torch.zeros_like(self.path.z)
        if inside:
            style, base = self._pair(args)
            score = strength * (style.float() - base.float())
        return self.path.denoised(score, min(self.run.levels.reference(sigma), HIGHEST)).to(denoised)

    def _pair(self, args: dict) -> tuple[Tensor, Tensor]:
        """(style, base) for the step's positive prompt; asked here when the step's own call was of another kind."""
        if self._found is not None and self._found[0] is args["input"]:
            _, style, base = self._found
            self._found = None
            return style, base
        x, level = args["input"], args["sigma"]
        if self.second is not None:
            return self.second.predict(KINDS[:1], x, level, None)[0], args["cond_denoised"]
        requests = [(Branch(STYLE, 0), args["cond"])]
        return predict(args["model"], requests, x, level, self.run.given, self.gate)[0], args["cond_denoised"]

    def close(self) -> None:
        if self.second is not None:
            self.second.close()


def log_guidance(settings: ScoreGuidance) -> None:
    """Say beforehand what guidance costs."""
    rows = "2" if settings.edit else "3 (2 at CFG 1)"
    style = 0 if settings.style.branch is None else settings.style.branch.nbytes
    logging.info(
        "[Stylization] score guidance: %s model rows per picture and step; style deltas %.1f MiB beside the model",
        rows,
        style / 2**20,
    )
