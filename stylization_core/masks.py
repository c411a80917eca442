"""Masks: at a latent's size and on token grids; blur, dilation and soft borders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import StylizationError


def latent_mask(mask: Tensor | None, samples: Tensor, ratio: int = 8, subject: str = "mask") -> Tensor | None:
    """A MASK at the latent's size by area average.

    Args:
        mask: (B, H, W) or (H, W) in [0, 1], of any size with the picture's aspect.
        samples: (B, C, h, w).
        ratio: pixels per latent cell, for the message.

    Returns:
        (B or 1, 1, h, w) on the samples' device, or None for no mask.

    Raises:
        StylizationError: another aspect than the latent, a batch that fits neither 1 nor the latent's, NaN or infinite
            values.
    """
    if mask is None:
        return None
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    height, width = samples.shape[-2:]
    if abs(mask.shape[-2] * width - mask.shape[-1] * height) > max(mask.shape[-2:]) + max(height, width):
        raise StylizationError(
            subject,
            f"it is {mask.shape[-1]}x{mask.shape[-2]} pixels, the picture about {width * ratio}x{height * ratio}",
            "Draw the mask on the same picture, or resize it to the same aspect",
        )
    if mask.shape[0] not in (1, samples.shape[0]):
        raise StylizationError(
            subject,
            f"it has {mask.shape[0]} entries for {samples.shape[0]} pictures",
            "Use one mask, or one per picture",
        )
    broken = int((~mask.isfinite()).sum())
    if broken:
        raise StylizationError(
            subject, f"{broken} of its {mask.numel()} values are NaN or infinite", "Look at the node that made it"
        )
    return F.adaptive_avg_pool2d(mask, (height, width)).clamp(0, 1).to(samples.device)


def on_grid(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, K, h, w) of masks (B, K, H, W) on a token grid, by area average, where the masks lie."""
    return F.adaptive_avg_pool2d(mask.clamp(0, 1), tuple(grid))


def gaussian_blur(field: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of standard deviation ``sigma`` cells with replicated borders. (B, C, H, W) -> same."""
    if sigma <= 0:
        return field
    radius = max(1, math.ceil(3 * sigma))
    x = torch.arange(-radius, radius + 1, device=field.device, dtype=field.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = field.shape[1]
    padded = F.pad(field, (radius, radius, radius, radius), mode="replicate")
    padded = F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def box_mean(mask: Tensor, size: int) -> Tensor:
    """Mean over windows of an odd ``size`` with replicated borders. (B, H, W) -> same."""
    padded = F.pad(mask[:, None], (size // 2,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (1, size), stride=1), (size, 1), stride=1)[:, 0]


def dilated(mask: Tensor, radius: int) -> Tensor:
    """The largest value within ``radius`` pixels along each axis. (B, H, W) -> same."""
    size = 2 * radius + 1
    return F.max_pool2d(F.max_pool2d(mask[:, None], (1, size), 1, (0, radius)), (size, 1), 1, (radius, 0))[:, 0]


def feathered_inwards(mask: Tensor, width: float) -> Tensor:
    """A mask whose border becomes soft on its inner side alone: 0 where ``mask`` is 0, and never above it.

    Args:
        mask: (B, H, W) in [0, 1].
        width: of the soft border in pixels; 0 returns the mask.
    """
    if width <= 0:
        return mask
    # half of the window lies outside where the border is, all of it inside at a distance of ``width``
    inside = box_mean(mask, 2 * round(width) + 1)
    return torch.minimum(mask, (2 * inside - 1).clamp(0, 1))


def feathered_outwards(mask: Tensor, width: float) -> Tensor:
    """A mask with a soft border around it: 1 where ``mask`` is 1, and nowhere below it.

    Args:
        mask: (B, H, W) in [0, 1].
        width: of the soft border in pixels; 0 returns the mask, anything else softens two at least.
    """
    if width <= 0:
        return mask
    radius = max(1, int(width / 2))
    # a mean over no more than what was added before leaves the mask itself whole, at corners and in thin parts too
    return torch.maximum(mask, box_mean(dilated(mask, radius), 2 * radius + 1))
