"""Weight deltas applied to activations instead of weights.

``W + s * up @ down`` acts as ``y + s * up(down(x))``; the second form leaves W alone and can act on some rows of a
batch only. Linear layers and convolutions, where ``mid`` is the Tucker core of LyCORIS's LoCon, and norms, where a
delta of the gain acts on what the norm makes before its gain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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


NORMS = (torch.nn.GroupNorm, torch.nn.LayerNorm, *filter(None, (getattr(torch.nn, "RMSNorm", None),)))
"""Norms whose gain :func:`gain` can change, each over one row of the batch or less."""


def normed(x: Tensor, norm: torch.nn.Module) -> Tensor:
    """What one of :data:`NORMS` makes of ``x`` before gain and bias; same shape."""
    if isinstance(norm, torch.nn.GroupNorm):
        return F.group_norm(x, norm.num_groups, None, None, norm.eps)
    if isinstance(norm, torch.nn.LayerNorm):
        return F.layer_norm(x, norm.normalized_shape, None, None, norm.eps)
    return F.rms_norm(x, norm.normalized_shape, None, norm.eps)


def gain(x: Tensor, delta: Tensor, norm: torch.nn.Module) -> Tensor:
    """The output delta of a delta on a norm's gain.

    Args:
        x: (B, C, ...) for a group norm, (B, ..., C) for the others.
        delta: in the shape of the norm's weight.
    """
    return normed(x, norm) * per_channel(delta, norm)


def per_channel(value: Tensor, norm: torch.nn.Module) -> Tensor:
    """A norm's gain or bias in a shape that meets the norm's channels."""
    return value.view(-1, 1, 1) if isinstance(norm, torch.nn.GroupNorm) else value
