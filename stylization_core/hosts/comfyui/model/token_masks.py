"""Masks on the token grids of attention layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .self_attention import Call


def on_grid(mask: Tensor, grid: Sequence[int], like: Tensor) -> Tensor:
    """(B, K, h, w) of masks (B, K, H, W) on a layer's grid, by area average."""
    return F.adaptive_avg_pool2d(mask.clamp(0, 1), tuple(grid)).to(like.device)


def per_token(mask: Tensor, call: Call) -> Tensor:
    """(B, N, K) of masks (B, K, H, W), one value per token of a layer's grid."""
    return on_grid(mask, call.options["activations_shape"][-2:], call.q).flatten(2).transpose(1, 2)
