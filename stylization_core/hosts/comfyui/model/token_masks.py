"""Masks on the token grids of attention layers."""

from __future__ import annotations

from torch import Tensor

from ....masks import on_grid
from .self_attention import Call


def per_token(mask: Tensor, call: Call) -> Tensor:
    """(B, N, K) of masks (B, K, H, W), one value per token of a layer's grid, on the layer's device."""
    return on_grid(mask, call.options["activations_shape"][-2:]).to(call.q.device).flatten(2).transpose(1, 2)
