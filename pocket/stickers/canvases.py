"""Canvases of the autoencoder: all things of the bank but the held-out ones, all makers, in all renderings."""

import random

import numpy as np

from .bank import Bank
from .scenes import Painter, Scene, Sticker, random_scene
from .settings import HELD_OUT_THINGS, MAKERS, RENDERINGS, SEED, THINGS
from .training import log

COUNT = 5000
A_DRAWING = 4  # canvases of each drawn plate, which takes longer than to use it
NATURAL_SHARE, TWO_SHARE = 0.4, 0.35


def pair(rng, sticker, grounds):
    """A scene of two small stickers of one drawing, the second in any rendering."""
    size = rng.randint(40, 62)
    second = rng.choice(RENDERINGS)
    left = Sticker(sticker.thing, sticker.maker, sticker.rendering, size, 33, 64)
    return Scene((left, Sticker(sticker.thing, sticker.maker, second, size, 95, rng.randint(40, 88))), grounds)


def write(work, count):
    """canvases.npy: uint8 (count, CANVAS, CANVAS, 3)."""
    bank, rng = Bank(work / "bank.zip"), random.Random(SEED + 1)
    held = {THINGS[thing] for thing in HELD_OUT_THINGS}
    names = sorted({thing for thing, _, _ in bank} - held)
    painter, pictures = Painter(bank), []
    while len(pictures) < count:
        thing = rng.choice(names)
        maker = rng.choice([m for m in MAKERS if (thing, m, "flat") in bank])
        own = [(thing, r) for t, m, r in bank if (t, m) == (thing, maker) and r != "flat"]
        derived = [(thing, r) for r in (*RENDERINGS, "glass", "knit")]
        for _ in range(A_DRAWING):
            cells = own if own and rng.random() < NATURAL_SHARE else derived
            scene = random_scene(rng, cells, (maker,), 1)
            if rng.random() < TWO_SHARE:
                scene = pair(rng, scene.stickers[0], scene.grounds)
            pictures.append(painter.paint(scene))
    np.save(work / "canvases.npy", np.stack(pictures[:count]))
    log(f"{count} canvases")
