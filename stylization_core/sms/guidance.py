"""The style score in the steps of an ordinary sampler, on denoised estimates.

Two forms. *Added*: ``D + strength * (D_style - D_base)``, a guidance term beside classifier-free guidance. *Edit*: the
sampler is led along the path that starts at the picture itself and follows the score alone,

    dz = (D_style(x) - D_base(x)) |d sigma| / sigma,    x = z + sigma * noise,

which is the score's gradient flow with the noise level as time, cut into the sampler's own steps. An Euler step from
``x = z + sigma * noise`` with the estimate ``z + (D_style - D_base)`` is exactly such a step (and for flow models too,
with sigma / (1 - sigma) as the level). Base and style see the same input, so whatever the base would change by itself
cancels, and content stays without a hold.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def added(denoised: Tensor, style: Tensor, base: Tensor, strength: Tensor | float) -> Tensor:
    """The added form; all (B, C, H, W), ``strength`` a number or a map."""
    return denoised + (strength * (style - base)).to(denoised)


class EditPath:
    """The edited picture z along a run with falling noise levels.

    Args:
        content: (B, C, H, W), where the path starts.
    """

    def __init__(self, content: Tensor):
        self.z = content
        self._sigma: float | None = None
        self._score: Tensor | None = None

    def denoised(self, score: Tensor, sigma: float, hold: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The estimate to hand to the sampler at a level.

        Args:
            score: strength * (D_style - D_base) at this level, (B, C, H, W).
            sigma: noise-to-signal ratio of the level (for flow models sigma / (1 - sigma)); a call at the same or a
                higher one than the last (a second-order sampler's correction) stays where the path is.
            hold: what else changes the estimate before the sampler gets it. The path goes on towards the estimate that
                the sampler gets, so what is held at one level is not lost at the next.
        """
        if self._sigma is None:
            self._sigma = sigma
        elif sigma < self._sigma:
            self.z = self.z + self._score * ((self._sigma - sigma) / self._sigma)
            self._sigma = sigma
        estimate = self.z + score
        if hold is None:
            self._score = score
            return estimate
        estimate = hold(estimate)
        self._score = estimate - self.z
        return estimate
