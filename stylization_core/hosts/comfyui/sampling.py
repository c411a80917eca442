"""Regularizer, refiner, score guidance and protected regions in the steps of an ordinary sampler.

One wrapper around the sampler reads what the nodes left on the MODEL (``settings``), builds everything the run needs,
and puts it into the run's own copy of the model options; so nothing outlives the run. SMS reads the same settings
itself and passes through here untouched.
"""

from __future__ import annotations

import logging

import comfy.model_management
import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...errors import StylizationError, naming
from ...masks import latent_mask
from ...protection import Protection
from ...relevance import live_relevance, placed
from ...sms.guidance import EditPath, added
from ...spectrum import hold_band
from .branches import BRANCHES, Branch, predict, with_wrapper
from .dial import dial
from .levels import Levels
from .percent import NoiseWindow
from .relevance_map import BASE, RelevanceSampler, ask_pair, precomputed, process
from .row_gate import RowGate
from .settings import (
    GUIDANCE,
    PROTECT_REGION,
    PROTECTION,
    REFINEMENT,
    REFINER,
    REGULARIZER,
    SCORE_GUIDANCE,
    SPECTRUM,
    ProtectedRegion,
    Refinement,
    ScoreGuidance,
    SpectrumHold,
)
from .sms import foreign_cfg_functions
from .style_guider import KINDS, STYLE, ScoreSampler, SecondModel

KEY = "stylization.sampling"
HIGHEST = 1e4
"""Stands for the infinite noise-to-signal ratio of a flow's first level."""

CFG_FUNCTIONS = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")

Placed = SpectrumHold | Refinement | ScoreGuidance | ProtectedRegion
"""Settings with a percent window."""

EMPTY = "the run starts from an empty latent, so there is no content to keep"


def acting(patcher):
    """The MODEL (a clone already) with the wrapper that makes its attached settings act in ordinary sampling."""
    if not patcher.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _around_sampler)
    return patcher


def _around_sampler(
    executor, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *others, **named
):
    """SAMPLER_SAMPLE wrapper."""
    strength = dial(extra_args["model_options"])
    rest = (callback, noise, latent_image, denoise_mask, *others)
    # these ask for predictions and take no steps
    if isinstance(executor.class_obj, (ScoreSampler, RelevanceSampler)) or strength == 0:
        return executor(model_wrap, sigmas, extra_args, *rest, **named)
    run = _Run(model_wrap, sigmas, extra_args, noise, latent_image, strength)
    try:
        run.open(denoise_mask)
        if run.parts:
            extra_args = {**extra_args, "model_options": run.options()}
        return executor(model_wrap, sigmas, extra_args, *rest, **named)
    finally:
        run.close()


class _Run:
    """What acts in one sampling run, in the order guidance, refiner, regularizer, protection."""

    def __init__(self, guider, sigmas, extra_args: dict, noise: Tensor, latent_image: Tensor | None, strength: float):
        self.guider, self.given = guider, extra_args["model_options"]
        self.seed, self.strength, self.noise = extra_args.get("seed") or 0, strength, noise
        self.latent_image, self.sigmas = latent_image, sigmas
        self.levels = Levels(guider.inner_model.model_sampling)
        self.visited = [sigma for sigma in sigmas.tolist() if sigma > 0]
        self.first = max(1, self.levels.timestep(max(self.visited, default=0.0)))
        self.parts: list = []
        self.guidance = None
        self._level: tuple[Tensor | None, float] = (None, 0.0)

    def sigma(self, level: Tensor) -> float:
        """A step's level as a number; a step asks with one tensor again and again, and waits for the device once."""
        if self._level[0] is not level:
            self._level = (level, float(level.max()))
        return self._level[1]

    def open(self, denoise_mask: Tensor | None) -> None:
        """Build what acts; :meth:`close` is due afterwards, also where this fails."""
        attached = self.guider.model_patcher.get_attachment
        guidance, refinement, spectrum, region = map(attached, (GUIDANCE, REFINEMENT, SPECTRUM, PROTECTION))
        if guidance is not None and guidance.strength != 0 and self._entered(guidance):
            with naming(SCORE_GUIDANCE):
                self.guidance = _Guidance(self, guidance)
                self.guidance.open(denoise_mask)
            self.parts.append(self.guidance)
        if refinement is not None and self._entered(refinement):
            with naming(REFINER):
                self.parts.append(_Refiner(self, refinement))
        if spectrum is not None and spectrum.hold != 0 and self._entered(spectrum):
            with naming(REGULARIZER):
                self.parts.append(_Regularizer(self, spectrum))
        if region is not None and region.strength != 0 and self._entered(region):
            with naming(PROTECT_REGION):
                self.parts.append(_Protector(self, region))

    def _entered(self, settings: Placed) -> bool:
        """Whether any level between the run's first and its last above zero lies in the settings' window."""
        return bool(self.visited) and self.window(settings).meets(min(self.visited), max(self.visited))

    def options(self) -> dict:
        """The run's model options with our functions at the end of the CFG chain."""
        options = dict(self.given)
        if self.guidance is not None and self.guidance.path is not None:
            # the estimate is the path's own: what other nodes put around guidance would be asked for in vain
            names = foreign_cfg_functions(options)
            if names:
                text = "[Stylization] guidance in mode edit replaces the guided prediction; without effect in it: %s"
                logging.warning(text, ", ".join(names))
            options = {key: value for key, value in options.items() if key not in CFG_FUNCTIONS}
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), self]
        if self.guidance is not None:
            # innermost: other wrappers see the two predictions that they expect
            options = with_wrapper(options, WrappersMP.CALC_COND_BATCH, KEY, self.guidance.beside)
        return options

    def __call__(self, args: dict) -> Tensor:
        """Post-CFG function."""
        denoised, sigma = args["denoised"], self.sigma(args["sigma"])
        for part in self.parts:
            denoised = part.act(denoised, sigma, args)
        return denoised

    def window(self, settings: Placed) -> NoiseWindow:
        return NoiseWindow(self.levels.sampling, settings.start, settings.end)

    def content(
        self, given: Tensor | None, subject: str = "content", remedy: str = "content, or sample from it"
    ) -> Tensor:
        """The latent whose content is kept, in model scale, like the run's; ``remedy`` is where else to connect it."""
        if given is not None:
            model = self.guider.inner_model
            content = model.process_latent_in(given.to(self.noise.device, torch.float32))
        elif self.latent_image is not None and torch.count_nonzero(self.latent_image):
            content = self.latent_image.float()
        else:
            raise StylizationError(subject, EMPTY, f"Connect VAE Encode of your picture to {remedy}")
        wanted = self.noise.shape
        if content.shape[1:] != wanted[1:] or content.shape[0] not in (1, wanted[0]):
            raise StylizationError(
                subject,
                f"its latent is {tuple(content.shape)}, the run's is {tuple(wanted)}",
                "Encode a picture of the size that is sampled, with the VAE of this model",
            )
        return content

    def close(self) -> None:
        """Take down a second model, and let go of the parts: they know the run, which keeps its MODEL."""
        if self.guidance is not None:
            self.guidance.close()
        self.parts, self.guidance = [], None


class _Regularizer:
    """Holds the low band of the estimate, narrower as the noise falls."""

    def __init__(self, run: _Run, settings: SpectrumHold):
        self.run, self.settings = run, settings
        self.window = run.window(settings)
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
        self.window = run.window(settings)
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


class _Protector:
    """Holds the high bands of a region, at full strength whatever the dial says above 0."""

    def __init__(self, run: _Run, settings: ProtectedRegion):
        self.window = run.window(settings)
        self.content = run.content(settings.content)
        self.protection = Protection(latent_mask(settings.mask, run.noise), settings.band, settings.strength)

    def act(self, denoised: Tensor, sigma: float, args: dict) -> Tensor:
        if not self.window.open_at(sigma):
            return denoised
        return self.protection.held(denoised.float(), self.content).to(denoised)


class _Guidance:
    """Asks for the style's prediction beside the ones of the step, and adds the score or follows it alone."""

    def __init__(self, run: _Run, settings: ScoreGuidance):
        self.run, self.settings = run, settings
        self.window = run.window(settings)
        self.path = None
        if settings.edit:
            self.path = EditPath(run.content(None, "latent_image", "latent_image of the sampler"))
        style = settings.style
        self.gate = None if style.branch is None else RowGate(style.branch, STYLE)
        self.second = None if style.patcher is None else SecondModel(style.patcher, run.guider.original_conds)
        self._found: tuple | None = None

    def open(self, denoise_mask: Tensor | None) -> None:
        """Make a second model ready."""
        if self.second is not None:
            noise, latent_image = self.run.noise, self.run.latent_image
            raw = self.run.guider.inner_model.process_latent_out(latent_image)
            self.second.open(noise, raw, noise.device, denoise_mask, self.run.sigmas, [noise.shape])

    def beside(self, executor, model, conds, x, level, options):
        """CALC_COND_BATCH wrapper: the style's row joins the batch of the step's own predictions.

        In the edit form both answers are the path's estimate, so that samplers which step along the negative one
        (CFG++) follow the path too; the negative prompt is not asked for, and nothing is outside the window.
        """
        sigma = self.run.sigma(level)
        own = options.get("transformer_options", {}).get(BRANCHES) is None and len(conds) == 2 and conds[0] is not None
        # the step's own question comes first; later ones about the same input are other nodes'
        own = own and (self._found is None or self._found[0] is not x or self._found[1] != sigma)
        inside = self.window.open_at(sigma)
        if not own or (self.path is None and not inside):
            return executor(model, conds, x, level, options)
        pair = negative = None
        if inside:
            pair, negative = self._asked(model, conds, x, level, options, executor)
        if self.path is None:
            self._found = (x, sigma, conds[0], pair)
            return [pair[1], torch.zeros_like(x) if negative is None else negative]
        estimate = self._estimate(pair, sigma).to(x)
        self._found = (x, sigma, conds[0], estimate)
        return [estimate, torch.zeros_like(x) if conds[1] is None else estimate]

    def _asked(self, model, conds, x, level, options, executor):
        """((style, base) for the positive prompt, base for the negative one where it is used)."""
        requests = [(Branch(BASE, 0), conds[0])]
        negative = self.path is None and conds[1] is not None
        if negative:
            requests.append((Branch(BASE, 1), conds[1]))
        if self.second is None:
            requests.append((Branch(STYLE, 0), conds[0]))
        base, *others = predict(model, requests, x, level, options, self.gate, executor)
        style = others[-1] if self.second is None else self.second.predict(KINDS[:1], x, level, None)[0]
        return (style, base), others[0] if negative else None

    def act(self, denoised: Tensor, sigma: float, args: dict) -> Tensor:
        found = self._found
        own = found is not None and found[0] is args["input"] and found[1] == sigma and found[2] is args["cond"]
        inside = self.window.open_at(sigma)
        if self.path is None:
            if not inside:
                return denoised
            return added(denoised, *(found[3] if own else self._pair(args)), self._strength())
        return found[3] if own else self._estimate(self._pair(args) if inside else None, sigma).to(denoised)

    def _strength(self) -> float:
        return self.settings.strength * self.run.strength

    def _estimate(self, pair: tuple[Tensor, Tensor] | None, sigma: float) -> Tensor:
        """The path's, by the score of a (style, base) pair or without one."""
        score = torch.zeros_like(self.path.z)
        if pair is not None:
            score = self._strength() * (pair[0].float() - pair[1].float())
        return self.path.denoised(score, min(self.run.levels.reference(sigma), HIGHEST))

    def _pair(self, args: dict) -> tuple[Tensor, Tensor]:
        """(style, base) for the prompt of a step whose own question was of another kind."""
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
