"""Regularizer, refiner and protector in the steps of an ordinary sampler."""

from __future__ import annotations

import comfy.model_management
import comfy.sampler_helpers
from torch import Tensor

from ....errors import naming
from ....masks import latent_mask
from ....protection import Protection
from ....relevance import live_relevance, obeyed
from ....spectrum import hold_band
from ..model import process
from ..sms import ProtectedRegion, Refinement, SpectrumHold, ask_pair, precomputed
from .context import FiniteSoFar, SamplingContext


class Regularizer:
    """Holds the low band of the estimate, narrower as the noise falls."""

    def __init__(self, run: SamplingContext, settings: SpectrumHold):
        self.run, self.settings = run, settings
        self.window = run.window(settings)
        self.content = run.content(settings.content)

    def act(self, denoised: Tensor, sigma: float) -> Tensor:
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


class Refiner:
    """Lets the estimate leave the content only where the map is high."""

    def __init__(self, run: SamplingContext, settings: Refinement):
        self.run, self.settings = run, settings
        self.window = run.window(settings)
        self.content = run.content(settings.content)
        self.finite = FiniteSoFar()
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
        model, options = self.run.guider.inner_model, self.run.model_options
        # no node is at work during a step: an error there has to bring the name of the one it is about
        with naming(self.settings.node):
            answers = ask_pair(model, self.conds["positive"], self.conds["negative"], x, sigma, options)
        self.finite.note(*answers)
        return answers

    def act(self, denoised: Tensor, sigma: float) -> Tensor:
        if not self.window.open_at(sigma):
            return denoised
        relevance = self.map
        if relevance is None:
            content = self.content.expand_as(self.run.noise)
            noised = self.run.levels.noised(content, self.run.map_noise, sigma)
            relevance = live_relevance(*self._ask(noised, sigma), floor=self.settings.floor)
        return obeyed(denoised.float(), self.content, relevance, min(1.0, self.run.strength)).to(denoised)

    def check(self) -> None:
        """After the run.

        Raises:
            StylizationError: a live map was made from answers that are not finite.
        """
        with naming(self.settings.node):
            self.finite.check("edit and empty", "the model's answers to them")


class Protector:
    """Holds the high bands of a region, at full strength whatever the dial says above 0."""

    def __init__(self, run: SamplingContext, settings: ProtectedRegion):
        self.window = run.window(settings)
        self.content = run.content(settings.content)
        self.protection = Protection(latent_mask(settings.mask, run.noise), settings.band, settings.strength)

    def act(self, denoised: Tensor, sigma: float) -> Tensor:
        if not self.window.open_at(sigma):
            return denoised
        return self.protection.held(denoised.float(), self.content).to(denoised)
