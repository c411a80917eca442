"""Inversion of a picture along the probability-flow ODE, upwards in noise level.

Source: DDIM inversion as StyleAligned uses it (arXiv 2312.02133, section 3.3), in k-diffusion's variables, where it is
Euler's method ``x_next = x + (sigma_next - sigma) * d`` for models that predict noise, v or flow alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
"""(x, sigma) -> denoised estimate."""


def invert(
    x: Tensor,
    sigmas: Sequence[float],
    denoise: Denoise,
    *,
    refinements: int = 0,
    lift: Callable[[Tensor, float, float], Tensor] | None = None,
) -> Iterator[Tensor]:
    """Latents at each of the rising levels ``sigmas``, the first of which is that of ``x``.

    Args:
        x: (B, C, h, w) at ``sigmas[0]``, model scale.
        sigmas: rising; the first may be 0.
        denoise: the model.
        refinements: fixed-point iterations of each step. With 0 the slope is taken at the new level from the latent
            of the old one, as DDIM inversion does; each iteration takes it anew from the latent it led to, and in the
            limit Euler's method downwards retraces the steps exactly. One model call each, and one more per step.
        lift: (x, sigma, sigma_next) -> what the model is first asked about at the new level; ``x`` itself by default,
            see :func:`lift_vp`.

    Yields:
        One latent per level, the first being ``x``.
    """
    yield x
    for low, high in zip(sigmas[:-1], sigmas[1:], strict=True):
        found = x if lift is None else lift(x, low, high)
        for _ in range(1 + refinements):
            found = x + (high - low) * (found - denoise(found, high)) / high
        x = found
        yield x


def lift_vp(x: Tensor, low: float, high: float) -> Tensor:
    """Rescaled to the variance of the new level, so that the network's input is that of the old one, as in DDIM."""
    return x * math.sqrt((high**2 + 1) / (low**2 + 1))
