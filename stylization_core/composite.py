"""What a picture keeps exactly: the original outside of styled regions, or inside protected ones."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import StylizationError
from .masks import feathered_outwards


def reach(masks: Tensor) -> Tensor:
    """Where any of several masks (K, ...) is: 1 - prod(1 - m), so that soft ones overlap as coverings do."""
    return 1 - (1 - masks.clamp(0, 1)).prod(0)


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
