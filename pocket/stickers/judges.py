"""Two rulers: which thing, and which rendering, does a canvas show? Classifiers trained on true stickers only.

They see every thing and every rendering, held out or not, for they are no part of the model. Half of what they learn
from has gone through the autoencoder, so that its slight blur is not taken for a rendering.
"""

import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from .autoencoder import load as load_autoencoder
from .autoencoder import to_pictures, to_tensor
from .bank import Bank
from .scenes import Drawings, Painter, random_scene
from .settings import BASE_MAKERS, HELD_OUT_RENDERINGS, OF_THE_MAKER, RENDERINGS, SEED, THINGS
from .training import Run, log

KINDS = {"thing": tuple(THINGS), "rendering": (*RENDERINGS, *HELD_OUT_RENDERINGS)}
COUNT, TEST = 24000, 2400
BATCH, RATE = 48, 2e-3
NEEDED = 0.95  # hit rate on unseen true canvases below which a classifier is no ruler


class Judge(nn.Module):
    """Logits of the labels of `kind` for pixels (N, 3, H, W) in -1..1, of any size.

    Things are looked at in half the resolution, where their shape is; renderings in full, where the strokes are.
    """

    def __init__(self, kind, width=48):
        super().__init__()
        self.kind, self.labels = kind, KINDS[kind]
        sizes = [3, width // 2, width, 2 * width, 3 * width, 4 * width]
        layers = []
        for k in range(5 if kind == "rendering" else 4):
            layers += [
                nn.Conv2d(sizes[k], sizes[k + 1], 3, padding=1, bias=False),
                nn.GroupNorm(8, sizes[k + 1]),
                nn.SiLU(),
            ]
            layers += [nn.Conv2d(sizes[k + 1], sizes[k + 1], 3, 2, 1)] if k else [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        last = sizes[5 if kind == "rendering" else 4]
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * last, len(self.labels)))

    def forward(self, x):
        h = self.body(F.avg_pool2d(x, 2) if self.kind == "thing" else x)
        return self.head(torch.cat([h.mean((2, 3)), h.amax((2, 3))], 1))


def all_cells():
    return [(thing, rendering) for thing in THINGS for rendering in KINDS["rendering"]]


def paint_set(work, count, seed):
    """uint8 canvases (count, 128, 128, 3) of single stickers, half of them decoded, and labels (count, 2)."""
    rng, painter, net = random.Random(seed), Painter(Drawings(Bank(work / "bank.zip"))), load_autoencoder(work)
    cells, pictures, labels = all_cells(), np.empty((count, 128, 128, 3), np.uint8), np.empty((count, 2), np.int64)
    for k in range(count):
        cell = rng.choice(cells)
        makers = ("fluent",) if cell[1] in OF_THE_MAKER else BASE_MAKERS
        scene = random_scene(rng, [cell], makers, 1)
        pictures[k] = painter.paint(scene)
        labels[k] = KINDS["thing"].index(cell[0]), KINDS["rendering"].index(cell[1])
    with torch.no_grad():
        for k in range(0, count, 128):
            part = slice(k, min(count, k + 64))
            pictures[part] = to_pictures(net.decode(net.encode(to_tensor(pictures[part]))))
    return pictures, labels


def prepare(work):
    """Writes judges.npz: canvases for training and others for the test."""
    torch.set_num_threads(1)
    pictures, labels = paint_set(work, COUNT, SEED + 5)
    test, test_labels = paint_set(work, TEST, SEED + 6)
    part = work / "judges.part.npz"
    np.savez(part, pictures=pictures, labels=labels, test=test, test_labels=test_labels)
    part.replace(work / "judges.npz")
    log(f"{COUNT} canvases for the judges to learn from, {TEST} to test them")


def disturbed(x):
    """Shifted by some pixels, with a little noise and another brightness."""
    x = x.roll((random.randint(-8, 8), random.randint(-8, 8)), (2, 3))
    return x * random.uniform(0.9, 1.1) + random.uniform(-0.05, 0.05) + torch.randn_like(x) * random.uniform(0, 0.06)


def train(work, kind, minutes):
    with np.load(work / "judges.npz") as data:
        pictures, labels = data["pictures"], torch.from_numpy(data["labels"])[:, list(KINDS).index(kind)]
    torch.manual_seed(1)
    net = Judge(kind).to(memory_format=torch.channels_last)
    run = Run(work / f"judge_{kind}.state", [{"params": list(net.parameters()), "lr": RATE}], minutes, 0.99, 0.6, BATCH)

    def loss_of():
        rows = torch.randint(len(labels), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            out = net(disturbed(to_tensor(pictures[rows.numpy()])).contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(out.float(), labels[rows], label_smoothing=0.05)

    if run.train(loss_of):
        with torch.no_grad():
            for p, value in zip(net.parameters(), run.values, strict=True):
                p.copy_(value)
        torch.save(net.state_dict(), work / f"judge_{kind}.pt")
        log(f"judge of the {kind}: hit rate {own_hit_rate(work, kind):.3f} on true canvases that it has not seen")


def load(work, kind):
    net = Judge(kind)
    net.load_state_dict(torch.load(work / f"judge_{kind}.pt", weights_only=True))
    return net.eval().requires_grad_(False)


@torch.no_grad()
def named(net, pictures):
    """The labels that a judge gives to pictures (N, 3, H, W) in -1..1."""
    found = torch.cat([net(part).argmax(1) for part in pictures.split(64)])
    return [net.labels[k] for k in found.tolist()]


def own_hit_rate(work, kind):
    with np.load(work / "judges.npz") as data:
        test, labels = to_tensor(data["test"]), data["test_labels"][:, list(KINDS).index(kind)]
    return float(
        np.mean([KINDS[kind][k] == name for k, name in zip(labels, named(load(work, kind), test), strict=True)])
    )
