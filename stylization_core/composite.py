"""What a picture keeps exactly: the original outside of styled regions, or inside protected ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import StylizationError


def reach(masks: Tensor) -> Tensor:
    """Where any of several masks (K, ...) is: 1 - prod(1 - m), so that soft ones overlap as coverings do."""
    return 1 - (1 - masks.clamp(0, 1)).prod(0)


def feathered_inwards(mask: Tensor, width: float) -> Tensor:
    """A mask whose border becomes soft on its inner side alone: 0 where ``mask`` is 0, and never above it.

    Args:
        mask: (B, H, W) in [0, 1].
        width: of the soft border in pixels; 0 returns the mask.
    """
    if width <= 0:
        return mask
    size = 2 * round(width) + 1
    # half of the window lies outside where the border is, all of it inside at a distance of ``width``
    padded = F.pad(mask[:, None], (size // 2,) * 4, mode="replicate")
    inside = F.avg_pool2d(F.avg_pool2d(padded, (1, size), stride=1), (size, 1), stride=1)[:, 0]
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
    size = 2 * radius + 1
    # a mean over no more than what was added before leaves the mask itself whole, at corners and in thin parts too
    wide = F.max_pool2d(F.max_pool2d(mask[:, None], (1, size), 1, (0, radius)), (size, 1), 1, (radius, 0))
    padded = F.pad(wide, (radius,) * 4, mode="replicate")
    soft = F.avg_pool2d(F.avg_pool2d(padded, (1, size), stride=1), (size, 1), stride=1)[:, 0]
    return torch.maximum(mask, soft)


def composite(original: Tensor, styled: Tensor, mask: Tensor) -> Tensor:
    """``styled`` where ``mask`` is 1, ``original`` bit for bit where it is 0.

    Args:
        original, styled: (B or 1, H, W, 3) of one size.
        mask: (B or 1, H, W) in [0, 1].

    Raises:
        StylizationError: other sizes, or batches that do not fit each other.
    """
    shapes = [tuple(one.shape) for one in (original, styled)]
    if shapes[0][1:3] != shapes[1][1:3]:
        sizes = [f"{shape[2]}x{shape[1]}" for shape in shapes]
        raise StylizationError("styled", f"it is {sizes[1]} pixels, original is {sizes[0]}", "Bring both to one size")
    rows = {len(one) for one in (original, styled, mask)} - {1}
    if len(rows) > 1:
        counts = f"original has {len(original)} pictures, styled {len(styled)}, the masks {len(mask)}"
        raise StylizationError("styled", counts, "Give as many of each, or one")
    return torch.where(mask[..., None] > 0, torch.lerp(original, styled, mask[..., None]), original)


def protected(original: Tensor, styled: Tensor, mask: Tensor, feather: float) -> tuple[Tensor, Tensor]:
    """``original`` bit for bit where ``mask`` is 1, ``styled`` elsewhere, with a soft border on the outer side.

    Args:
        original, styled: see :func:`composite`.
        mask: (B or 1, H, W) in [0, 1].
        feather: width of the border in pixels.

    Returns:
        The picture, and what was taken from ``styled``, (B or 1, H, W).
    """
    taken = 1 - feathered_outwards(mask.clamp(0, 1), feather)
    return composite(original, styled, taken), taken
