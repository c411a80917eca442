"""Noise levels, weights and step sizes of one SMS run, on the reference grid of the published code.

Source: SMS (arXiv 2503.07601) and its public code: 500 DDIM sub-steps of the 1000-step Stable Diffusion chain, a range
that narrows to low noise, the DDPM posterior variance as weight, warm-up and cosine for the step size. Other model
kinds are matched by signal-to-noise ratio (:func:`flow_sigma`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..randomness import stream

SUBSTEPS = 500
PUBLISHED_STEPS = 500
WARMUP_SHARE = 0.2
COSINE_LENGTH = 1.5


@lru_cache(maxsize=1)
def _chain() -> tuple[Tensor, Tensor]:
    """(betas, cumulative alphas) of the scaled-linear chain 0.00085 .. 0.012, float64 (1000,)."""
    with torch.inference_mode(False):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return betas, torch.cumprod(1 - betas, dim=0)


def vp_sigma(t: int) -> float:
    """sigma = sqrt((1 - abar_t) / abar_t) of the reference chain, in latent units."""
    abar = float(_chain()[1][t])
    return math.sqrt((1 - abar) / abar)


def posterior_variance(t: int) -> float:
    """w_t of the published code: (1 - abar_{t-2}) / (1 - abar_t) * beta_t."""
    betas, abar = _chain()
    return float((1 - abar[t - 2]) / (1 - abar[t]) * betas[t])


def x0_weight(t: int) -> float:
    """kappa = w_t / sigma_t: the published weight when the score difference is written with denoised estimates."""
    return posterior_variance(t) / vp_sigma(t)


def flow_sigma(sigma_k: float, scale: float = 1.0) -> float:
    """Flow-matching time with the signal-to-noise ratio of ``sigma_k``; ``scale`` shifts it for large pictures."""
    return scale * sigma_k / (1 + scale * sigma_k)


@lru_cache(maxsize=1)
def _log_levels() -> list[float]:
    """Logarithms of the chain's noise levels, rising."""
    return [math.log(vp_sigma(t)) for t in range(len(_chain()[1]))]


def nearest_timestep(sigma_k: float) -> int:
    """The timestep of the reference chain whose noise level is nearest to ``sigma_k`` in ratio; 0 .. 999."""
    levels, wanted = _log_levels(), math.log(min(max(sigma_k, 1e-9), 1e9))
    above = min(bisect_left(levels, wanted), len(levels) - 1)
    return min((max(above - 1, 0), above), key=lambda t: abs(levels[t] - wanted))


def upper_substep(step: int, steps: int, t_max: float, lowest: int) -> int:
    """Exclusive upper bound of the drawn sub-step: narrows linearly from ``t_max`` of the chain, never to nothing."""
    return max(round(SUBSTEPS * t_max) * (steps - step) // steps, lowest + 1)


def lowest_timestep(t_min: float = 0.02) -> int:
    """The smallest timestep that is drawn, from a share of the chain (published 0.02: 21)."""
    return 2 * max(1, round(SUBSTEPS * t_min)) + 1


def upper_timesteps(steps: int, *, t_min: float = 0.02, t_max: float = 0.5, narrowing: bool = True) -> tuple[int, ...]:
    """The largest timestep that can be drawn at each step.

    Args:
        steps: iterations, at least 1.
        t_min, t_max: share of the noise chain visited, 0 < t_min < t_max <= 1 (published 0.02 and 0.5).
        narrowing: lower the bound linearly to ``t_min`` over the run, as published; else it stays.
    """
    if steps < 1:
        raise ValueError(f"upper_timesteps: steps must be at least 1, got {steps}")
    lowest = (lowest_timestep(t_min) - 1) // 2
    if not 0 < t_min or not lowest < round(SUBSTEPS * t_max) <= SUBSTEPS:
        raise ValueError(f"upper_timesteps: need 0 < t_min < t_max <= 1, got {t_min} and {t_max}")
    bounds = [upper_substep(i if narrowing else 0, steps, t_max, lowest) for i in range(steps)]
    return tuple(2 * (bound - 1) + 1 for bound in bounds)


def step_size(step: int, steps: int, peak: float) -> float:
    """Linear warm-up from 0 over a fifth of the run, then a cosine that would end at 1.5 times the run (published).

    One or two steps have no warm-up, so that every run moves.
    """
    warmup = round(WARMUP_SHARE * steps)
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1.0, COSINE_LENGTH * steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@dataclass(frozen=True)
class Schedule:
    """Everything drawn before the run, so that options switched later do not change it.

    Attributes:
        timesteps: train-chain timesteps, one per step.
        sigmas: matching noise levels sigma_k of the reference chain.
        rates: t / t_max, the spectrum band of each step.
        weights: kappa of each step.
        step_sizes: Adam step size of each step, in latent units.
    """

    timesteps: tuple[int, ...]
    sigmas: tuple[float, ...]
    rates: tuple[float, ...]
    weights: tuple[float, ...]
    step_sizes: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.timesteps)


def make_schedule(
    uppers: Sequence[int], seed: int, *, lowest: int = 21, step_peak: float = 0.1, drawn: bool = True
) -> Schedule:
    """Draw the noise levels of a run.

    Args:
        uppers: the largest timestep of each step, see :func:`upper_timesteps`; one step per entry.
        seed: of the timestep stream.
        lowest: the smallest timestep; a bound below it counts as this one.
        step_peak: Adam step size after the warm-up, in latent units (published 0.1).
        drawn: draw a level at or below the bound, as published; else the bounds themselves are the levels.
    """
    steps = len(uppers)
    if steps < 1:
        raise ValueError("make_schedule: needs at least one step")
    first = (lowest - 1) // 2
    bounds = [max((t + 1) // 2, first + 1) for t in uppers]
    uniform = torch.rand(steps, generator=stream(seed, "sms.timestep"), dtype=torch.float64).tolist()
    if drawn:
        timesteps = tuple(2 * (first + int(r * (bound - first))) + 1 for r, bound in zip(uniform, bounds, strict=True))
    else:
        timesteps = tuple(max(t, lowest) for t in uppers)
    largest = max(*timesteps, *(2 * bound for bound in bounds))
    return Schedule(
        timesteps=timesteps,
        sigmas=tuple(map(vp_sigma, timesteps)),
        rates=tuple(t / largest for t in timesteps),
        weights=tuple(map(x0_weight, timesteps)),
        step_sizes=tuple(step_size(i, steps, step_peak) for i in range(steps)),
    )
