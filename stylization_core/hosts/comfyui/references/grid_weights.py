"""How much each token of a reference counts, made once for each token grid of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....masks import on_grid
from ....shared_attention import TokenMask, token_mask


class GridWeights:
    """A reference's mask on the grids of layers; masks are pooled where they lie, and moved once per grid.

    Args:
        mask: (H, W) in [0, 1] of any size, or None.
    """

    def __init__(self, mask: Tensor | None):
        self._mask = mask
        self._pooled: dict[tuple[int, ...], Tensor] = {}
        self._moved: dict[tuple, Tensor] = {}
        self._masks: dict[tuple, TokenMask] = {}

    def at(self, grid: Sequence[int], device: torch.device) -> Tensor | None:
        """Weights of the tokens of a grid, (N,); None where all count alike."""
        if self._mask is None:
            return None
        key = (*grid, device)
        if key not in self._moved:
            self._moved[key] = self._on(grid).to(device)
        return self._moved[key]

    def tokens(self, grid: Sequence[int], device: torch.device) -> TokenMask | None:
        """What shared attention needs to know of the weights of a grid; None where all tokens count alike."""
        if self._mask is None:
            return None
        key = (*grid, device)
        if key not in self._masks:
            self._masks[key] = token_mask(self._on(grid), device)
        return self._masks[key]

    def _on(self, grid: Sequence[int]) -> Tensor:
        key = tuple(grid)
        if key not in self._pooled:
            self._pooled[key] = on_grid(self._mask[None, None].float(), key).flatten()
        return self._pooled[key]
