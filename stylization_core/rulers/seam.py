"""Whether the border of a mask shows in a picture."""

from __future__ import annotations

import numpy as np

from ..errors import StylizationError
from .images import areas, batch

VISIBLE = 1 / 255
"""Step below which nothing shows, of values in [0, 1]."""


def seam(result, mask, *beside) -> np.ndarray:
    """How much stronger neighbouring pixels differ across a mask's border than they would anyhow.

    Range and direction: [0, 255], lower shows less. 1 is a step no larger than the pictures ``beside`` have at the
    same place (the mean over them), or than the result has everywhere where none is given; below 1 the border is
    smoother than they are there. 1 too where the mask has no border in the picture.
    Source: mean absolute difference of the channels of horizontal and vertical neighbours, one of which is inside the
    mask (at least half as marked as any pixel) and one outside, over that of ``beside``; steps below :data:`VISIBLE`
    count as that.
    What fools it: it looks at the border alone, so a blur there hides a seam from it, and one that lies some pixels
    further out is not seen at all. Strong texture on both sides hides one, as it does from the eye. Where ``beside``
    has an edge of its own along the border, for instance a label's rim, a large step counts as 1.

    Args:
        result: the pictures to judge, (B, H, W, 3) in [0, 1].
        mask: (B or 1, H, W) in [0, 1].
        beside: what the border is compared with, each one picture or one per result.

    Raises:
        StylizationError: other sizes or numbers, nothing marked.
    """
    pictures = batch(result, "result")
    inside = [area >= area.max() / 2 for area in areas(mask, len(pictures), pictures.shape[1:3])]
    others = [_alike(other, pictures) for other in beside]
    values = []
    for number, (picture, area) in enumerate(zip(pictures, inside, strict=True)):
        borders = np.diff(area, axis=0), np.diff(area, axis=1)
        if not any(border.any() for border in borders):
            values.append(1.0)
            continue
        usual = [_step(other[number % len(other)], borders) for other in others] or [
            _step(picture, _everywhere(borders))
        ]
        values.append(max(_step(picture, borders), VISIBLE) / max(float(np.mean(usual)), VISIBLE))
    return np.array(values)


def _alike(given, pictures: np.ndarray) -> np.ndarray:
    others = batch(given, "beside")
    if others.shape[1:] != pictures.shape[1:] or len(others) not in (1, len(pictures)):
        shapes = f"it is {others.shape}, the result {pictures.shape}"
        raise StylizationError("beside", shapes, "Give pictures of one size, one or as many")
    return others


def _everywhere(borders: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Weights of all pairs of neighbours, horizontal and vertical ones in the border's own proportion."""
    down, right = (np.full(border.shape, border.sum() / max(border.size, 1)) for border in borders)
    return down, right


def _step(picture: np.ndarray, weights: tuple[np.ndarray, np.ndarray]) -> float:
    """Weighted mean difference of neighbours."""
    steps = [np.abs(np.diff(picture, axis=axis)).mean(-1) for axis in (0, 1)]
    total = sum(float((step * weight).sum()) for step, weight in zip(steps, weights, strict=True))
    return total / sum(float(weight.sum()) for weight in weights)
