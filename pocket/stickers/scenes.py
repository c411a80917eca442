"""Scenes: one to three stickers on a plain or two-part ground, and the canvas that such a scene stands for."""

import functools
from dataclasses import dataclass

import numpy as np

from .layers import place, plate
from .renderings import DERIVED, OF_THE_MAKER
from .settings import BASE_MAKERS, CANVAS, GROUNDS, HORIZON, THINGS

PLACES = {1: ("",), 2: ("left", "right"), 3: ("left", "middle", "right")}
SIZES = {1: (84, 116), 2: (54, 62), 3: (38, 42)}  # longer side in pixels
COLUMNS = {2: (33, 95), 3: (22, 64, 106)}
SHARES = {1: 0.72, 2: 0.23, 3: 0.05}
RIM = 3  # pixels of ground that a single sticker leaves at the border of the canvas
TWO_GROUNDS = 0.3
OWN_RENDERINGS = 0.5  # scenes of several whose stickers each have their own


@dataclass(frozen=True)
class Sticker:
    """A drawing in a rendering at a place: `size` is its longer side, x and y its centre, in pixels."""

    thing: str
    maker: str
    rendering: str
    size: int
    x: int
    y: int


@dataclass(frozen=True)
class Scene:
    """Stickers from left to right; `grounds` are one or two colours, the upper first."""

    stickers: tuple[Sticker, ...]
    grounds: tuple[str, ...]


def random_scene(rng, cells, makers=BASE_MAKERS, count=None):
    """A scene of cells (thing, rendering); `rng` is a random.Random."""
    count = count or rng.choices(list(SHARES), list(SHARES.values()))[0]
    first = rng.choice(cells)
    shared = first[1] if count > 1 and rng.random() > OWN_RENDERINGS else None
    stickers = []
    for k in range(count):
        thing, rendering = first
        if k:
            thing, rendering = rng.choice(cells)
            while thing in {s.thing for s in stickers} or (shared and (rendering != shared)):
                thing, rendering = rng.choice(cells)
        size = rng.randint(*SIZES[count])
        slack = max(0, (CANVAS - size) // 2 - RIM)
        if count == 1:
            x, y = (CANVAS // 2 + rng.randint(-slack, slack) for _ in range(2))
        else:
            x, y = COLUMNS[count][k] + rng.randint(-2, 2), CANVAS // 2 + rng.randint(-slack // 2, slack // 2)
        stickers.append(Sticker(thing, rng.choice(makers), rendering, size, x, y))
    return Scene(tuple(stickers), tuple(rng.sample(list(GROUNDS), 2 if rng.random() < TWO_GROUNDS else 1)))


class Painter:
    """Paints scenes with the drawings of a bank.

    `drawings[thing, maker, rendering]` is an RGBA uint8 array; things are named as in prompts.
    """

    def __init__(self, drawings):
        self.drawings = drawings
        self.plate = functools.lru_cache(maxsize=400)(lambda *key: plate(self.drawings[key]))

    def sticker(self, sticker, side=CANVAS):
        """Colour (H, W, 3) and coverage (H, W) in 0..1 of one sticker on a canvas of its own."""
        natural = sticker.rendering in OF_THE_MAKER
        source = self.plate(sticker.thing, sticker.maker, sticker.rendering if natural else "flat")
        draw = OF_THE_MAKER[sticker.rendering] if natural else DERIVED[sticker.rendering]
        return draw(place(source, sticker.size, sticker.x, sticker.y, side))

    def paint(self, scene, side=CANVAS):
        """uint8 (side, side, 3)."""
        canvas = ground(scene.grounds, side)
        for sticker in scene.stickers:
            colour, cover = self.sticker(sticker, side)
            canvas = canvas + cover[..., None] * (colour - canvas)
        return (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)


def ground(names, side=CANVAS):
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = np.array(GROUNDS[names[0]], np.float32) / 255
    canvas[HORIZON:] = np.array(GROUNDS[names[-1]], np.float32) / 255
    return canvas


class Drawings:
    """The bank's drawings under the names that things have in prompts."""

    def __init__(self, bank):
        self.bank = bank

    def __getitem__(self, key):
        thing, maker, rendering = key
        return self.bank[THINGS[thing], maker, rendering]
