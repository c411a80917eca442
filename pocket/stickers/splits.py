"""What is kept out of the training of the base, in splits.json: things, renderings, and cells of thing x rendering.

A cell is held out for all makers. Each trained thing is missing in one rendering (never in `flat`, from which the
others are computed), and each rendering is missing for about as many things.
"""

import json
import random
from pathlib import Path

from .settings import HELD_OUT_RENDERINGS, HELD_OUT_THINGS, RENDERINGS, SEED, TRAINED_THINGS

FILE = Path(__file__).with_name("splits.json")


def make():
    rng = random.Random(SEED)
    things = list(TRAINED_THINGS)
    rng.shuffle(things)
    choices = [r for r in RENDERINGS if r != "flat"]
    cells = {thing: choices[k % len(choices)] for k, thing in enumerate(things)}
    return {
        "things": sorted(HELD_OUT_THINGS),
        "renderings": sorted(HELD_OUT_RENDERINGS),
        "cells": dict(sorted(cells.items())),
    }


def write():
    FILE.write_text(json.dumps(make(), indent=1) + "\n", encoding="utf-8")


def held_out_cells():
    """{(thing, rendering)} that the base never sees although it sees the thing and the rendering."""
    return set(json.loads(FILE.read_text(encoding="utf-8"))["cells"].items())


def base_cells():
    """[(thing, rendering)] that the base is trained on."""
    held = held_out_cells()
    return [(t, r) for t in TRAINED_THINGS for r in RENDERINGS if (t, r) not in held]
