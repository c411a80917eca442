"""What a report is made of: pictures, or tokens of them, that fit each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import StylizationError
from ..rulers.images import areas, as_encoded, batch

SMALLEST = 32
"""Pixels a side, for four octaves of texture."""


@dataclass(frozen=True)
class Material:
    """What one kind of ruler compares: pictures (B, H, W, 3), or tokens of pictures (B, N, C).

    Attributes:
        content: one, or one per result.
        result: what is judged.
        exemplars: of the style, or None.
        copies: exemplars as results, or None.
        mask: the region, of pictures (1 or B, H, W), of tokens the weights of patches (1 or B, N).
    """

    content: np.ndarray
    result: np.ndarray
    exemplars: np.ndarray | None = None
    copies: np.ndarray | None = None
    mask: np.ndarray | None = None

    def cases(self) -> list[tuple[int, int]]:
        """Content and mask that belong to each result, as their places."""
        masks = 1 if self.mask is None else len(self.mask)
        return [(i % len(self.content), i % masks) for i in range(len(self.result))]

    def marked(self, *places: int) -> dict:
        """The argument that says what counts, by the masks' places; none without a region."""
        if self.mask is None:
            return {}
        return {"weights" if self.content.ndim == 3 else "mask": self.mask[list(places)]}

    def turned(self) -> np.ndarray:
        """Content turned by 180 degrees: the same picture, nothing in its place."""
        return self.content[:, ::-1] if self.content.ndim == 3 else self.content[:, ::-1, ::-1]

    def whole(self) -> Material:
        """Without the region."""
        return replace(self, mask=None)


def checked(content, result, exemplars=None, mask=None) -> Material:
    """Pictures that fit each other, as float32 arrays; content and mask are cut as a VAE has cut the result.

    Raises:
        StylizationError: other sizes or counts, NaN, nothing marked.
    """
    content, result = _pictures(content, "content"), _pictures(result, "result")
    content = as_encoded(content, result.shape[1:3])
    sizes = [f"{pictures.shape[2]}x{pictures.shape[1]}" for pictures in (content, result)]
    if sizes[0] != sizes[1]:
        raise StylizationError(
            "content and result",
            f"content is {sizes[0]} pixels, result {sizes[1]}",
            "Bring the photo to the result's size with 'Upscale Image' before 'VAE Encode' and connect that one, or "
            "cut it with 'Image Crop'",
        )
    if len(content) not in (1, len(result)):
        raise StylizationError(
            "content and result",
            f"content has {len(content)} pictures, result {len(result)}",
            "Connect one content for all results, or one for each",
        )
    if min(result.shape[1:3]) < SMALLEST:
        raise StylizationError("result", f"it is {sizes[1]} pixels", f"Give at least {SMALLEST} pixels a side")
    if mask is not None:
        mask = _mask(mask, result)
    if exemplars is None:
        return Material(content, result, mask=mask)
    exemplars = _pictures(exemplars, "style")
    if min(exemplars.shape[1:3]) < SMALLEST:
        size = f"{exemplars.shape[2]}x{exemplars.shape[1]}"
        raise StylizationError("style", f"it is {size} pixels", f"Give at least {SMALLEST} pixels a side")
    return Material(content, result, exemplars, fitted(exemplars, content.shape[1:3]), mask)


def _pictures(images, subject: str) -> np.ndarray:
    """float32 (B, H, W, 3), each looked at by itself, since doubles of a long sequence would not fit in memory."""
    if len(images) == 0:
        raise StylizationError(subject, "there is no picture in it", "Connect at least one")
    return np.stack([batch(picture, subject)[0].astype(np.float32) for picture in images])


def _mask(mask, result: np.ndarray) -> np.ndarray:
    """float64 (1 or B, H, W)."""
    mask = as_encoded(mask.reshape(-1, *mask.shape[-2:]), result.shape[1:3])
    masks, count = areas(mask, len(result), result.shape[1:3]), len(mask)
    return np.stack(masks[:count])


def fitted(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pictures cut from their centre to another shape and scaled to (height, width)."""
    from PIL import Image, ImageOps

    height, width = size
    eight_bit = (Image.fromarray((picture * 255).round().astype(np.uint8)) for picture in pictures)
    cut = [ImageOps.fit(picture, (width, height), Image.LANCZOS) for picture in eight_bit]
    return np.stack([np.asarray(picture, np.float32) / 255 for picture in cut])
