"""The photograph's own detail under a stylization: what a model changed, added to the pixels that it never saw."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import StylizationError


def restored(photo: Tensor, before: Tensor, after: Tensor, strength: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """``photo + strength * (after - before)``: what the VAE loses of a picture is in both decodes, so it cancels.

    It is for results whose layout stayed. Where things moved, the photograph's edges and the result's both show.

    Args:
        photo: (B or 1, H, W, 3) in [0, 1].
        before: the photograph's latent decoded, (B or 1, H, W, 3).
        after: the result's latent decoded, (B, H, W, 3).
        strength: of the change; 0 returns ``photo`` itself.
        mask: (B or 1, H, W) in [0, 1], where the change acts; pixels of 0 are the photograph's bit for bit.

    Returns:
        (B, H, W, 3) in [0, 1]; ``photo`` itself, unexpanded, for strength 0.

    Raises:
        StylizationError: sizes or batches that do not fit each other.
    """
    if strength == 0:
        return photo
    sizes = {name: tuple(one.shape[1:3]) for name, one in (("before", before), ("after", after))}
    for name, size in sizes.items():
        if size != tuple(photo.shape[1:3]):
            raise StylizationError(
                name,
                f"it decodes to {size[1]}x{size[0]} pixels, photo is {photo.shape[2]}x{photo.shape[1]}",
                "Connect latents of this photo at this size",
            )
    rows = {len(one) for one in (photo, before, after, *(() if mask is None else (mask,)))} - {1}
    if len(rows) > 1:
        found = f"photo has {len(photo)} pictures, before {len(before)}, after {len(after)}"
        raise StylizationError("after", found if mask is None else f"{found}, mask {len(mask)}", "Give as many, or one")
    change = strength * (after - before)
    if mask is None:
        return (photo + change).clamp(0, 1)
    there = mask[..., None]
    # where nothing is to change, the photograph itself: x + 0 * y is not x for every float
    return torch.where(there > 0, (photo + there * change).clamp(0, 1), photo)
