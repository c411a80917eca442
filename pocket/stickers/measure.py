"""Measure stage: the table of what was to be reached, by judges trained on true stickers, as Markdown."""

import random
import sys

import numpy as np
import torch
from edges import agreement

from . import controlnet, judges, loras
from .autoencoder import load as load_autoencoder
from .autoencoder import to_pictures
from .bank import Bank
from .denoiser import load as load_denoiser
from .prompts import exact
from .sampling import in_parts, sample
from .scenes import Drawings, Painter, random_scene
from .settings import HELD_OUT_RENDERINGS
from .splits import base_cells, held_out_cells

COUNT = 192
HINTED = ("flat", "outline", "puffy", "watercolour")  # renderings whose own edges are those of the drawing
WANTED = {
    "trained cells": (0.80, 0.80),
    "held-out cells": (0.60, 0.70),
    "LoRA": (None, 0.70),
}


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def interval(rate, count, z=1.96):
    """Wilson's 95 % interval of a rate."""
    middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((rate * (1 - rate) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return f"{rate:.2f} ({middle - half:.2f} to {middle + half:.2f})"


class Rulers:
    def __init__(self, work):
        self.work, self.autoencoder = work, load_autoencoder(work)
        self.nets = {kind: judges.load(work, kind) for kind in judges.KINDS}

    @torch.no_grad()
    def pixels(self, latents):
        return torch.cat([self.autoencoder.decode(part) for part in latents.split(32)]).clamp(-1, 1)

    def rates(self, latents, scenes):
        """Shares of pictures whose thing and whose rendering are named right."""
        pixels = self.pixels(latents)
        truth = {kind: [getattr(scene.stickers[0], kind) for scene in scenes] for kind in judges.KINDS}
        named = {kind: judges.named(net, pixels) for kind, net in self.nets.items()}
        return [float(np.mean([a == b for a, b in zip(named[k], truth[k], strict=True)])) for k in judges.KINDS]


def row(name, rates, count, wanted=(None, None)):
    cells = [
        interval(rate, count) + (f", wanted {aim:.2f}" if aim else "") for rate, aim in zip(rates, wanted, strict=True)
    ]
    say(f"| {name} | {count} | {cells[0]} | {cells[1]} |")


def scenes_of(cells, count, seed, makers=None):
    rng = random.Random(seed)
    return [random_scene(rng, cells, count=1, **({"makers": makers} if makers else {})) for _ in range(count)]


def run(work, count=None, cfg=3.0):
    count = count or COUNT
    rulers = Rulers(work)
    model, counts = load_denoiser(work)
    say(f"Denoiser: {counts['step']} steps, {counts['seen']} canvases; DDIM 20 steps, CFG {cfg}\n")
    say("| samples | n | thing named right | rendering named right |\n|---|---|---|---|")
    own = [judges.own_hit_rate(work, kind) for kind in judges.KINDS]
    row("true canvases not seen by the judges", own, judges.TEST, (judges.NEEDED, judges.NEEDED))
    for name, cells in (("trained cells", base_cells()), ("held-out cells", sorted(held_out_cells()))):
        scenes = scenes_of(cells, count, 31)
        latents = in_parts(model, [exact(s) for s in scenes], seed=31, cfg=cfg)
        row(name, rulers.rates(latents, scenes), count, WANTED[name])
    for rendering in HELD_OUT_RENDERINGS:
        if not (work / f"lora_{rendering}.state").is_file():
            continue
        adapted = loras.load(work, rendering)
        for name, things in (
            ("its things", set(loras.TRAINED_THINGS) - set(loras.KEPT_FROM_LORAS)),
            ("other things", loras.KEPT_FROM_LORAS),
        ):
            scenes = scenes_of([(t, rendering) for t in sorted(things)], count // 4, 37, loras.makers_of(rendering))
            latents = in_parts(adapted, [exact(s) for s in scenes], seed=37, cfg=cfg)
            row(f"LoRA {rendering}, {name}", rulers.rates(latents, scenes), len(scenes), WANTED["LoRA"])
    if (work / controlnet.STATE).is_file():
        measure_edges(work, model, rulers, count // 4, cfg)


def measure_edges(work, model, rulers, count, cfg):
    """F1 of the edges of samples with those of the flat drawing, without and with the ControlNet, and of the truth."""
    net, painter = controlnet.load(work, model.unet), Painter(Drawings(Bank(work / "bank.zip")))
    scenes = scenes_of([cell for cell in base_cells() if cell[1] in HINTED], count, 41)
    hints = [controlnet.hint_of(painter, s) for s in scenes]
    prompts = [exact(s) for s in scenes]
    control = controlnet.control_of(net, torch.from_numpy(np.stack(hints)).float())

    def f1(pictures):
        found = [
            agreement(p.astype(np.float32) / 255, np.repeat(h[..., None], 3, -1))
            for p, h in zip(pictures, hints, strict=True)
        ]
        return f"{np.mean(found):.2f}"

    off = to_pictures(rulers.pixels(sample(model, prompts, 41, cfg=cfg)))
    on = to_pictures(rulers.pixels(sample(model, prompts, 41, cfg=cfg, control_of=control)))
    rates = f"{f1(off)} off, {f1(on)} on (wanted 0.70); the true stickers {f1([painter.paint(s) for s in scenes])}"
    say(f"\nControlNet, F1 of edges with the flat drawing's, {count} samples: {rates}")
