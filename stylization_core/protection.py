"""A region whose form stays: its high bands are held at those of the content, while tone and colour may go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .spectrum import dct2, idct2, low_band


def held_high_band(denoised: Tensor, content: Tensor, mask: Tensor, band: float, strength: float = 1.0) -> Tensor:
    """Give an estimate the content's high bands inside a mask.

    The bands are those of the difference *inside* the mask alone: outside it is taken for its mean inside. So nothing
    that happens outside rings into the region, and a difference of tone as a whole is low in any band above 0.

    Args:
        denoised: estimate (B, C, H, W), finite.
        content: (B or 1, C, H, W).
        mask: (B or 1, 1, H, W) in [0, 1]; cells of 0 come back bit for bit.
        band: share of the spectrum left free, from the low end, as :func:`low_band` counts it; 0 holds all bands.
        strength: in [0, 1]; 0 returns ``denoised``, 1 gives the content's bands where the mask is 1.

    Returns:
        Tensor like ``denoised``.
    """
    if strength == 0:
        return denoised
    if band == 0:
        return torch.lerp(denoised, content.expand_as(denoised), (strength * mask).to(denoised))
    inside = mask > 0
    difference = torch.where(inside, content - denoised, 0.0)
    mean = difference.sum((-2, -1), keepdim=True) / inside.sum((-2, -1), keepdim=True).clamp_min(1)
    difference = torch.where(inside, difference - mean, 0.0)
    free = low_band(*denoised.shape[-2:], band, device=denoised.device)
    high = idct2(dct2(difference) * ~free)
    return denoised + (strength * mask).to(denoised) * high


@dataclass(frozen=True, eq=False)
class Protection:
    """A protected region of latents.

    Attributes:
        mask: (B or 1, 1, H, W) in [0, 1].
        band, strength: see :func:`held_high_band`.
    """

    mask: Tensor
    band: float = 0.0
    strength: float = 1.0

    def held(self, x: Tensor, content: Tensor) -> Tensor:
        """``x`` with the content's high bands in the region."""
        return held_high_band(x, content, self.mask, self.band, self.strength)
