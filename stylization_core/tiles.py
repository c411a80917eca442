"""Pictures of any size through a network of finite receptive field, tile by tile and equal to the whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .student import CELL, Student

SMALLEST = 64
"""Side of the smallest tile; below it nearly all work goes into halos."""

NUMBERS = 7.0
"""Tensors of the student's width that are alive at once in one of its blocks, at the resolution of blocks.

The block's input, what the depth-wise convolution and the norm make of it, the doubled width before and after GELU;
measured by ``benchmarks/cost/student.py``.
"""


def tiled(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: int,
    halo: int,
    on_tile: Callable[[], None] = lambda: None,
) -> Tensor:
    """``network(x)``, computed in tiles; equal to the whole where ``halo`` covers the network's field.

    Args:
        network: pictures (B, 3, h, w) to pictures of the same size; it may work on another device.
        x: (B, 3, H, W), of any size.
        tile: side of a tile in pixels, rounded up to the network's blocks; 0 or at least both sides is the whole.
        halo: pixels on each side that are computed and thrown away, a multiple of the blocks.
        on_tile: called before each tile, for progress and interrupts.

    Returns:
        (B, 3, H, W) on ``x``'s device.

    Raises:
        ValueError: a halo that is no multiple of the blocks, which would shift them.
    """
    if halo % CELL:
        raise ValueError(f"tiled: halo must be a multiple of {CELL}, got {halo}")
    height, width = x.shape[-2:]
    if tile <= 0 or tile >= max(height, width):
        on_tile()
        return network(x).to(x.device)
    tile += -tile % CELL
    # sides become whole blocks once, here: a tile alone would pad at other places than the whole picture does
    padded = F.pad(x, (0, -width % CELL, 0, -height % CELL), mode="replicate")
    out = torch.empty_like(padded)
    tall, wide = padded.shape[-2:]
    for top in range(0, tall, tile):
        for left in range(0, wide, tile):
            on_tile()
            above, before = max(0, top - halo), max(0, left - halo)
            bottom, right = min(tall, top + tile), min(wide, left + tile)
            seen = padded[..., above : min(tall, bottom + halo), before : min(wide, right + halo)]
            found = network(seen)[..., top - above : bottom - above, left - before : right - before]
            out[..., top:bottom, left:right] = found.to(out.device)
    return out[..., :height, :width]


def bytes_for(student: Student, height: int, width: int, element: int = 4) -> int:
    """Bytes that one picture of a size needs inside a student, beside its weights; ``element`` is a number's size."""
    cells = -(-height // CELL) * -(-width // CELL)
    return int(cells * element * (NUMBERS * student.width + 4 * 3 * CELL**2))


def tile_for(student: Student, size: tuple[int, int], free: int, element: int = 4) -> int:
    """The largest tile of a picture that fits into memory; 0 where the whole picture does.

    Args:
        size: height and width in pixels.
        free: bytes.
        element: bytes of a number.
    """
    if bytes_for(student, *size, element) <= free:
        return 0
    tile = max(size)
    while tile > SMALLEST and bytes_for(student, tile + 2 * student.halo, tile + 2 * student.halo, element) > free:
        tile //= 2
    return max(SMALLEST, tile + -tile % CELL)
