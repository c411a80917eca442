"""ControlNet stage: a small edge ControlNet in ComfyUI's own class, started from the encoder of the trained UNet.

The hint is always the edge map of the *flat* drawing, whatever the rendering of the sticker that is to be denoised: so
the net learns to keep a drawing in any rendering.
"""

import random

import numpy as np
import torch
from checkpoint import lean
from controlnet import controlnet_of
from edges import canny_map, edge_map

from .bank import Bank
from .denoiser import load as load_denoiser
from .denoiser import random_times
from .model import unet_arguments
from .pool import Pool
from .prompts import varied
from .scenes import Drawings, Painter, Scene, Sticker
from .training import Run, average_of, log
from .weights import write

BATCH, RATE = 24, 1.5e-3
FILE, STATE = "stylization_stickers_edges.safetensors", "controlnet.state"
FRESH = 4  # hints painted anew at each step; the others are taken from those kept
KEPT = 3000


def flat_twin(scene):
    """The scene with all its stickers flat."""
    flat = (Sticker(s.thing, s.maker, "flat", s.size, s.x, s.y) for s in scene.stickers)
    return Scene(tuple(flat), scene.grounds)


def hint_of(painter, scene, canny=False):
    """float (128, 128) in 0..1: white edges of the flat drawing."""
    image = painter.paint(flat_twin(scene)).astype(np.float32) / 255
    return (canny_map(image) if canny else edge_map(image))[..., 0]


def build(unet):
    return controlnet_of(unet, {k: v for k, v in unet_arguments().items() if k != "transformer_depth_middle"})


def control_of(net, hints):
    """What `StickerModel.loss` and `sample` want: the residuals for hints (N, H, W), repeated to fill a batch."""
    three = hints[:, None].expand(-1, 3, -1, -1)

    def found(x, times, context):
        given = three.repeat(len(x) // len(three), 1, 1, 1).to(x.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            control = net(x=x, hint=given, timesteps=times.float(), context=context)
        return {name: list(residuals) for name, residuals in control.items()}

    return found


class Hinted:
    """Batches of the pool with hints; a few are painted anew at each step, for painting takes longer than a step."""

    def __init__(self, work):
        self.pool, self.painter, self.kept = Pool(work / "pool"), Painter(Drawings(Bank(work / "bank.zip"))), []

    def batch(self, count):
        while len(self.kept) < count:
            self.add(count)
        self.add(FRESH)
        latents, scenes, hints = zip(*random.sample(self.kept, count), strict=True)
        return (
            torch.stack(latents),
            [varied(scene, random) for scene in scenes],
            torch.from_numpy(np.stack(hints)).float(),
        )

    def add(self, count):
        latents, scenes = self.pool.batch(count)
        for latent, scene in zip(latents, scenes, strict=True):
            item = latent, scene, hint_of(self.painter, scene, random.random() < 0.5).astype(np.float16)
            if len(self.kept) < KEPT:
                self.kept.append(item)
            else:
                self.kept[random.randrange(KEPT)] = item


def load(work, unet):
    net = build(unet)
    with torch.no_grad():
        for p, value in zip(net.parameters(), average_of(work / STATE)[0], strict=True):
            p.copy_(value)
    return net.requires_grad_(False)


def train(work, minutes):
    model, _ = load_denoiser(work)
    torch.manual_seed(5)
    net, data = build(model.unet), Hinted(work)
    run = Run(work / STATE, [{"params": list(net.parameters()), "lr": RATE}], minutes, 0.99, 0.6, BATCH)
    log(f"ControlNet {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")

    def loss_of():
        latents, prompts, hints = data.batch(BATCH)
        return model.loss(latents, prompts, random_times(BATCH), control_of(net, hints)).mean()

    if run.train(loss_of):
        names = [name for name, _ in net.named_parameters()]
        tensors = {name: lean(value) for name, value in zip(names, run.values, strict=True)}
        write(work / "models" / "controlnet" / FILE, tensors, hint="white edges on black", seen=run.seen)
        log("wrote", FILE)
