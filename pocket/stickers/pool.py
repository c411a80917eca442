"""Pools of encoded canvases: shards of latents and of the scenes they stand for, from which training draws.

A shard is an exact function of its number, so a pool can be grown at any time, by several processes.
"""

import os
import random
import time

import numpy as np
import torch

from .autoencoder import load, to_tensor
from .bank import Bank
from .prompts import varied
from .scenes import Drawings, Painter, Scene, Sticker, random_scene
from .settings import GROUNDS, HELD_OUT_RENDERINGS, LATENT_CHANNELS, MAKERS, RENDERINGS, SEED, THINGS
from .training import log

SHARD = 4096
ALL_THINGS, ALL_MAKERS, ALL_RENDERINGS = list(THINGS), list(MAKERS), [*RENDERINGS, *HELD_OUT_RENDERINGS]
ALL_GROUNDS = list(GROUNDS)
NOTHING = 255


def pack(scene):
    """A scene as 24 bytes: seven for each sticker, the count, two grounds."""
    row = []
    for s in scene.stickers:
        row += [
            ALL_THINGS.index(s.thing),
            ALL_MAKERS.index(s.maker),
            ALL_RENDERINGS.index(s.rendering),
            s.size,
            s.x,
            s.y,
            0,
        ]
    row += [NOTHING] * (21 - len(row))
    grounds = [ALL_GROUNDS.index(g) for g in scene.grounds]
    return np.array([*row, len(scene.stickers), grounds[0], grounds[1] if len(grounds) > 1 else NOTHING], np.uint8)


def unpack(row):
    row = [int(v) for v in row]
    stickers = []
    for k in range(row[21]):
        thing, maker, rendering, size, x, y, _ = row[7 * k : 7 * k + 7]
        stickers.append(Sticker(ALL_THINGS[thing], ALL_MAKERS[maker], ALL_RENDERINGS[rendering], size, x, y))
    return Scene(tuple(stickers), tuple(ALL_GROUNDS[g] for g in row[22:] if g != NOTHING))


def paths(folder, number):
    return folder / f"latents_{number:04d}.npy", folder / f"scenes_{number:04d}.npy"


@torch.no_grad()
def write_shard(folder, number, net, painter, cells, size=SHARD, **how):
    latents_path, scenes_path = paths(folder, number)
    rng = random.Random(f"{SEED} {folder.name} {number}")
    rows, latents, pictures = [], np.empty((size, LATENT_CHANNELS, 16, 16), np.float16), []
    start = time.time()
    for k in range(size):
        scene = random_scene(rng, cells, **how)
        rows.append(pack(scene))
        pictures.append(painter.paint(scene))
        if len(pictures) == 32 or k == size - 1:
            x = to_tensor(np.stack(pictures)).contiguous(memory_format=torch.channels_last)
            latents[k + 1 - len(pictures) : k + 1] = net.encode(x).numpy()
            pictures.clear()
    for path, array in ((scenes_path, np.stack(rows)), (latents_path, latents)):
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, array)
        part.replace(path)
    log(f"{folder.name}: shard {number}, {size} canvases in {time.time() - start:.0f} s")


def grow(work, name, shards, cells, **how):
    """Writes the missing ones of the first `shards` shards of a pool, shared among the processes of a team."""
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    rank, size = int(os.environ.get("STICKERS_RANK", 0)), int(os.environ.get("STICKERS_SIZE", 1))
    missing = [n for n in range(rank, shards, size) if not paths(folder, n)[0].is_file()]
    if missing:
        torch.set_num_threads(1)
        net, painter = load(work), Painter(Drawings(Bank(work / "bank.zip")))
        for number in missing:
            write_shard(folder, number, net, painter, cells, **how)


class Pool:
    """Random batches (latents, prompts) of all shards that are there, looked for again every few minutes."""

    AGAIN = 240  # seconds

    def __init__(self, folder):
        self.folder, self.shards, self.looked = folder, [], 0.0

    def look(self):
        if time.time() - self.looked > self.AGAIN:
            found = sorted(self.folder.glob("latents_*.npy"))[len(self.shards) :]
            for path in found:
                scenes = path.with_name(path.name.replace("latents", "scenes"))
                self.shards.append((np.load(path, mmap_mode="r"), np.load(scenes)))
            self.looked = time.time()
            if not self.shards:
                raise SystemExit(f"no shards in {self.folder}; run the stage `pool` first")

    def batch(self, count, rng=random):
        """float (count, 8, 16, 16) and their scenes."""
        self.look()
        picks = []
        for _ in range(count):
            latents, scenes = rng.choice(self.shards)
            k = rng.randrange(len(latents))
            picks.append((latents[k], unpack(scenes[k])))
        latents, scenes = zip(*picks, strict=True)
        return torch.from_numpy(np.stack(latents)).float(), list(scenes)

    def prompted(self, count, rng=random):
        latents, scenes = self.batch(count, rng)
        return latents, [varied(scene, rng) for scene in scenes]
