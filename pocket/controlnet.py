"""ControlNet stage: a small edge ControlNet in ComfyUI's own class, started from the encoder of the trained UNet."""

import random

import numpy as np
import torch
import torch.nn as nn
from autoencoder import SEEN, open_pictures, prepare
from checkpoint import lean, write
from edges import canny_map, edge_map
from logs import log
from networks import device_of, light_group_norm, reset, unet_arguments, use_comfyui
from settings import SEED, UNET
from training import Run, seed_everything
from unet import Base, Latents, pick_shape, write_prompt

STEPS, LR = 2500, 1e-3
FILE = "stylization_pocket_edges.safetensors"


def build_controlnet(unet):
    """ControlNet with one transformer level only."""
    return controlnet_of(unet, {"transformer_depth": [0] * (len(UNET["transformer_depth"]) - 1) + [1]})


def controlnet_of(unet, changes):
    """ControlNet whose weights are copied from the UNet's encoder where both have them; its exits are zero."""
    import comfy.ops
    from comfy.cldm.cldm import ControlNet

    given = unet_arguments(**{**changes, "hint_channels": 3, "transformer_depth_middle": -1})
    for name in ("out_channels", "transformer_depth_output"):
        given.pop(name)
    net = ControlNet(**given, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    light_group_norm(reset(net))
    source, own = unet.state_dict(), net.state_dict()
    net.load_state_dict({k: source[k] if k in source and source[k].shape == v.shape else v for k, v in own.items()})
    for module in (*net.zero_convs, net.middle_block_out):
        conv = module[0]
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    return net


def hints_of(pictures):
    """Edge maps, uint8 (views, 2, H, W): the soft map and the Canny map of every photograph."""
    out = np.empty((len(pictures), 2, *pictures.shape[1:3]), np.uint8)
    for k, picture in enumerate(pictures):
        image = picture.astype(np.float32) / 255
        out[k] = [edge_map(image)[..., 0] * 255, canny_map(image)[..., 0] * 255]
    return out


class HintedLatents(Latents):
    """Crops of latents with the same crops of the edge maps of their photographs."""

    def __init__(self, work, styles, weights):
        super().__init__(work, styles, weights)
        path = work / "hints.npy"
        if not path.is_file():
            np.save(path, hints_of(open_pictures(work, ["photo"])["photo"]))
        self.hints = np.load(path, mmap_mode="r")

    def hinted_batch(self, height, width, count):
        crops, hints, tags = [], [], []
        for style in random.choices(self.styles, self.weights, k=count):
            k, flip = random.choice(self.rows), random.randint(0, 1)
            z, hint = self.arrays[style][k, flip], self.hints[k, random.randint(0, 1)]
            hint = hint[:, ::-1] if flip else hint
            y, x = random.randint(0, z.shape[1] - height), random.randint(0, z.shape[2] - width)
            crops.append(z[:, y : y + height, x : x + width])
            hints.append(hint[8 * y : 8 * (y + height), 8 * x : 8 * (x + width)])
            tags.append((style, self.views[k]))
        hint = torch.from_numpy(np.stack(hints)).float()[:, None].expand(-1, 3, -1, -1) / 255
        return torch.from_numpy(np.stack(crops)).float(), hint, tags


def controlled(base, net, hint):
    """The frozen UNet with the ControlNet attached, called as the UNet is."""

    def forward(x, times, context):
        control = net(x=x, hint=hint.to(x.device), timesteps=times, context=context)
        return base.unet(x, times, context=context, control={k: list(v) for k, v in control.items()})

    return forward


def run(args):
    use_comfyui(args)
    device = device_of(args)
    seed_everything(SEED + 2)
    base = Base(args.work, device).load_average(args.work)
    prepare(args.work, SEEN)
    data = HintedLatents(args.work, SEEN, [3.0] + [1.0] * (len(SEEN) - 1))
    net = build_controlnet(base.unet).to(device)
    training = Run("controlnet", net.parameters(), args.work, STEPS, LR, args.minutes, decay=0.99)
    log(f"ControlNet {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")

    def loss_of(step):
        height, width, count = pick_shape()
        latents, hint, tags = data.hinted_batch(height, width, count)
        prompts = [write_prompt(style, view, height >= 24) for style, view in tags]
        times = (torch.sigmoid(torch.randn(count) * 1.2 + 0.5) * 1000).long().clamp(0, 999).to(device)
        return base.losses(latents, prompts, times, controlled(base, net, hint)).mean()

    def keep():
        names = [n for n, _ in net.named_parameters()]
        tensors = {n: lean(v) for n, v in zip(names, training.average.values, strict=True)}
        write(args.models / "controlnet" / FILE, tensors, steps=training.step, hint="white edges on black")

    training.train(loss_of, keep)
    keep()
