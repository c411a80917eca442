"""Where a prompt change acts: the relevance map of SMS's Semantic-Aware Gradient Refinement.

Source: SMS (arXiv 2503.07601), "Semantic-Aware Gradient Refinement": the discrepancy of the base model's predictions
for an edit prompt and the empty prompt on the noised source. Published is one map per iteration from one noise, with
min-max scaling; here maps of several noise levels are averaged first and scaled by percentiles, so that one outlier
cell does not set the scale and nothing has to be computed during the optimisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .masks import gaussian_blur

MEAN_RELEVANCE = 0.21
"""Mean of a published (min-max scaled) map on an unstructured field; the uniform map that replaces it when off."""


def discrepancy(edited: Tensor, empty: Tensor) -> Tensor:
    """|channel mean of (edited - empty)|, mean before modulus as published. (B, C, H, W) -> (B, 1, H, W)."""
    return (edited - empty).mean(dim=1, keepdim=True).abs()


def minmax(field: Tensor) -> Tensor:
    """Scale each map to [0, 1] as published; a flat map becomes all ones, one that is not finite NaN.

    (B, 1, H, W) -> same.
    """
    low = field.amin(dim=(1, 2, 3), keepdim=True)
    span = field.amax(dim=(1, 2, 3), keepdim=True) - low
    scaled = (field - low) / span.clamp_min(torch.finfo(field.dtype).tiny)
    return torch.where(span == 0, torch.ones_like(field), scaled)


def live_relevance(edited: Tensor, empty: Tensor, *, floor: float = 0.0) -> Tensor:
    """The published map of one iteration: min-max scaled discrepancy, lifted to ``floor``. -> (B, 1, H, W)."""
    return floor + (1 - floor) * minmax(discrepancy(edited, empty))


def obeyed(denoised: Tensor, content: Tensor, relevance: Tensor, share: float = 1.0) -> Tensor:
    """A denoised estimate that leaves the content only where the map is high, for a step of an ordinary sampler.

    Args:
        denoised, content: (B, C, H, W).
        relevance: (B or 1, 1, H, W) in [0, 1].
        share: 0 returns ``denoised``, 1 obeys the map.
    """
    if share == 0:
        return denoised
    return torch.lerp(content.expand_as(denoised), denoised, (1 - share * (1 - relevance)).to(denoised))


def robust_relevance(maps: Tensor, *, floor: float = 0.1, percentile: float = 2.0, blur: float = 0.7) -> Tensor:
    """Average K discrepancy maps into one relevance map.

    Args:
        maps: (K, B, 1, H, W), non-negative.
        floor: smallest value, so that no region is frozen by accident; in [0, 1].
        percentile: both tails clipped, in percent.
        blur: Gaussian standard deviation in latent cells.

    Returns:
        (B, 1, H, W) in [floor, 1]; all ones where the map is flat.
    """
    if maps.ndim != 5 or maps.shape[2] != 1:
        raise ValueError(f"robust_relevance: maps must be (K, B, 1, H, W), got {tuple(maps.shape)}")
    # each level contributes its shape, not its scale: high noise levels have far larger discrepancies
    scale = maps.mean(dim=(2, 3, 4), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    field = gaussian_blur((maps / scale).mean(dim=0), blur)
    flat = field.flatten(1)
    tails = torch.tensor([percentile / 100, 1 - percentile / 100], device=field.device, dtype=field.dtype)
    low, high = (q.view(-1, 1, 1, 1) for q in torch.quantile(flat, tails, dim=1))
    relevance = minmax(torch.maximum(torch.minimum(field, high), low))
    return floor + (1 - floor) * relevance
