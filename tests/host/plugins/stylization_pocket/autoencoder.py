"""The pocket autoencoder: 8x, made for training on a CPU.

The encoder is one fixed linear map of each 8x8 pixel block (principal components, softly rescaled); the decoder is its
transpose plus a small pixel-shuffle network that removes block edges, restores detail and cleans slightly noisy
latents. Pixels are -1..1, as for every first stage of ComfyUI.
"""

import comfy.ops
import torch
import torch.nn as nn
import torch.nn.functional as F

ops = comfy.ops.disable_weight_init


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = ops.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = ops.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class PocketAutoencoder(nn.Module):
    def __init__(self, latent_channels=16, width=128):
        super().__init__()
        w4, w2 = width // 2, width // 4
        self.analysis = ops.Conv2d(192, latent_channels, 1)
        self.synthesis = ops.Conv2d(latent_channels, 192, 1)
        self.inlet = ops.Conv2d(latent_channels, width, 3, padding=1)
        self.blocks8 = nn.Sequential(*[ResidualBlock(width) for _ in range(4)])
        self.up4 = ops.Conv2d(width, 4 * w4, 1)
        self.skip4 = ops.Conv2d(12, w4, 3, padding=1)
        self.blocks4 = nn.Sequential(ResidualBlock(w4), ResidualBlock(w4))
        self.up2 = ops.Conv2d(w4, 4 * w2, 1)
        self.skip2 = ops.Conv2d(12, w2, 3, padding=1)
        self.blocks2 = nn.Sequential(ResidualBlock(w2), ResidualBlock(w2))
        self.outlet = ops.Conv2d(w2, 12, 3, padding=1)

    def encode(self, pixels, *args, **kwargs):
        return self.analysis(F.pixel_unshuffle(pixels, 8))

    def decode(self, latent, *args, **kwargs):
        draft = F.pixel_shuffle(self.synthesis(latent), 8)
        draft2 = F.pixel_unshuffle(draft, 2)
        draft4 = F.pixel_unshuffle(F.avg_pool2d(draft, 2), 2)
        h = F.pixel_shuffle(self.up4(self.blocks8(self.inlet(latent))), 2) + self.skip4(draft4)
        h = F.pixel_shuffle(self.up2(self.blocks4(h)), 2) + self.skip2(draft2)
        return draft + F.pixel_shuffle(self.outlet(F.silu(self.blocks2(h))), 2)


class StickerAutoencoder(nn.Module):
    """`encode`: pixels (N, 3, H, W) in -1..1 to latents (N, 8, H/8, W/8) of root mean square 1; `decode` back."""

    def __init__(self, channels=8, width=128):
        super().__init__()
        half, quarter = width // 2, width // 4
        self.analysis, self.synthesis = ops.Conv2d(192, channels, 1), ops.Conv2d(channels, 192, 1)
        self.in4, self.enc4 = ops.Conv2d(48, half, 3, padding=1), ResidualBlock(half)
        self.in8, self.enc8 = ops.Conv2d(4 * half, width, 1), ResidualBlock(width)
        self.exit8 = ops.Conv2d(width, channels, 3, padding=1)
        self.inlet = ops.Conv2d(channels, width, 3, padding=1)
        self.blocks8 = nn.Sequential(*[ResidualBlock(width) for _ in range(3)])
        self.up4, self.skip4 = ops.Conv2d(width, 4 * half, 1), ops.Conv2d(12, half, 3, padding=1)
        self.blocks4 = nn.Sequential(ResidualBlock(half), ResidualBlock(half))
        self.up2, self.skip2 = ops.Conv2d(half, 4 * quarter, 1), ops.Conv2d(12, quarter, 3, padding=1)
        self.blocks2 = nn.Sequential(ResidualBlock(quarter), ResidualBlock(quarter))
        self.outlet = ops.Conv2d(quarter, 12, 3, padding=1)
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(1))

    def raw(self, x):
        h = self.enc4(self.in4(F.pixel_unshuffle(x, 4)))
        h = self.enc8(self.in8(F.pixel_unshuffle(h, 2)))
        return self.analysis(F.pixel_unshuffle(x, 8)) + self.exit8(F.silu(h))

    def encode(self, x, *args, **kwargs):
        return (self.raw(x) - self.shift.to(x)[:, None, None]) / self.scale.to(x)

    def draw(self, z):
        """Pixels of latents that are not scaled."""
        draft = F.pixel_shuffle(self.synthesis(z), 8)
        h = F.pixel_shuffle(self.up4(self.blocks8(self.inlet(z))), 2)
        h = self.blocks4(h + self.skip4(F.pixel_unshuffle(F.avg_pool2d(draft, 2), 2)))
        h = self.blocks2(F.pixel_shuffle(self.up2(h), 2) + self.skip2(F.pixel_unshuffle(draft, 2)))
        return draft + F.pixel_shuffle(self.outlet(F.silu(h)), 2)

    def decode(self, z, *args, **kwargs):
        return self.draw(z * self.scale.to(z) + self.shift.to(z)[:, None, None])
