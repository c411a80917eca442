"""Denoiser stage: UNet and text tower, trained together on the pool of encoded canvases."""

import random

import torch

from .model import StickerModel
from .pool import Pool
from .training import Run, average_of, log

BATCH, RATE, TEXT_FACTOR, DECAY = 32, 1.2e-3, 2.5, 0.998
STATE = "denoiser.state"


def random_times(count, rng=random):
    """Half evenly spread, half towards noise, where things and their places are decided."""
    if rng.random() < 0.5:
        u = (torch.rand(1) + torch.randperm(count) / count) % 1
    else:
        u = torch.sigmoid(torch.randn(count) * 1.2 + 0.6)
    return (u * 1000).long().clamp(0, 999)


def groups_of(model, rate=RATE):
    """The text path is borne by few tokens of each picture, so it learns faster than the rest."""
    rest, text = [], []
    for name, p in model.named_parameters():
        (text if name.startswith("text.") or ".attn2." in name else rest).append(p)
    return [{"params": rest, "lr": rate}, {"params": text, "lr": TEXT_FACTOR * rate}]


def load(work, device="cpu"):
    """The model with its averaged weights, frozen, and the counts of its training."""
    values, counts = average_of(work / STATE)
    model = StickerModel(device)
    order = [p for group in groups_of(model) for p in group["params"]]
    with torch.no_grad():
        for p, value in zip(order, values, strict=True):
            p.copy_(value)
            p.requires_grad_(False)
    return model, counts


def train(work, minutes, settle=0.0, compiled=False):
    """Goes on from denoiser.state; with `settle` the learning rate falls over that share at the end."""
    torch.manual_seed(0)
    model, pool = StickerModel(), Pool(work / "pool")
    if compiled:
        model.compiled()
    run = Run(work / STATE, groups_of(model), minutes, DECAY, settle, BATCH)
    if run.team.rank == 0:
        log(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(model.words)} words")

    def loss_of():
        latents, prompts = pool.prompted(BATCH)
        return model.loss(latents, prompts, random_times(BATCH)).mean()

    run.train(loss_of)
