"""8x autoencoder of 8 channels: principal components of 8x8 blocks with a small residual network on either side.

All channels share one scale, the root mean square of the latents: scaling each channel to unit variance would make the
denoiser spend its effort on channels that carry hardly anything.
"""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from .settings import LATENT_CHANNELS
from .training import Run, log

WIDTH = 128
BATCH, CROP, RATE = 16, 64, 1.5e-3
NOISE = 0.25  # the decoder also cleans latents that a sampler left slightly noisy


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class StickerAutoencoder(nn.Module):
    """`encode`: pixels (N, 3, H, W) in -1..1 to latents (N, 8, H/8, W/8) of root mean square 1; `decode` back."""

    def __init__(self, channels=LATENT_CHANNELS, width=WIDTH):
        super().__init__()
        half, quarter = width // 2, width // 4
        self.analysis, self.synthesis = nn.Conv2d(192, channels, 1), nn.Conv2d(channels, 192, 1)
        self.in4, self.enc4 = nn.Conv2d(48, half, 3, padding=1), Block(half)
        self.in8, self.enc8 = nn.Conv2d(4 * half, width, 1), Block(width)
        self.exit8 = nn.Conv2d(width, channels, 3, padding=1)
        self.inlet = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks8 = nn.Sequential(*[Block(width) for _ in range(3)])
        self.up4, self.skip4 = nn.Conv2d(width, 4 * half, 1), nn.Conv2d(12, half, 3, padding=1)
        self.blocks4 = nn.Sequential(Block(half), Block(half))
        self.up2, self.skip2 = nn.Conv2d(half, 4 * quarter, 1), nn.Conv2d(12, quarter, 3, padding=1)
        self.blocks2 = nn.Sequential(Block(quarter), Block(quarter))
        self.outlet = nn.Conv2d(quarter, 12, 3, padding=1)
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(1))
        for m in (self.exit8, self.outlet):
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)
        for m in self.modules():
            if isinstance(m, Block):
                m.conv2.weight.data.mul_(0.3)

    def raw(self, x):
        h = self.enc4(self.in4(F.pixel_unshuffle(x, 4)))
        h = self.enc8(self.in8(F.pixel_unshuffle(h, 2)))
        return self.analysis(F.pixel_unshuffle(x, 8)) + self.exit8(F.silu(h))

    def encode(self, x, *args, **kwargs):
        return (self.raw(x) - self.shift[:, None, None]) / self.scale

    def draw(self, z):
        """Pixels of latents that are not scaled."""
        draft = F.pixel_shuffle(self.synthesis(z), 8)
        h = F.pixel_shuffle(self.up4(self.blocks8(self.inlet(z))), 2)
        h = self.blocks4(h + self.skip4(F.pixel_unshuffle(F.avg_pool2d(draft, 2), 2)))
        h = self.blocks2(F.pixel_shuffle(self.up2(h), 2) + self.skip2(F.pixel_unshuffle(draft, 2)))
        return draft + F.pixel_shuffle(self.outlet(F.silu(h)), 2)

    def decode(self, z, *args, **kwargs):
        return self.draw(z * self.scale + self.shift[:, None, None])


def to_tensor(pictures):
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(x):
    """float (N, 3, H, W) in -1..1 -> uint8 (N, H, W, 3)."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def start_from_components(net, pictures):
    """Sets the linear maps to principal components, the latents softly whitened to a mean variance of 1."""
    blocks = F.pixel_unshuffle(to_tensor(pictures), 8).permute(0, 2, 3, 1).reshape(-1, 192)
    blocks = blocks[torch.randperm(len(blocks))[:60000]].double()
    mean = blocks.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(blocks.T))
    count = net.synthesis.in_channels
    deviation, basis = values.flip(0)[:count].sqrt(), vectors.flip(1)[:, :count]
    gain = deviation**0.5
    gain = gain * ((deviation / gain) ** 2).mean().sqrt()
    net.analysis.weight.copy_((basis / gain).T[:, :, None, None])
    net.analysis.bias.copy_(-(basis / gain).T @ mean)
    net.synthesis.weight.copy_((basis * gain)[:, :, None, None])
    net.synthesis.bias.copy_(mean)


def sharp_loss(output, target):
    """L1 + L2 + L1 of gradients at two scales."""
    d = output - target
    loss = d.abs().mean() + (d * d).mean()
    for _ in range(2):
        loss = loss + (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
        d = F.avg_pool2d(d, 2)
    return loss


def crops(pictures):
    rows = torch.randint(len(pictures), (BATCH,)).tolist()
    spots = torch.randint((pictures.shape[1] - CROP) // 8 + 1, (BATCH, 2)).mul(8).tolist()
    x = np.stack([pictures[r, a : a + CROP, b : b + CROP] for r, (a, b) in zip(rows, spots, strict=True)])
    return to_tensor(x).contiguous(memory_format=torch.channels_last)


ENCODER = ("analysis", "in4", "enc4", "in8", "enc8", "exit8")


def train(work, minutes, decoder_only=False):
    """Writes autoencoder.pt from the canvases in canvases.npy; with `decoder_only` the latents stay what they were."""
    pictures = np.load(work / "canvases.npy", mmap_mode="r")
    torch.manual_seed(0)
    net, path = StickerAutoencoder(), work / "autoencoder.pt"
    state = work / ("decoder.state" if decoder_only else "autoencoder.state")
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
    elif not state.is_file():
        start_from_components(net, pictures[:1200])
    if decoder_only:
        for name in ENCODER:
            getattr(net, name).requires_grad_(False)
    net.to(memory_format=torch.channels_last)
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    run = Run(state, [{"params": list(trained.values()), "lr": RATE}], minutes, 0.99, 0.6, BATCH)

    def loss_of():
        x = crops(pictures)
        with torch.autocast("cpu", torch.bfloat16):
            z = net.raw(x).float()
            y = net.draw(z + torch.randn_like(z) * torch.rand(BATCH, 1, 1, 1) * NOISE)
        return sharp_loss(y.float(), x) + 1e-3 * (z * z).mean()

    if run.train(loss_of):
        finish(net, dict(zip(trained, run.values, strict=True)), pictures, path, not decoder_only)


@torch.no_grad()
def finish(net, averages, pictures, path, measure_scale):
    """Averaged weights and the common scale of the latents."""
    for name, p in net.named_parameters():
        if name in averages:
            p.copy_(averages[name])
    if measure_scale:
        z = torch.cat([net.raw(to_tensor(pictures[k : k + 50])) for k in range(0, 600, 50)])
        net.shift.copy_(z.mean((0, 2, 3)))
        net.scale.copy_((z - net.shift[:, None, None]).square().mean().sqrt())
        log("latents: deviations", [round(v, 2) for v in (z.std((0, 2, 3)) / net.scale).tolist()])
    part = path.with_suffix(".part")
    torch.save({k: v.contiguous() for k, v in net.state_dict().items()}, part)
    part.replace(path)


def load(work):
    net = StickerAutoencoder()
    net.load_state_dict(torch.load(work / "autoencoder.pt", weights_only=True))
    return net.eval().requires_grad_(False)


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of each of the -1..1 pictures (N, 3, H, W)."""
    return -10 * ((a.clamp(-1, 1) - b).square().mean((1, 2, 3)) / 4).log10()
