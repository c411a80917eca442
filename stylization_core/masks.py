"""Masks at a latent's size."""

from __future__ import annotations

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
