"""ControlNet stage of the denoiser of drawings: edges of drawings, and of photographs and their styles, as hints."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from autoencoder import load
from checkpoint import lean, write
from controlnet import controlnet_of
from drawings import THINGS, Look, drawing
from drawn_model import BATCH, FILE, Drawn, prompt_of, random_times
from edges import canny_map, edge_map
from logs import log
from networks import device_of, use_comfyui
from safetensors.torch import load_file
from settings import DRAWN_UNET, SEED
from training import Run, seed_everything

STEPS, LR = 6000, 2e-3
CONTROLNET_FILE = "stylization_pocket_drawings_edges.safetensors"
POOL, POOL_FRESH = 512, 2  # drawings at hand, and how many are new at each step


class Hinted:
    """Latents of fresh drawings with their edges: a pool of which a few are replaced at each step."""

    def __init__(self, args):
        self.net, self.rng = load(args.work), np.random.default_rng(SEED + 4)
        self.pool = [self.fresh() for _ in range(POOL)]

    @torch.no_grad()
    def fresh(self):
        thing = str(self.rng.choice(list(THINGS)))
        picture = drawing(thing, Look(self.rng), self.rng)
        image = picture.astype(np.float32) / 255
        hint = edge_map(image) if self.rng.random() < 0.5 else canny_map(image)
        latent = self.net.encode(torch.from_numpy(picture).permute(2, 0, 1).float()[None] / 127.5 - 1)[0]
        return latent, torch.from_numpy(hint[..., 0]), thing

    def batch(self):
        for _ in range(POOL_FRESH):
            self.pool[random.randrange(POOL)] = self.fresh()
        latents, hints, things = zip(*random.sample(self.pool, BATCH), strict=True)
        return torch.stack(latents), torch.stack(hints)[:, None].expand(-1, 3, -1, -1), things


def run(args):
    use_comfyui(args)
    device = device_of(args)
    seed_everything(SEED + 4)
    drawn = Drawn(args, device)
    drawn.unet.load_state_dict(load_file(str(args.models / "diffusion_models" / FILE)))
    drawn.unet.float().requires_grad_(False)
    net = controlnet_of(drawn.unet, DRAWN_UNET).to(device)
    log(f"ControlNet {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")
    data = Hinted(args)
    training = Run("drawn_controlnet", net.parameters(), args.work, STEPS, LR, args.minutes, decay=0.995)

    def loss_of(step):
        latents, hints, things = data.batch()
        context = drawn.words([prompt_of(thing) for thing in things])
        times = random_times(BATCH, device)
        x = latents.to(device)
        xt, v = drawn.schedule.noised(x, torch.randn(x.shape).to(device), times)
        with torch.autocast(device.type, torch.bfloat16):
            control = net(x=xt, hint=hints.to(device), timesteps=times.float(), context=context)
        control = {name: list(residuals) for name, residuals in control.items()}
        return F.mse_loss(drawn.predict(xt, times, context, control), v)

    def keep():
        names = [name for name, _ in net.named_parameters()]
        tensors = {n: lean(v) for n, v in zip(names, training.average.values, strict=True)}
        write(args.models / "controlnet" / CONTROLNET_FILE, tensors, steps=training.step, hint="white edges on black")

    training.train(loss_of, keep)
    keep()
