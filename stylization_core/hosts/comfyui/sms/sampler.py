"""Style Matching Score as a SAMPLER: the optimisation runs where an ordinary sampler would step."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import comfy.model_management
from torch import Tensor

from ....errors import StylizationError, naming
from ....finite import check_finite
from ....masks import latent_mask
from ....protection import Protection
from ....relevance import live_relevance
from ....sms.optimize import NotFinite, Terms, channel_spread, optimize
from ....sms.schedule import lowest_timestep, make_schedule
from ..model import Levels, dial, foreign_cfg_functions
from .guider import ScoreSampler, StyleMatchingGuider
from .relevance_map import precomputed
from .settings import PROTECTION, REFINEMENT, SPECTRUM, Refinement, SpectrumHold
from .stopped_runs import save_stopped

LOOKS = 50
"""Previews of a run, and looks at whether it is finite still; for either the device is waited for."""

PRECISION = "run ComfyUI with --force-fp32 or --bf16-unet if half precision is the cause"
CAUSES = {
    "the prediction with the style": (
        "style",
        f"Lower the strength of the style's LoRA or cfg, look for damaged weights in the LoRA, or {PRECISION}",
    ),
    "the prediction without it": (
        "model",
        f"Look at the prompts, at ControlNets and other nodes on model, and at its weights, lower cfg, or {PRECISION}",
    ),
    "the relevance map": ("edit and empty prompts", f"Look at the prompts of the map, or {PRECISION}"),
    "the step": ("step_size", "Lower step_size or strength"),
}
"""What to look at for each of ``sms.optimize.PARTS``: (input, what to do). The style comes by either MODEL input."""


@dataclass(frozen=True, eq=False)
class StyleMatchingSampler(ScoreSampler):
    """SMS as a SAMPLER: as many iterations as SIGMAS has steps.

    SIGMAS are upper bounds: each iteration draws its level between theirs and the last entry (the published 0.02 of
    the chain where that is 0). A spectrum regularizer and a semantic refiner on the MODEL go before the two fields
    of that kind here.

    Attributes:
        strength: multiplies every step of the optimisation.
        step_size: Adam step after the warm-up, in latent units.
        pull: decay towards the input, see :class:`Terms`.
        shared: one step length per picture instead of one per element (published).
        drawn: draw levels below SIGMAS, as published; else take SIGMAS themselves as levels.
        spectrum: hold on the low band, or None.
        refinement: relevance map, or None. Without a mask its prompts come from the guider.
        start, resume: continue a stopped run from this step and latent (as a VAE gives it).
    """

    strength: float = 1.0
    step_size: float = 0.1
    pull: float = 0.0
    shared: bool = False
    drawn: bool = True
    spectrum: SpectrumHold | None = None
    refinement: Refinement | None = None
    start: int = 0
    resume: Tensor | None = None

    def idle(self, model_options: dict) -> bool:
        """Strength 0, here or on the dial."""
        return self.strength * dial(model_options) == 0

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
        return _Run(self, model_wrap, sigmas, extra_args, callback, latent_image, denoise_mask).run()


class _Run:
    """One optimisation: ties the loop to a guider. Nothing of it outlives :meth:`run`."""

    def __init__(self, settings: StyleMatchingSampler, guider, sigmas, extra_args: dict, callback, source, mask):
        self.settings, self.guider, self.callback = settings, guider, callback
        self.source, self.mask = source.float(), None if mask is None else mask.float()
        self.options, self.seed = extra_args["model_options"], extra_args["seed"] or 0
        self.levels = Levels(guider.inner_model.model_sampling)
        *bounds, last = sigmas.tolist()
        uppers = [self.levels.timestep(sigma) for sigma in bounds]
        self.highest = max(uppers)
        self.lowest = max(lowest_timestep(0.0), self.levels.timestep(last)) if last > 0 else lowest_timestep()
        self.given = None if settings.drawn else bounds
        self.schedule = make_schedule(
            uppers, self.seed, lowest=self.lowest, step_peak=settings.step_size, drawn=settings.drawn
        )
        self.step, self.x = settings.start, None

    def run(self) -> Tensor:
        finished = False
        self._name_ignored()
        check_finite(self.source, "latent_image", "Look at the picture and the VAE that encoded it")
        try:
            result = optimize(
                self.source,
                self.schedule,
                self._predict,
                self._add_noise,
                self.seed,
                self._terms(),
                # one length for all keeps the channels' own proportions; one per element needs them put back
                spread=None if self.settings.shared else channel_spread(self.source),
                shared=self.settings.shared,
                start=self.settings.start,
                resume=self._resumed(),
                on_step=self._on_step,
                looks=LOOKS,
            )
            finished = True
            return result
        except NotFinite as stop:
            self.step = stop.step
            raise self._not_finite(stop) from None
        finally:
            if not finished and self.x is not None and self.step > self.settings.start:
                save_stopped(self.guider.inner_model.process_latent_out(self.x), self.step, len(self.schedule), "sms")

    def _not_finite(self, stop: NotFinite) -> StylizationError:
        """Names the step, the input and what is likely to have made it."""
        subject, cause = CAUSES[stop.part]
        if subject == "style":
            subject = "model" if self.guider.style.patcher is None else "style_model"
        sigma = f"{self._sigma_at(stop.step):.3g}"
        found = f"{stop.part} is NaN or infinite at step {stop.step + 1} of {len(self.schedule)} (sigma {sigma})"
        kept = "" if stop.step <= self.settings.start else "What was there before that step is saved. "
        return StylizationError(subject, found, f"{kept}{cause}")

    def _attached(self, key: str, own):
        attached = self.guider.model_patcher.get_attachment(key)
        return own if attached is None else attached

    def _terms(self) -> Terms:
        strength = dial(self.options)
        spectrum = self._attached(SPECTRUM, self.settings.spectrum) or SpectrumHold(weight=0.0)
        return Terms(
            strength=self.settings.strength * strength,
            spectrum=spectrum.weight,
            proximal=spectrum.proximal,
            color=spectrum.color,
            band=spectrum.band,
            blend=self.guider.fake.blend,
            pull=self.settings.pull,
            relevance=self._relevance(self._attached(REFINEMENT, self.settings.refinement)),
            mask=self.mask,
            protection=self._protection(),
        )

    def _protection(self) -> Protection | None:
        region = self._attached(PROTECTION, None)
        if region is None or region.strength == 0:
            return None
        with naming(region.node):
            return Protection(latent_mask(region.mask, self.source), region.band, region.strength)

    def _resumed(self) -> Tensor | None:
        latent, start, steps = self.settings.resume, self.settings.start, len(self.schedule)
        if latent is None:
            return None
        if latent.shape != self.source.shape:
            raise StylizationError(
                "resume_latent",
                f"it is {tuple(latent.shape)}, the run's latent is {tuple(self.source.shape)}",
                "Connect the latent that the interrupted run of this picture saved",
            )
        if start >= steps:
            raise StylizationError("resume_step", f"it is {start} of {steps} steps", "Nothing is left to do")
        return self.guider.inner_model.process_latent_in(latent.to(self.source.device))

    def _relevance(self, refinement: Refinement | None):
        if refinement is None:
            return None
        if refinement.mask is not None:
            with naming(refinement.node):
                return latent_mask(refinement.mask, self.source).clamp_min(refinement.floor)
        if refinement.live:
            return lambda noise, step: live_relevance(
                *self._edit_pair(self._add_noise(self.source, noise, step), self._sigma_at(step)),
                floor=refinement.floor,
            )
        return precomputed(self.source, self.seed, self.levels, self._edit_pair, floor=refinement.floor)

    def _edit_pair(self, x: Tensor, sigma: float) -> list[Tensor]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self.guider.edit_pair(x, sigma, self.options)

    def _progress(self, step: int) -> float:
        return step / max(1, len(self.schedule) - 1)

    def _predict(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self.guider.score_pair(x, self._sigma_at(step), self._progress(step), self.options)

    def _add_noise(self, x: Tensor, noise: Tensor, step: int) -> Tensor:
        return self.levels.noised(x, noise, self._sigma_at(step))

    def _sigma_at(self, step: int) -> float:
        if self.given is not None:
            return max(self.given[step], self.levels.model(0.0))
        return self.levels.model(self.schedule.sigmas[step])

    def _on_step(self, step: int, x: Tensor) -> None:
        self.step, self.x = step + 1, x
        self.guider.fit_fake(x, self.levels, self.lowest, self.highest, self._progress(step), self.options)
        total = len(self.schedule)
        if self.callback is not None and (step + 1 == total or step % max(1, total // LOOKS) == 0):
            self.callback(step, x, x, total)

    def _name_ignored(self) -> None:
        """Say which CFG functions of other nodes do not act here: SMS asks for predictions, not for sampling steps."""
        names = foreign_cfg_functions(self.options)
        if names:
            logging.warning(
                "[Stylization] SMS asks the model for predictions and combines them itself; these CFG functions of "
                "other nodes on the MODEL have no effect in it: %s",
                ", ".join(names),
            )
