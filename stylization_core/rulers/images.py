"""What every ruler does with its pictures first."""

from __future__ import annotations

import numpy as np

from ..errors import StylizationError

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Rec. 709 weights, applied to the stored (gamma-encoded) values."""


def batch(images, subject: str = "images") -> np.ndarray:
    """Pictures as float64 (B, H, W, 3).

    Args:
        images: (B, H, W, 3) or (H, W, 3), numpy or torch, floating point in [0, 1]; slight overshoots are clipped.
        subject: what to call them in messages.

    Raises:
        StylizationError: another shape, whole numbers, NaN or infinite values, no picture at all.
    """
    pixels = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise StylizationError(subject, f"the shape is {pixels.shape}, not (B, H, W, 3)", "Give RGB pictures")
    if not np.issubdtype(pixels.dtype, np.floating):
        raise StylizationError(subject, f"the values are {pixels.dtype}", "Give floating point values in [0, 1]")
    if not np.isfinite(pixels).all():
        raise StylizationError(subject, "some values are NaN or infinite", "Look at the node that made the picture")
    return pixels.astype(np.float64).clip(0.0, 1.0)


def pair(photo, result) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures to compare one by one; a single photo is compared with each result.

    Raises:
        StylizationError: different sizes, or batches that do not match.
    """
    photo, result = batch(photo, "photo"), batch(result, "result")
    if photo.shape[1:3] != result.shape[1:3]:
        sizes = " and ".join(f"{p.shape[2]}x{p.shape[1]}" for p in (photo, result))
        raise StylizationError("photo and result", f"they are {sizes} pixels", "Bring both to one size first")
    if photo.shape[0] not in (1, result.shape[0]):
        raise StylizationError(
            "photo and result", f"they are {len(photo)} and {len(result)} pictures", "Give one photo, or as many"
        )
    return [(photo[i % photo.shape[0]], result[i]) for i in range(result.shape[0])]


def areas(mask, pictures: int, size: tuple[int, int], subject: str = "mask") -> list[np.ndarray] | list[None]:
    """A mask for each of several pictures.

    Args:
        mask: (B or 1, H, W) or (H, W) in [0, 1], numpy or torch, or None for the whole picture.
        pictures: how many.
        size: height and width they have.

    Returns:
        float64 (H, W) each, or None each.

    Raises:
        StylizationError: no picture at all, another size, a number that is neither 1 nor ``pictures``, NaN, nothing
            marked at all.
    """
    if mask is None:
        return [None] * pictures
    masks = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
    if masks.ndim < 2 or 0 in masks.shape:
        raise StylizationError(subject, f"the shape is {masks.shape}, not (B, H, W)", "Give a mask of the picture")
    masks = masks.reshape(-1, *masks.shape[-2:]).astype(np.float64)
    if masks.shape[1:] != tuple(size):
        sizes = f"it is {masks.shape[2]}x{masks.shape[1]} pixels, the pictures are {size[1]}x{size[0]}"
        raise StylizationError(subject, sizes, "Draw the mask on the picture, or resize it to the picture's size")
    if len(masks) not in (1, pictures):
        raise StylizationError(subject, f"it has {len(masks)} entries for {pictures} pictures", "Give one, or as many")
    if not np.isfinite(masks).all():
        raise StylizationError(subject, "some values are NaN or infinite", "Look at the node that made it")
    masks = masks.clip(0.0, 1.0)
    empty = [number for number, area in enumerate(masks) if not area.any()]
    if empty:
        raise StylizationError(subject, f"nothing is marked in entry {empty[0]}", "Mark a region, or disconnect it")
    return [masks[number % len(masks)] for number in range(pictures)]


def box(area: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest rectangle around all that an area (H, W) marks."""
    rows, columns = (np.flatnonzero(area.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def at_least(least: int, shape: tuple[int, ...], subject: str = "pictures") -> None:
    """Refuse what is too small to be measured.

    Args:
        least: pixels that a side needs.
        shape: height and width, and what may follow.

    Raises:
        StylizationError: a side is shorter.
    """
    if min(shape[:2]) < least:
        raise StylizationError(subject, f"one is {shape[1]}x{shape[0]} pixels", f"Give at least {least} pixels a side")


def as_encoded(pixels, size: tuple[int, int], cell: int = 8):
    """A picture or mask (B, H, W, ...), numpy or torch, cut as VAE Encode cuts it, where that gives ``size``.

    Args:
        pixels: of any size; of one that no such cut explains it comes back as it is.
        size: height and width of what was encoded and decoded.
        cell: pixels of a side that the VAE makes one value of.
    """
    for side, wanted in enumerate(size, start=1):
        extra = pixels.shape[side] - wanted
        if 0 < extra < cell:
            pixels = pixels[(slice(None),) * side + (slice(extra // 2, extra // 2 + wanted),)]
    return pixels


def luminance(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W) in [0, 1]."""
    return image @ LUMINANCE
