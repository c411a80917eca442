"""Renderings: how a sticker is drawn, each an exact function of the drawing, its place and the canvas.

So the same drawing in another rendering, at the same place and on the same ground, is a true answer pixel by pixel.
Screens, hatches, tiles, threads and paper are fixed to the canvas and repeat with the 8 pixels of a latent, as a
printer's screen is fixed to the press; that makes them learnable for a small model and is no less exact.

A rendering is a function of a `Placed` drawing that returns colour (H, W, 3) and coverage (H, W), both in 0..1.
"""

import functools

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from .settings import SEED

DARK = np.array([0.10, 0.09, 0.13], np.float32)
PERIOD = 32  # pixels, of noise
PAPER = np.array([0.99, 0.98, 0.95], np.float32)


def step(value, soft=0.5):
    """0 below, 1 above zero, with a ramp of `soft` pixels on either side."""
    return np.clip(value / (2 * soft) + 0.5, 0, 1)


def mix(below, above, share):
    share = share[..., None] if np.ndim(share) == 2 else share
    return below * (1 - share) + above * share


def stroke(placed, width):
    """Coverage of lines of `width` pixels along all edges of a drawing."""
    return step(width / 2 - placed.edge)


def shaded(placed, reach=1.2):
    """Brightness, smoothed within the drawing."""
    weight = ndimage.gaussian_filter(placed.alpha, reach) + 1e-3
    return ndimage.gaussian_filter(placed.light * placed.alpha, reach) / weight


@functools.cache
def noise(side, reach, seed):
    """Smooth noise of mean 0 and deviation 1 that repeats every PERIOD pixels."""
    rng = np.random.default_rng((SEED, seed))
    found = ndimage.gaussian_filter(rng.standard_normal((PERIOD, PERIOD)), reach, mode="wrap")
    found = (found - found.mean()) / found.std()
    return np.resize(np.tile(found, (1, side // PERIOD)), (side, side)).astype(np.float32)


def displaced(array, rows, columns):
    """An array read at places that are off by (rows, columns) pixels."""
    grid = np.mgrid[: array.shape[0], : array.shape[1]].astype(np.float32)
    at = [grid[0] + rows, grid[1] + columns]
    if array.ndim == 2:
        return ndimage.map_coordinates(array, at, order=1, mode="nearest")
    return np.dstack([ndimage.map_coordinates(c, at, order=1, mode="nearest") for c in np.moveaxis(array, -1, 0)])


def saturated(colour, factor):
    grey = (colour @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    return np.clip(grey + factor * (colour - grey), 0, 1)


def flat(p):
    """As the maker drew it."""
    return p.colour, p.alpha


def outline(p):
    """Comic: flat colours within thick dark lines."""
    return mix(p.colour, DARK, stroke(p, 3.2)), step(p.depth + 1.6)


def ink(p):
    """Line art: thin black lines on white, very dark areas filled."""
    dark = np.maximum(stroke(p, 1.8), step((0.22 - p.light) * 12) * step(p.depth))
    return mix(PAPER * 0 + 1, DARK * 0.3, dark), step(p.depth + 0.9)


def halftone(p):
    """Two-colour print: pink dots by tone, blue where it is dark, on cream."""
    rows, columns = p.grid
    wave = np.cos((rows + columns) * np.pi / 4) + np.cos((rows - columns) * np.pi / 4)  # dots at (0, 0) and (4, 4) of 8
    light = shaded(p)
    ink_share = np.clip(1.05 - light, 0.06, 1)
    dots = step((wave / 2 - (1 - 2 * ink_share)) * 1.6)
    colour = mix(np.array([0.99, 0.95, 0.84], np.float32), np.array([0.94, 0.27, 0.46], np.float32), dots)
    blue = np.maximum(step((0.33 - light) * 10), stroke(p, 1.2) * step(1.2 - np.abs(p.depth)))
    return mix(colour, np.array([0.13, 0.24, 0.58], np.float32), blue), step(p.depth + 0.5)


def engraving(p):
    """Parallel strokes that grow with darkness, crossed where it is dark."""
    rows, columns = p.grid
    light = shaded(p, 0.8)

    def strokes(phase, share):
        near = np.abs((phase + 4) % 8 - 4) / np.sqrt(2)  # distance to the nearest stroke, in pixels
        return step(2.8 * np.clip(share, 0, 1) - near, 0.6) * (share > 0.02)

    dark = strokes(rows + columns, 0.95 - light)
    dark = np.maximum(dark, strokes(rows - columns, 0.62 - light))
    dark = np.maximum(dark, stroke(p, 1.3))
    return mix(np.array([0.97, 0.93, 0.82], np.float32), np.array([0.23, 0.13, 0.08], np.float32), dark), step(
        p.depth + 0.6
    )


def blocks(array, side):
    """Means over squares of `side` pixels, at full size."""
    height, width = array.shape[:2]
    small = array.reshape(height // side, side, width // side, side, -1).mean((1, 3))
    return np.repeat(np.repeat(small, side, 0), side, 1).reshape(array.shape)


def pixel(p):
    """Pixel art: squares of 4 pixels, few colours, a dark border of squares."""
    share = blocks(p.alpha, 4)
    colour = blocks(p.colour * p.alpha[..., None], 4) / np.maximum(share, 0.05)[..., None]
    inside = share > 0.45
    border = inside & ~ndimage.binary_erosion(inside, iterations=4, structure=ndimage.generate_binary_structure(2, 1))
    colour = np.round(saturated(colour, 1.25) * 5) / 5
    return np.where(border[..., None], colour * 0.35, colour), inside.astype(np.float32)


def watercolour(p):
    """Washes with dark rims and grain on white paper, wobbling borders."""
    side = p.alpha.shape[0]
    rows, columns = 1.5 * noise(side, 4, 1), 1.5 * noise(side, 4, 2)
    depth, colour = displaced(p.depth, rows, columns), displaced(p.colour, rows, columns)
    edge = displaced(p.edge, rows, columns)
    colour = np.dstack([ndimage.gaussian_filter(c, 1.2) for c in np.moveaxis(colour, -1, 0)])
    density = 0.62 + 0.17 * noise(side, 5, 3) + 0.10 * noise(side, 0.7, 4) + 0.55 * np.exp(-((edge - 0.4) ** 2) / 1.2)
    wash = 1 - (1 - np.clip(colour * 0.92, 0, 1)) * np.clip(density, 0.15, 1.25)[..., None]
    return np.clip(wash, 0, 1), step(depth + 1.0, 1.0)


@functools.cache
def tiles(side, pitch, repeat):
    """Squares with their corners pulled about, a Voronoi partition that repeats every `repeat` tiles.

    Returns for each pixel: number of its tile, distance to the border, offset from the centre (H, W, 2), and for each
    tile its number within the repeated piece.
    """
    rng = np.random.default_rng((SEED, 9))
    count = int(np.ceil(side / pitch)) + 2
    jitter = np.tile(rng.uniform(-0.24, 0.24, (repeat, repeat, 2)), (count // repeat + 1, count // repeat + 1, 1))
    places = np.moveaxis(np.mgrid[:count, :count], 0, -1)
    centres = ((places - 0.5 + jitter[:count, :count]) * pitch).reshape(-1, 2)
    kind = ((places[..., 0] % repeat) * repeat + places[..., 1] % repeat).ravel()
    grid = np.mgrid[:side, :side].reshape(2, -1).T
    near, which = cKDTree(centres).query(grid, k=2)
    apart = np.linalg.norm(centres[which[:, 0]] - centres[which[:, 1]], axis=1)
    gap = ((near[:, 1] ** 2 - near[:, 0] ** 2) / (2 * apart)).reshape(side, side).astype(np.float32)
    offset = (grid - centres[which[:, 0]]).reshape(side, side, 2).astype(np.float32)
    return which[:, 0].reshape(side, side), gap, offset, kind


def over_tiles(array, which, count, weight):
    total = np.bincount(which.ravel(), weight.ravel(), count) + 1e-3
    return (np.bincount(which.ravel(), (array * weight).ravel(), count) / total)[which]


def mosaic(p):
    """Small stone tiles, each of one colour, with light joints and a bevel."""
    which, gap, offset, kind = tiles(p.alpha.shape[0], 16 / 3, 3)
    count = len(kind)
    colour = np.dstack([over_tiles(c, which, count, p.alpha) for c in np.moveaxis(p.colour, -1, 0)])
    share = over_tiles(p.alpha, which, count, np.ones_like(p.alpha))
    tint = np.random.default_rng((SEED, 10)).uniform(-0.07, 0.07, 9)[kind][which]
    bevel = -(offset @ np.array([1, 1])) / 5 * 0.16
    colour = np.clip(colour + (tint + bevel)[..., None], 0, 1)
    joint = step(0.75 - gap, 0.5)
    return mix(colour, np.array([0.90, 0.88, 0.84], np.float32), joint), (share > 0.5).astype(np.float32)


def neon(p):
    """Glowing tubes along the edges on a nearly black body."""
    glow_colour = saturated(p.colour / np.maximum(p.colour.max(-1, keepdims=True), 0.25), 1.8)
    glow_colour = np.where(p.colour.max(-1, keepdims=True) < 0.3, np.array([0.35, 0.75, 1.0], np.float32), glow_colour)
    glow_colour = np.dstack([ndimage.gaussian_filter(c, 1.5) for c in np.moveaxis(glow_colour, -1, 0)])
    tube = step(0.9 - p.edge, 0.6)
    glow = np.exp(-p.edge / 2.6)
    body = np.array([0.05, 0.04, 0.10], np.float32)
    colour = np.clip(body + glow_colour * glow[..., None] * 0.95, 0, 1)
    return mix(colour, 0.35 * glow_colour + 0.65, tube), step(p.depth + 3.5)


def puffy(p):
    """Blown up like a balloon: light from the upper left, a glossy spot, dark rims."""
    height = np.sqrt(np.clip(np.minimum(p.edge, 14), 0, None) * 14) * (p.depth > 0)
    height = ndimage.gaussian_filter(height, 1.6)
    slope_rows, slope_columns = np.gradient(height)
    normal = np.dstack([-slope_rows, -slope_columns, np.ones_like(height) * 1.1])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    lit = normal @ (np.array([-0.55, -0.45, 0.70], np.float32))
    gloss = np.clip(lit - 0.93, 0, None) / 0.07
    colour = p.colour * (0.42 + 0.68 * np.clip(lit, 0, 1))[..., None]
    return np.clip(mix(colour, np.ones(3, np.float32), np.clip(gloss, 0, 1) * 0.75), 0, 1), step(p.depth + 0.5)


def knit(p):
    """Knitted: rows of V-shaped loops, one colour a loop."""
    rows, columns = p.grid
    slant = np.abs((columns % 8) - 3.5)  # the two arms of a V
    loop_row = np.floor((rows - slant) / 4)
    phase = (rows - slant) / 4 - loop_row
    which = ((loop_row + 8).astype(int) * 64 + (columns // 4).astype(int)).clip(0)
    count = int(which.max()) + 1
    colour = np.dstack([over_tiles(c, which, count, p.alpha) for c in np.moveaxis(p.colour, -1, 0)])
    share = over_tiles(p.alpha, which, count, np.ones_like(p.alpha))
    relief = 0.62 + 0.42 * np.sin(np.pi * phase)
    gap = step(0.7 - np.abs((columns % 4) - 3.5), 0.5) * 0.25
    return np.clip(colour * (relief - gap)[..., None], 0, 1), (share > 0.5).astype(np.float32)


def glass(p):
    """Stained glass: black lead along the edges and across, light coming through."""
    which, gap, offset, kind = tiles(p.alpha.shape[0], 16, 2)
    lead = np.maximum(stroke(p, 2.6), step(1.1 - gap))
    light = 1.12 - 0.035 * np.abs(offset @ np.array([1.0, 0.6]))
    tint = np.random.default_rng((SEED, 11)).uniform(-0.12, 0.12, 4)[kind][which]
    colour = np.clip(saturated(p.colour, 1.5) * (light + tint)[..., None], 0, 1)
    return mix(colour, DARK * 0.6, lead), step(p.depth + 1.3)


def contrast(p):
    """A maker's drawing in black, on a white backing that is cut a little outside of it."""
    backing = ndimage.binary_fill_holes(p.depth > -4)
    rim = ndimage.distance_transform_edt(backing) - ndimage.distance_transform_edt(~backing)
    return mix(np.ones_like(p.colour), p.colour, p.alpha), step(rim)


DERIVED = {
    f.__name__: f
    for f in (flat, outline, ink, halftone, engraving, pixel, watercolour, mosaic, neon, puffy, glass, knit)
}
OF_THE_MAKER = {"contrast": contrast, "clay": flat, "gradient": flat, "mono": flat}
