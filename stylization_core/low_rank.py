"""Low-rank weight deltas applied to activations instead of weights.

``W + s * up @ down`` acts as ``y + s * up(down(x))``; the second form leaves W alone and can act on some rows of a
batch only. Linear layers and convolutions; ``mid`` is the Tucker core of LyCORIS's LoCon.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ConvGeometry:
    """Stride, padding, dilation and groups of the convolution that a delta belongs to; 2-D."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int


def low_rank(
    x: Tensor, up: Tensor, down: Tensor, mid: Tensor | None, scale: float, conv: ConvGeometry | None = None
) -> Tensor:
    """``scale * up(mid(down(x)))`` without bias.

    Args:
        x: (B, ..., in) for a linear layer, (B, in, H, W) for a convolution.
        up, down: (out, rank[, 1, 1]) and (rank, in[, kh, kw]).
        mid: (rank, rank, kh, kw) or None.
        conv: geometry when the layer is a convolution.

    Returns:
        The delta of the layer's output.
    """
    if conv is None:
        return F.linear(F.linear(x, down.flatten(1)) * scale, up.flatten(1))
    if mid is None:
        kernel = down if down.ndim == 4 else down[:, :, None, None]
        hidden = F.conv2d(x, kernel, None, conv.stride, conv.padding, conv.dilation)
    else:
        hidden = F.conv2d(x, down.flatten(1)[:, :, None, None])
        hidden = F.conv2d(hidden, mid, None, conv.stride, conv.padding, conv.dilation)
    # on the few channels of the rank, not on the layer's own
    return F.conv2d(hidden * scale, up.flatten(1)[:, :, None, None])


def dense(x: Tensor, delta: Tensor, conv: ConvGeometry | None = None) -> Tensor:
    """The output delta of a full weight delta (out, in[, kh, kw])."""
    if conv is None:
        return F.linear(x, delta.flatten(1))
    return F.conv2d(x, delta, None, conv.stride, conv.padding, conv.dilation, conv.groups)
