"""Pairs to learn a style from without pairs of pictures: two parts of one picture share its style, not its content."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TRIES = 32
"""Pairs of places that are drawn; the one whose parts share least is taken."""


def places(size: tuple[int, int], cells: int, draws: torch.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Upper left corners of two squares of ``cells`` in a picture, apart where it is large enough.

    Args:
        size: (h, w), both at least ``cells``.
    """
    rows, columns = (torch.randint(0, each - cells + 1, (TRIES, 2), generator=draws).tolist() for each in size)
    pairs = [tuple(zip(y, x, strict=True)) for y, x in zip(rows, columns, strict=True)]
    return min(pairs, key=lambda pair: _shared(*pair, cells))


def _shared(one: tuple[int, int], other: tuple[int, int], cells: int) -> int:
    height, width = (max(0, cells - abs(a - b)) for a, b in zip(one, other, strict=True))
    return height * width


def drawn_pairs(latents: Sequence[Tensor], cells: int, rows: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Targets and styles, (rows, C, cells, cells) each, of pictures drawn without repetition as long as they last.

    Args:
        latents: of whole pictures, (C, h, w) each, h and w at least ``cells``.
    """
    order: list[int] = []
    while len(order) < rows:
        order += torch.randperm(len(latents), generator=draws).tolist()
    pairs = []
    for index in order[:rows]:
        latent = latents[index]
        corners = places(tuple(latent.shape[-2:]), cells, draws)
        pairs.append([latent[:, y : y + cells, x : x + cells] for y, x in corners])
    targets, styles = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return targets, styles


def spread_shares(rows: int, draws: torch.Generator) -> Tensor:
    """Shares in (0, 1), one per row, spread evenly over the range and drawn inside their part; (rows,)."""
    inside = torch.rand(rows, generator=draws).clamp(1e-3, 1 - 1e-3)
    return (torch.arange(rows) + inside) / rows


def level_weight(ratio: Tensor) -> Tensor:
    """Weight of ``mean((D - x)^2)`` at noise-to-signal ratios, so that all levels count alike: ``1 + 1 / ratio^2``.

    It is the loss of a v-prediction, whatever the model predicts; the loss of a noise prediction would leave the
    highest levels out, where tone and palette are decided. Source: EDM (Karras et al. 2022), for data of variance 1.
    """
    return 1 + ratio.clamp_min(1e-3) ** -2


def drawn_cross_pairs(
    latents: Sequence[Tensor], cells: int, rows: int, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Targets and styles as of :func:`drawn_pairs`, each style of another picture than its target if there are two."""
    targets, styles = drawn_pairs(latents, cells, rows + 1, draws)
    return targets[:-1], styles[1:]


def moment_distance(x: Tensor, style: Tensor) -> Tensor:
    """Squared distance of the channels' means, deviations, and deviations of their slopes, of (B, C, H, W); (B,)."""

    def described(each: Tensor) -> Tensor:
        slopes = (each.diff(dim=-1), each.diff(dim=-2))
        spreads = [(one.flatten(2).var(-1) + 1e-6).sqrt() for one in (each, *slopes)]
        return torch.cat([each.mean((-2, -1)), *spreads], -1)

    return ((described(x) - described(style)) ** 2).mean(-1)


def structure_distance(x: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of pictures (B, C, H, W) whose channels were brought to mean 0 and deviation 1; (B,)."""

    def structure(each: Tensor) -> Tensor:
        flat = each.flatten(2)
        return (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, keepdim=True) + 1e-4).sqrt()

    return ((structure(x) - structure(other)) ** 2).mean((-2, -1))
