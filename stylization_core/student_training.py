"""What a student learns from: finished stylizations of its pictures (targets), and the style score itself.

Source: the score is SMS's (arXiv 2503.07601) with its spectrum regularizer and relevance map, driven through an
encoder as the paper's feed-forward form does; targets by difference, the shift term and the guards are this pack's.
Draws depend on seed and step alone, so that a training that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .sms.optimize import PUBLISHED_LAMBDA, score_gradient
from .spectrum import spectrum_gradient

SCALES = (0.5, 2.0)
"""Range of the factor by which a part of a picture is resized, drawn evenly in its logarithm."""

SHIFT = 7
"""Largest shift of the shift term in pixels."""

OUT_OF_RANGE = 0.1
"""Weight of the mean amount by which values leave [0, 1]."""

TARGET_SHARE, LAST_TARGETS = 0.7, 0.2
"""Of "targets then score": the share of the steps on targets alone, and their weight at the end."""

SCORE_RATE = 0.1
"""Factor on the learning rate where only the score leads: at the full rate it ran away to one colour."""

WARMUP = 50
LAST_RATE = 0.02


def difference_target(styled: Tensor, plain: Tensor, photo: Tensor) -> Tensor:
    """``photo + styled - plain``, not clipped: the change that a teacher made, on the photograph's own pixels.

    Args:
        styled, plain: decoded results of the teacher and of the photograph's own latent, (B, 3, H, W). What the VAE
            loses is in both, so it cancels to first order, and the photograph's grain stays.
        photo: (B, 3, H, W).
    """
    return photo + styled - plain


def target_loss(found: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of values and of their horizontal and vertical slopes; ()."""
    difference = found - target
    slopes = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return difference.abs().mean() + slopes


def range_loss(found: Tensor) -> Tensor:
    """Mean amount by which values leave [0, 1]; ()."""
    return (found - found.clamp(0, 1)).abs().mean()


def shift_loss(residual: Callable[[Tensor], Tensor], x: Tensor, draws: torch.Generator) -> Tensor:
    """Mean difference of the change of a shifted picture from the shifted change: what flickers in a video; ().

    The network works on blocks of pixels, so that nothing but training makes it follow shifts below a block.

    Args:
        residual: pictures to their change.
        x: (B, 3, H, W), sides above the shift.
        draws: of the shift, 1 to 7 pixels along each axis, and of a noise of 1/255.
    """
    right, down = (int(torch.randint(1, SHIFT + 1, (), generator=draws)) for _ in range(2))
    noise = (torch.randn(x.shape, generator=draws) / 255).to(x)
    here = residual(x)[..., down:, right:]
    shifted = residual((x + noise)[..., down:, right:])
    return (here - shifted).abs().mean()


def crops(pictures: Sequence[Tensor], side: int, rows: int, draws: torch.Generator) -> Tensor:
    """Parts of pictures at scales 0.5 to 2, mirrored or not, pictures without repetition as long as they last.

    Args:
        pictures: (C, H, W) each; channels beyond a photograph's (its target, its map) are cut along.
        side: of a part in pixels.

    Returns:
        (rows, C, side, side).
    """
    order: list[int] = []
    while len(order) < rows:
        order += torch.randperm(len(pictures), generator=draws).tolist()
    parts = []
    low, high = map(math.log, SCALES)
    for index in order[:rows]:
        picture = pictures[index]
        height, width = picture.shape[-2:]
        scale = math.exp(low + (high - low) * float(torch.rand((), generator=draws)))
        cut = min(max(1, round(side / scale)), height, width)
        top = int(torch.randint(0, height - cut + 1, (), generator=draws))
        left = int(torch.randint(0, width - cut + 1, (), generator=draws))
        part = picture[None, :, top : top + cut, left : left + cut]
        if cut != side:
            part = F.interpolate(part, (side, side), mode="bilinear", antialias=cut > side, align_corners=False)
        if bool(torch.rand((), generator=draws) < 0.5):
            part = part.flip(-1)
        parts.append(part)
    return torch.cat(parts)


def score_gradient_of(
    z: Tensor,
    source: Tensor,
    style: Tensor,
    fake: Tensor,
    *,
    weights: Sequence[float],
    rates: Sequence[float],
    blend: float = 0.0,
    relevance: Tensor | float = 1.0,
    spectrum: float = 1.0,
) -> Tensor:
    """SMS's gradient at latents, without autograd: ``kappa rel (D_F - D_S) + lambda IDCT(M sign DCT(z - z_s))``.

    Args:
        z: (B, C, h, w), encoded results of the student, and ``source`` of its inputs.
        style, fake: denoised predictions at each row's level, (B, C, h, w).
        weights: kappa of each row.
        rates: t / t_max of each row, the spectrum's band.
        blend: share of the fake score that is the latent itself, see :class:`~.sms.optimize.Terms`.
        relevance: (B, 1, h, w) or a number.
        spectrum: weight in units of the published one.

    Returns:
        (B, C, h, w), float32.
    """
    z, source = z.detach().float(), source.float()
    fake = torch.lerp(fake.float(), z, blend)
    kappa = torch.tensor(list(weights), device=z.device, dtype=z.dtype).reshape(-1, 1, 1, 1)
    gradient = score_gradient(style.float(), fake, kappa) * relevance
    if spectrum:
        held = [spectrum_gradient(a, b, rate) for a, b, rate in zip(z, source, rates, strict=True)]
        gradient = gradient + PUBLISHED_LAMBDA * spectrum * torch.stack(held)
    return gradient


def score_loss(gradient: Tensor, z: Tensor, scale: float) -> Tensor:
    """``<gradient / scale, z> / numel``: its gradient by ``z`` is the score's, and none passes through the model."""
    return (gradient.detach() / scale * z).sum() / z.numel()


class RunningScale:
    """A running root mean square by which score gradients are divided, one number for all pictures.

    One per picture would make a picture that has the style already count as much as one that has none. After the
    warm-up it never falls below a quarter of what it was then: levels narrow over a training, and dividing by ever
    less raised the step until the student ran away.
    """

    def __init__(self, decay: float = 0.98, value: float = 0.0, floor: float = 0.0, count: int = 0):
        self.decay, self.value, self.floor, self.count = decay, value, floor, count

    def update(self, gradient: Tensor) -> float:
        """The scale after one more gradient."""
        rms = float(gradient.float().square().mean().sqrt())
        if not math.isfinite(rms):
            # a broken gradient is skipped by the optimiser and must not stay in the mean
            return max(self.value, self.floor, 1e-12)
        self.value = rms if self.count == 0 else self.decay * self.value + (1 - self.decay) * rms
        self.count += 1
        if self.count == WARMUP:
            self.floor = self.value / 4
        return max(self.value, self.floor, 1e-12)


@dataclass(frozen=True)
class Objective:
    """Which terms lead when.

    Attributes:
        name: as the node offers it.
        targets, score: which of the two it uses.
    """

    name: str
    targets: bool
    score: bool

    def share(self, step: int, steps: int) -> float:
        """Weight of the targets at a step; the score has the rest."""
        if not self.score:
            return 1.0
        if not self.targets:
            return 0.0
        progress = step / max(1, steps - 1)
        if progress <= TARGET_SHARE:
            return 1.0
        return 1.0 - (1.0 - LAST_TARGETS) * (progress - TARGET_SHARE) / (1 - TARGET_SHARE)

    def learning_rate(self, step: int, steps: int, peak: float) -> float:
        """Warm-up over 50 steps, then a cosine down to 2 %; a tenth of it where the score alone leads."""
        peak = peak if self.targets else peak * SCORE_RATE
        if step < WARMUP:
            return peak * (step + 1) / WARMUP
        progress = (step - WARMUP) / max(1, steps - 1 - WARMUP)
        return peak * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


BOTH = Objective("targets then score", targets=True, score=True)
TARGETS = Objective("targets", targets=True, score=False)
SCORE = Objective("score (published)", targets=False, score=True)
OBJECTIVES = {one.name: one for one in (BOTH, TARGETS, SCORE)}


LATENT_RANGE = 3.0
LEAST_VARIANCE = 0.1


def collapse(found: Tensor, photo: Tensor, z: Tensor | None = None, source: Tensor | None = None) -> str | None:
    """Why a batch of results has run away, in words, or None.

    Args:
        found, photo: results and inputs of the student, (B, 3, H, W).
        z, source: their latents, (B, C, h, w), where the score is used.
    """
    if not bool(found.isfinite().all()):
        return "its pictures are not finite"
    if float(found.detach().float().var()) < LEAST_VARIANCE * float(photo.float().var()):
        return "its pictures have lost nearly all contrast"
    if z is None or source is None:
        return None
    now, before = (one.detach().float().transpose(0, 1).flatten(1) for one in (z, source))
    spread = before.std(-1, correction=0).clamp_min(1e-6)
    if bool(((now.mean(-1) - before.mean(-1)).abs() > LATENT_RANGE * spread).any()):
        return "the mean of a latent channel has left the range of the photographs"
    if bool((now.std(-1, correction=0) > LATENT_RANGE * spread).any()):
        return "a latent channel varies more than three times as much as the photographs'"
    return None
