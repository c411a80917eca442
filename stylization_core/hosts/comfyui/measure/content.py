"""What the pictures of runs are measured against: content, mask and style, all checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....budget.search import Limit, Reading, read
from ....errors import StylizationError
from ....rulers.images import areas, as_encoded, batch
from ....rulers.style import StyleTarget
from .budget import decoded

LEAST_PIXELS = 32
"""A side of the smallest picture that all rulers can measure."""


class ContentRulers:
    """The rulers of some limits on pictures that come from one latent.

    Args:
        limits: what is measured.
        latent: LATENT that the runs start from; what it shows is the content, unless ``content`` is given.
        vae: VAE, for the size of the results.
        content: IMAGE (B or 1, H, W, 3) to compare with, or None.
        mask: MASK (B or 1, H, W) for the limits inside it, or None.
        style: IMAGE (B, H, W, 3) of the style, or None.

    Raises:
        StylizationError: names the input that does not fit.
    """

    def __init__(self, limits: tuple[Limit, ...], latent: dict, vae, content=None, mask=None, style=None):
        self.limits = limits
        samples = latent["samples"]
        before = decoded(vae, samples)
        size, count = tuple(before.shape[1:3]), len(before)
        _refuse_small(size, "latent_image", f"pictures of {size[1]}x{size[0]} pixels are too small to measure")
        cell = -(-size[0] // samples.shape[-2])
        self.content = _fitting(as_encoded(content, size, cell), size, count) if content is not None else None
        if content is None and torch.count_nonzero(samples):
            self.content = before
        self.unused_mask = mask is not None and not any(limit.inside for limit in limits)
        self.mask = None if mask is None or self.unused_mask else _fitting_mask(mask, size, count, cell)
        self._refuse_missing_mask()
        self.target = None if style is None else _target(style)

    def _refuse_missing_mask(self) -> None:
        inside = [limit for limit in self.limits if limit.inside]
        if inside and self.mask is None:
            found = f"'{inside[0]}' is measured inside a mask, and none is connected"
            raise StylizationError("mask", found, "Connect one, or remove that limit")

    def __call__(self, pictures: Tensor, off: Callable[[], Tensor]) -> Reading:
        """Of the pictures of a run; ``off()`` makes those at strength 0, the content of an empty latent."""
        content = off() if self.content is None else self.content
        return read(self.limits, content, pictures, self.mask, self.target)

    def notes(self) -> list[str]:
        """What the user may have meant otherwise."""
        return ["The mask is connected, and no limit is on it: write 'mask' before a ruler."] * self.unused_mask


def _refuse_small(size: tuple[int, int], subject: str, found: str) -> None:
    if min(size) < LEAST_PIXELS:
        raise StylizationError(subject, found, f"Give at least {LEAST_PIXELS} pixels a side")


def _fitting(content: Tensor, size: tuple[int, int], count: int) -> Tensor:
    batch(content, "content")
    if tuple(content.shape[1:3]) != size:
        found = f"it is {content.shape[2]}x{content.shape[1]} pixels, the results are {size[1]}x{size[0]}"
        raise StylizationError("content", found, "Resize it to the size that is sampled")
    if len(content) not in (1, count):
        found = f"it has {len(content)} pictures, the results are {count}"
        raise StylizationError("content", found, "Give one, or as many")
    return content


def _fitting_mask(mask: Tensor, size: tuple[int, int], count: int, cell: int) -> Tensor:
    cut = as_encoded(mask.reshape(-1, *mask.shape[-2:]), size, cell)
    areas(cut, count, size)
    return cut


def _target(style: Tensor) -> StyleTarget:
    batch(style, "style")
    _refuse_small(style.shape[1:3], "style", f"it is {style.shape[2]}x{style.shape[1]} pixels")
    return StyleTarget.of(style)
