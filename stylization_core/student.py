"""The feed-forward student of SMS: a small network that gives a picture a style in one pass.

Source: SMS (arXiv 2503.07601) ends in a light generator of about 43 MB, never released; what stands here is this
pack's own design. All work is done on blocks of 4x4 pixels, and nothing normalises over the picture: statistics of
the whole would make seams between tiles and let brightness pump from frame to frame.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELL = 4
"""Side of the pixel blocks that the network works on."""

SIZES = {"S": (48, 8), "M": (96, 12), "L": (256, 20)}
"""Width and number of blocks of the named sizes: 136,416, 588,816 and 5,745,968 parameters."""


class Block(nn.Module):
    """Depth-wise 7x7, LayerNorm over the channels of each position, two 1x1 maps with GELU between, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.around = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> same."""
        # in channels-last memory the permutations are views, and the 1x1 maps plain matrix products
        change = self.norm(self.around(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(change))).permute(0, 3, 1, 2)


class Student(nn.Module):
    """``x + strength * R(x)``, R a residual that a training has learned.

    R is zero as made, so an untrained student is the identity bit for bit and the published warm-up by reconstruction
    has nothing to do.

    Args:
        width: channels.
        blocks: number of them.
        seed: of the start values.
    """

    def __init__(self, width: int, blocks: int, seed: int = 0):
        super().__init__()
        self.width, self.blocks = width, blocks
        pixels = 3 * CELL**2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.enter = nn.Conv2d(pixels, width, 3, padding=1)
            self.body = nn.Sequential(*(Block(width) for _ in range(blocks)))
            self.leave = nn.Conv2d(width, pixels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.to(memory_format=torch.channels_last)

    @property
    def halo(self) -> int:
        """Pixels beyond a tile on each side that its result can depend on."""
        return CELL * (2 + 3 * self.blocks)

    @property
    def field(self) -> int:
        """Side of the square of pixels that one pixel block can depend on: the block itself and the halo around it."""
        return 2 * self.halo + CELL

    def residual(self, x: Tensor) -> Tensor:
        """R of pictures (B, 3, H, W) in [0, 1] of any size, unbounded; sides are padded by replication to blocks."""
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % CELL, 0, -height % CELL), mode="replicate")
        cells = F.pixel_unshuffle(padded, CELL).contiguous(memory_format=torch.channels_last)
        found = F.pixel_shuffle(self.leave(self.body(self.enter(cells))), CELL)
        return found[..., :height, :width]

    def forward(self, x: Tensor, strength: float | Tensor = 1.0) -> Tensor:
        """Stylized pictures, not clipped.

        Args:
            x: (B, 3, H, W) in [0, 1].
            strength: share of the change, a number or one per picture, (B,); the number 0 returns ``x`` itself.
        """
        if isinstance(strength, Tensor):
            return x + strength.reshape(-1, 1, 1, 1).to(x) * self.residual(x)
        return x if strength == 0 else x + strength * self.residual(x)
