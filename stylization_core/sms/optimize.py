"""The SMS loop on a latent, independent of who computes the predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..protection import Protection
from ..randomness import on_device, stream
from ..relevance import MEAN_RELEVANCE
from ..spectrum import spectrum_gradient, spectrum_prox
from .adam import Adam
from .schedule import Schedule

PUBLISHED_LAMBDA = 5e-4
"""Spectrum weight of the published demos; in the units of the x0-space gradient kappa * (D_fake - D_style)."""

Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(noised latent, step) -> (denoised by the style model, denoised by the fake model), both guided, like the latent."""

AddNoise = Callable[[Tensor, Tensor, int], Tensor]
"""(latent, noise, step) -> noised latent at that step's level."""

Relevance = Callable[[Tensor, int], Tensor]
"""(noise, step) -> relevance map (B, 1, H, W) of that step, for a map that is made anew at each (published)."""


@dataclass(frozen=True)
class Terms:
    """What acts beside the score difference.

    Attributes:
        strength: multiplies every step; 0 moves nothing.
        spectrum: spectrum weight in units of the published 5e-4; 0 switches it off.
        proximal: apply the spectrum term as a proximal step after the optimiser's instead of as a gradient (published).
        color: share of that weight on DC, the mean of each channel; 1 as published, 0 lets the palette go.
        band: factor on the held band, 1 as published.
        relevance: (B or 1, 1, H, W) in [0, 1] that scales the score gradient, or a function that makes one at each
            step; None is a uniform map of the same mean.
        blend: share b of the fake score that is the latent itself, D_fake = (1 - b) D_base + b x. x is the exact
            denoiser of a distribution that is the present picture alone (b = 1 is SDS); it says how much of the style
            is there already, which the frozen base cannot, so it keeps the picture from overshooting the style.
        pull: decoupled weight decay towards the source, per unit of step size. The published optimiser decays towards
            zero (0.01), which washes out whatever gets no gradient; 0 by default.
        mask: (B or 1, 1, H, W) in [0, 1]; 0 keeps the source exactly.
        protection: a region in which each step leaves the high bands where they are.
    """

    strength: float = 1.0
    spectrum: float = 1.0
    proximal: bool = False
    color: float = 1.0
    band: float = 1.0
    blend: float = 0.0
    pull: float = 0.0
    relevance: Tensor | Relevance | None = None
    mask: Tensor | None = None
    protection: Protection | None = None


def score_gradient(style: Tensor, fake: Tensor, weight: float) -> Tensor:
    """Gradient of the style matching score at the clean latent, SMS's w_t (e_style - e_fake) in x0 space.

    With sigma-scaled noise e = (x_t - D) / sigma, so w_t (e_style - e_fake) = w_t / sigma (D_fake - D_style). The
    published code takes zero for what is not a number, which hands back the picture as it was; see :class:`NotFinite`.
    """
    return weight * (fake - style)


class NotFinite(ArithmeticError):
    """A step of an optimisation made NaN or infinite values; it was not taken, nor was any after it.

    Attributes:
        step: which.
        part: what was not finite first, one of :data:`PARTS`.
    """

    def __init__(self, step: int, part: str):
        super().__init__(f"{part} is not finite at step {step}")
        self.step, self.part = step, part


PARTS = ("the prediction with the style", "the prediction without it", "the relevance map", "the step")
"""What a step is made of, in the order in which a cause shows."""


class _Watch:
    """Notices values that are not finite, without waiting for the device at each step.

    Args:
        device: of the values.
        every: steps between two looks at what was noticed.
    """

    def __init__(self, device: torch.device, every: int):
        self.every = every
        # the first step with such a value, or -1, and its parts
        self._first = torch.full((1 + len(PARTS),), -1, device=device)

    def guard(self, step: int, x: Tensor, before: Tensor, *parts: Tensor) -> Tensor:
        """``x``, or ``before`` from the first step on that is not finite. ``parts`` are those of :data:`PARTS`."""
        finite = torch.stack([part.isfinite().all().to(x.device) for part in (*parts, x)])
        fresh = (self._first[0] < 0) & ~finite.all()
        self._first = torch.where(fresh, torch.cat([self._first.new_full((1,), step), (~finite).long()]), self._first)
        return torch.where(self._first[0] < 0, x, before)

    def look(self, step: int, last: bool) -> None:
        """Raise :class:`NotFinite` at the steps whose turn it is."""
        if last or step % self.every == 0:
            first, *found = self._first.tolist()
            if first >= 0:
                raise NotFinite(first, next(part for part, bad in zip(PARTS, found, strict=True) if bad))


def channel_spread(source: Tensor) -> Tensor:
    """Step length of each picture's channels relative to their mean, (B, C, 1, 1), in [0.4, 2.5].

    Adam moves every element by about its step size. That suits latents whose channels are alike, as those of Stable
    Diffusion, for which this is near 1. Where they differ, coarse channels hardly move while fine ones fill with
    noise; in units of the full standard deviation it is the other way round. The root of the relative standard
    deviation lies between the two.
    """
    spread = source.float().std(dim=(2, 3), keepdim=True, correction=0)
    relative = spread / spread.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
    return relative.sqrt().clamp(0.4, 2.5)


def optimize(
    source: Tensor,
    schedule: Schedule,
    predict: Predict,
    add_noise: AddNoise,
    seed: int,
    terms: Terms = Terms(),
    *,
    spread: Tensor | None = None,
    shared: bool = False,
    start: int = 0,
    resume: Tensor | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
    looks: int = 50,
) -> Tensor:
    """Minimise the style matching score of a latent (SMS, one iteration per entry of ``schedule``).

    Args:
        source: (B, C, H, W), the clean latent whose content is kept.
        predict, add_noise: the model's side, see :data:`Predict` and :data:`AddNoise`.
        seed: of the noise stream.
        spread: relative step length per channel, see :func:`channel_spread`; None takes all alike (published).
        shared: one step length per picture instead of one per element (published), see :class:`Adam`.
        start, resume: continue at this step from this latent; Adam's moments start anew.
        on_step: called after each step with its index and the latent after it, which is always finite.
        looks: how often in a run the device is waited for, to see whether all is finite; at the last step always.

    Returns:
        The optimised latent, float32.

    Raises:
        NotFinite: a step made something else than numbers; ``on_step`` has had the latent of the last good one.
    """
    source = source.float()
    x = source if resume is None else resume.float().to(source.device)
    if terms.strength == 0:
        return x
    adam, watch = Adam(source, shared=shared), _Watch(source.device, max(1, len(schedule) // looks))
    noise_stream = stream(seed, "sms.noise")
    spread = torch.ones_like(source[:, :, :1, :1]) if spread is None else spread
    for step in range(len(schedule)):
        noise = torch.randn(source.shape, generator=noise_stream, dtype=torch.float32)
        if step < start:
            continue
        noise = on_device(noise, source.device)
        style, fake = predict(add_noise(x, noise, step), step)
        fake = torch.lerp(fake.float(), x, terms.blend)
        relevance = _relevance(terms, noise, step)
        gradient = score_gradient(style.float(), fake, schedule.weights[step]) * relevance
        size = schedule.step_sizes[step] * terms.strength
        rate = terms.band * schedule.rates[step]
        weight = PUBLISHED_LAMBDA * terms.spectrum
        if weight and not terms.proximal:
            gradient = gradient + weight * spectrum_gradient(x, source, rate, color_weight=terms.color)
        # a step of size 0 leaves x as it is to the last bit: the sign of a rounding error is a full gradient
        before, x = x, x - spread * adam.step(gradient * spread, size)
        if weight and terms.proximal:
            # in the metric of the optimiser's own step, so that both forms hold alike
            threshold = size * weight * spread**2 / adam.spread.mean((2, 3), keepdim=True)
            x = spectrum_prox(x, source, rate, threshold, color_weight=terms.color)
        if terms.pull:
            x = torch.lerp(x, source, min(1.0, size * terms.pull))
        if terms.protection is not None:
            # of the step and not of all since the source, which would compound a strength below 1
            x = terms.protection.held(x, before)
        if terms.mask is not None:
            x = torch.lerp(source, x, terms.mask)
        x = watch.guard(step, x, before, style, fake, relevance if torch.is_tensor(relevance) else before)
        if on_step is not None:
            on_step(step, x)
        watch.look(step, step + 1 == len(schedule))
    return x


def _relevance(terms: Terms, noise: Tensor, step: int) -> Tensor | float:
    if terms.relevance is None:
        return MEAN_RELEVANCE
    return terms.relevance(noise, step) if callable(terms.relevance) else terms.relevance
