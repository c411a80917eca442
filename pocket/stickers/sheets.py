"""Sheets to look at: text to image, cells that were never trained, scenes, image to image, the autoencoder."""

import random

import numpy as np
import torch
from PIL import Image, ImageDraw

from .autoencoder import load as load_autoencoder
from .autoencoder import psnr, to_pictures, to_tensor
from .bank import Bank
from .denoiser import load as load_denoiser
from .prompts import exact
from .sampling import in_parts, sample
from .scenes import Drawings, Painter, Scene, Sticker, random_scene
from .settings import (
    BASE_MAKERS,
    CANVAS,
    HELD_OUT_RENDERINGS,
    HELD_OUT_THINGS,
    OF_THE_MAKER,
    RENDERINGS,
    TRAINED_THINGS,
)
from .splits import base_cells, held_out_cells
from .training import log

SHOWN = (
    "cat",
    "panda",
    "elephant",
    "butterfly",
    "apple",
    "pizza",
    "house",
    "rocket",
    "bicycle",
    "sun",
    "robot",
    "heart",
)
LEFT, TOP = 92, 14


def grid(path, rows, names, columns):
    """Writes a page of pictures: `rows` are lists of uint8 arrays of one size, or None."""
    side = next(p for row in rows for p in row if p is not None).shape[0]
    page = Image.new("RGB", (LEFT + side * max(map(len, rows)), TOP + side * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for k, name in enumerate(columns):
        draw.text((LEFT + side * k + 3, 1), name, fill="black")
    for r, (row, name) in enumerate(zip(rows, names, strict=True)):
        draw.multiline_text((3, TOP + side * r + side // 2 - 12), name.replace(", ", "\n"), fill="black")
        for k, picture in enumerate(row):
            if picture is not None:
                page.paste(Image.fromarray(picture), (LEFT + side * k, TOP + side * r))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    log("wrote", path.name)


def single(thing, rendering, ground="white", maker="fluent", size=104):
    """A scene of one sticker in the middle."""
    return Scene((Sticker(thing, maker, rendering, size, CANVAS // 2, CANVAS // 2),), (ground,))


def truths(work):
    """True stickers, no model: every rendering of the same drawings, the last column two small ones in a scene."""
    painter = Painter(Drawings(Bank(work / "bank.zip")))
    grounds, rows = ("white", "blue", "yellow", "green", "navy", "pink"), []
    names = (*RENDERINGS, *HELD_OUT_RENDERINGS)
    for rendering in names:
        makers = ("fluent",) if rendering in OF_THE_MAKER else BASE_MAKERS
        scenes = [single(t, rendering, grounds[k % 6], makers[k % len(makers)]) for k, t in enumerate(SHOWN[:9])]
        pair = [Sticker(t, "fluent", rendering, 58, x, 64) for t, x in (("cat", 33), ("rocket", 95))]
        rows.append([painter.paint(s) for s in (*scenes, Scene(tuple(pair), ("orange", "green")))])
    grid(work / "sheets" / "truths.png", rows, names, [*SHOWN[:9], "two"])


class Sheets:
    """Model, autoencoder and painter, and the folder of the sheets."""

    def __init__(self, work):
        self.folder = work / "sheets"
        self.model, self.counts = load_denoiser(work)
        self.autoencoder = load_autoencoder(work)
        self.painter = Painter(Drawings(Bank(work / "bank.zip")))
        self.name = f"{self.counts['seen'] // 1000:04d}k"

    def decode(self, latents):
        with torch.no_grad():
            return list(to_pictures(torch.cat([self.autoencoder.decode(part) for part in latents.split(16)])))

    def encode(self, pictures):
        with torch.no_grad():
            return self.autoencoder.encode(to_tensor(np.stack(pictures)))

    def drawn(self, prompts, **how):
        return self.decode(in_parts(self.model, prompts, **how))

    def text(self, cfg=3.0, seed=3):
        """Every rendering of the base, one noise a row."""
        rows = [
            self.drawn([f"{t}, {r} style, on white" for t in SHOWN], seed=seed + k, cfg=cfg)
            for k, r in enumerate(RENDERINGS)
        ]
        grid(self.folder / f"text_{self.name}.png", rows, RENDERINGS, SHOWN)

    def varied(self, seed=11):
        """Random trained cells on random grounds, the truth of each prompt's first maker above."""
        rng = random.Random(seed)
        scenes = [random_scene(rng, base_cells(), count=1) for _ in range(36)]
        samples = self.drawn([exact(s, makers=True) for s in scenes], seed=seed)
        rows, names = [], []
        for k in range(0, 36, 12):
            rows += [[self.painter.paint(s) for s in scenes[k : k + 12]], samples[k : k + 12]]
            names += ["true, (another place)", "sample"]
        grid(self.folder / f"varied_{self.name}.png", rows, names, [])

    def unseen(self, seed=5):
        """Cells of thing and rendering that were held out: the truth above the sample."""
        cells = random.Random(seed).sample(sorted(held_out_cells()), 24)
        scenes = [single(t, r, "blue") for t, r in cells]
        samples = self.drawn([exact(s, makers=True) for s in scenes], seed=seed)
        rows = []
        for k in (0, 12):
            rows += [[self.painter.paint(s) for s in scenes[k : k + 12]], samples[k : k + 12]]
        grid(self.folder / f"unseen_{self.name}.png", rows, ["truth", "sample"] * 2, [])

    def scenes(self, seed=7):
        """Two and three stickers, the true scene above the sample."""
        rng = random.Random(seed)
        scenes = [random_scene(rng, base_cells(), count=count) for count in (2,) * 9 + (3,) * 3]
        samples = self.drawn([exact(s, makers=True) for s in scenes], seed=seed)
        for s in scenes:
            log(exact(s, makers=True))
        grid(
            self.folder / f"scenes_{self.name}.png",
            [[self.painter.paint(s) for s in scenes], samples],
            ["truth", "sample"],
            [],
        )

    def image(self, seed=9, cfg=3.0):
        """Image to image: flat drawings, the last four of held-out things, asked for in another rendering."""
        things = (*SHOWN[:8], *HELD_OUT_THINGS[:4])
        start = [self.painter.paint(single(t, "flat", "blue")) for t in things]
        rows, names = [start], ["given"]
        for rendering, denoise in (("ink", 0.6), ("ink", 0.8), ("puffy", 0.6), ("halftone", 0.7), ("neon", 0.8)):
            prompts = [f"{t}, {rendering} style, on blue" for t in things]
            found = sample(self.model, prompts, seed, start=self.encode(start), denoise=denoise, cfg=cfg)
            rows.append(self.decode(found))
            names.append(f"{rendering}, {denoise}")
        grid(self.folder / f"image_{self.name}.png", rows, names, things)

    def coded(self):
        """What the autoencoder keeps of each rendering, with its mean PSNR."""
        rows, names = [], []
        for rendering in (*RENDERINGS, *HELD_OUT_RENDERINGS):
            made = [
                self.painter.paint(single(t, rendering, "green", size=108))
                for t in (*TRAINED_THINGS[:18:3], *HELD_OUT_THINGS[:3])
            ]
            back = self.decode(self.encode(made))
            quality = float(psnr(to_tensor(np.stack(back)), to_tensor(np.stack(made))).mean())
            rows.append([p for pair in zip(made[3:], back[3:], strict=True) for p in pair])
            names.append(f"{rendering}, {quality:.1f} dB")
            log("autoencoder", names[-1], "" if rendering not in OF_THE_MAKER else "(the maker's own)")
        grid(self.folder / "autoencoder.png", rows, names, [])
