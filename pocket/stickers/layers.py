"""What a rendering is computed from: a drawing placed on a canvas, with distances to its border and to its edges.

Distances are measured once on the drawing as the bank keeps it and scaled with it, so that strokes have the same width
in pixels of the canvas whatever the size of the sticker.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

MARGIN = 40  # pixels around a drawing in which distances are known
EDGE = 0.11  # contrast of two neighbouring colours (0..1) above which there is an edge between them


@dataclass
class Plate:
    """A drawing prepared for rendering: its arrays share one size, the drawing's plus a margin.

    Attributes:
        colour: float (H, W, 3) in 0..1, times alpha.
        alpha: float (H, W) in 0..1.
        depth: float (H, W), distance to the silhouette in pixels, negative outside.
        edge: float (H, W), distance to the nearest edge between two colours or of the silhouette.
        side: longer side of the drawing in pixels.
    """

    colour: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray
    edge: np.ndarray
    side: int


def plate(drawing):
    """A Plate of an RGBA uint8 array (H, W, 4)."""
    given = np.pad(drawing, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))).astype(np.float32) / 255
    alpha = given[..., 3]
    colour = given[..., :3] * alpha[..., None]
    inside = alpha > 0.5
    depth = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    over_grey = np.dstack([colour + 0.5 * (1 - alpha[..., None]), alpha])
    contrast = np.max([ndimage.morphological_gradient(c, 3) for c in np.moveaxis(over_grey, -1, 0)], 0)
    band = (contrast > EDGE) & (contrast >= 0.6 * ndimage.maximum_filter(contrast, 5))
    edge = ndimage.distance_transform_edt(~band) if band.any() else np.full(alpha.shape, 99.0)
    edge = np.maximum(edge - 1, 0)  # a band is about three pixels wide
    return Plate(colour, alpha, depth.astype(np.float32), edge.astype(np.float32), max(drawing.shape[:2]))


def resized(array, size):
    return np.asarray(Image.fromarray(array).resize(size, Image.BOX if array.shape[1] > size[0] else Image.BILINEAR))


@dataclass
class Placed:
    """A drawing on its canvas: colour (H, W, 3) not times alpha, alpha, depth, edge in pixels of the canvas."""

    colour: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray
    edge: np.ndarray

    @property
    def light(self):
        """Brightness (H, W) in 0..1."""
        return self.colour @ np.array([0.299, 0.587, 0.114], np.float32)

    @property
    def grid(self):
        """Row and column numbers of the pixels."""
        return np.mgrid[: self.alpha.shape[0], : self.alpha.shape[1]].astype(np.float32)


def put(target, source, top, left):
    """Copies `source` into `target` where the two overlap."""
    height, width = target.shape[:2]
    a, b = max(0, top), max(0, left)
    c, d = min(height, top + source.shape[0]), min(width, left + source.shape[1])
    if a < c and b < d:
        target[a:c, b:d] = source[a - top : c - top, b - left : d - left]


def place(drawing, size, x, y, canvas):
    """Puts a Plate on a square canvas: its longer side `size`, its centre at column x and row y, all in pixels."""
    k = size / drawing.side
    height, width = (max(1, round(k * n)) for n in drawing.alpha.shape)
    top, left = round(y - height / 2), round(x - width / 2)
    colour, alpha = np.zeros((canvas, canvas, 3), np.float32), np.zeros((canvas, canvas), np.float32)
    depth, edge = np.full((canvas, canvas), -99, np.float32), np.full((canvas, canvas), 99, np.float32)
    for channel in range(3):
        put(
            colour[..., channel],
            resized(np.ascontiguousarray(drawing.colour[..., channel]), (width, height)),
            top,
            left,
        )
    put(alpha, resized(drawing.alpha, (width, height)), top, left)
    put(depth, k * resized(drawing.depth, (width, height)), top, left)
    put(edge, k * resized(drawing.edge, (width, height)), top, left)
    solid = alpha > 0.02
    near = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True) if solid.any() else None
    colour = colour / np.maximum(alpha, 0.02)[..., None]
    if near is not None:
        colour = colour[near[0], near[1]]  # strokes may reach beyond the silhouette: colours go on there
    return Placed(np.clip(colour, 0, 1), alpha, depth, edge)
