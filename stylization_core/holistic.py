"""Holistic style injection: the statistics of a reference's features are carried to a picture's, at linear cost.

Source: Holistic Style Injector (CVPR 2025, arXiv 2502.04369), whose dual relation is taken without its
trained weights: global content x global style moves the mean of each channel (tone), local content x global style its
shape over the tokens (texture). Tensors are (B, N, C), features over N tokens; every statistic is per channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LEVELS = 33
"""Points of a table of quantiles, at the probabilities (k + 1/2) / LEVELS."""

TOKENS = 4096
"""A table of quantiles is read from at most so many tokens, evenly spread."""

STEEPEST = 4.0
"""Largest slope of a transport between standardised tables: what lies close together in the picture stays close."""

SMALLEST = 1e-6
"""Spreads below this are none."""

AT_ONCE = 1024
"""Tokens that a processor's cache holds; a GPU takes all at once."""


class Statistics(NamedTuple):
    """Of features over their tokens, in float32.

    Attributes:
        mean, std: (B, 1, C); the deviation of the population, without Bessel's correction.
        skewness, kurtosis: third and fourth standardised moments, (B, 1, C); 0 and 3 for a normal distribution.
        quantiles: (B, LEVELS, C), or None.
    """

    mean: Tensor
    std: Tensor
    skewness: Tensor
    kurtosis: Tensor
    quantiles: Tensor | None = None

    def row(self, index: int) -> Statistics:
        """Of one picture of the batch."""
        return Statistics(*(each if each is None else each[index : index + 1] for each in self))


def statistics(x: Tensor, weights: Tensor | None = None, *, table: bool = False) -> Statistics:
    """Moments, and with ``table`` the quantiles, over the tokens of ``x`` (B, N, C).

    Args:
        weights: (N,) or (1 or B, N) at least 0, how much each token counts; None is all alike. Rows without any give
            numbers without meaning.
    """
    x = x.float()
    share = _shares(x, weights)
    mean = (share * x).sum(1, keepdim=True)
    # from the mean: powers of raw values cancel
    centred = x - mean
    square = centred * centred
    var = (share * square).sum(1, keepdim=True)
    third = (share * square * centred).sum(1, keepdim=True)
    fourth = (share * square * square).sum(1, keepdim=True)
    return Statistics(*_standardised(mean, var, third, fourth), _quantiles(x, weights) if table else None)


def mean_and_std(x: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The first two of :func:`statistics` alone: reads ``x`` twice, and on a CPU writes nothing of its size."""
    step = AT_ONCE if x.device.type == "cpu" else x.shape[1]
    share = _shares(x, weights).expand(-1, x.shape[1], -1)
    parts = list(zip(x.split(step, 1), share.split(step, 1), strict=True))
    mean = sum((part.float() * each).sum(1, keepdim=True) for part, each in parts)
    var = sum(((part.float() - mean).square() * each).sum(1, keepdim=True) for part, each in parts)
    return mean, _root(var)


def _shares(x: Tensor, weights: Tensor | None) -> Tensor:
    """(1 or B, N or 1, 1), what each token counts."""
    if weights is None:
        return x.new_full((1, 1, 1), 1 / x.shape[1], dtype=torch.float32)
    weights = weights.to(x.device, torch.float32)
    return (weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)).reshape(-1, x.shape[1], 1)


def _standardised(mean: Tensor, var: Tensor, third: Tensor, fourth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    std = _root(var)
    known, safe = std > SMALLEST, _divisor(std)
    skewness = torch.where(known, third / safe**3, torch.zeros_like(third))
    kurtosis = torch.where(known, fourth / safe**4, torch.full_like(fourth, 3.0))
    return mean, std, skewness, kurtosis


def _quantiles(x: Tensor, weights: Tensor | None) -> Tensor:
    """(B, LEVELS, C): values at the middle of each share of the tokens (Hazen's definition)."""
    stride = -(-x.shape[1] // TOKENS)
    x = x[:, ::stride]
    if weights is None:
        ranked = x.sort(1).values
        place = _probabilities(x) * x.shape[1] - 0.5
        low = place.floor().clamp(0, x.shape[1] - 1).long()
        high = (low + 1).clamp(max=x.shape[1] - 1)
        part = (place - low).clamp(0, 1)[None, :, None]
        return torch.lerp(ranked[:, low], ranked[:, high], part)
    return _weighted_quantiles(x, weights[..., ::stride].to(x).reshape(-1, x.shape[1], 1).expand_as(x))


def _probabilities(x: Tensor) -> Tensor:
    return (torch.arange(LEVELS, device=x.device, dtype=x.dtype) + 0.5) / LEVELS


def _weighted_quantiles(x: Tensor, weights: Tensor) -> Tensor:
    """(B, LEVELS, C) of values (B, N, C) that count by ``weights`` of the same shape."""
    counted = weights > 0
    top = torch.where(counted, x, -torch.inf).amax(1, keepdim=True)
    # what does not count goes to the end, where it is no step between two values that do
    ranked, order = torch.where(counted, x, torch.inf).sort(1)
    ranked = torch.minimum(ranked, torch.where(top.isneginf(), 0.0, top))
    mass = weights.gather(1, order)
    # the middle of each token's own share
    middle = (mass.cumsum(1) - mass / 2) / mass.sum(1, keepdim=True).clamp_min(1e-12)
    return interpolated(_probabilities(x).expand(x.shape[0], x.shape[2], -1).transpose(1, 2), middle, ranked)


def interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear function through (knots, values), at ``x``; constant beyond the ends.

    Args:
        x: (B, N, C).
        knots: (1 or B, P, C), not falling along P. values: likewise.

    Returns:
        (B, N, C).
    """
    rows = x.shape[0]
    columns = lambda t: t.expand(rows, -1, -1).transpose(1, 2).contiguous()  # noqa: E731
    at, knots, values = columns(x), columns(knots), columns(values)
    high = torch.searchsorted(knots, at).clamp(1, knots.shape[-1] - 1)
    low = high - 1
    left, right = knots.gather(-1, low), knots.gather(-1, high)
    width = right - left
    part = torch.where(width > 0, (at - left) / width.clamp_min(1e-30), torch.zeros_like(at)).clamp(0, 1)
    return torch.lerp(values.gather(-1, low), values.gather(-1, high), part).transpose(1, 2)


def mixed_statistics(parts: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Statistics of the weighted mixture of several populations, not the mean of their statistics.

    Args:
        parts: at least one; the mixture has a table if all have one.
        weights: one per part, at least 0 and not all 0.
    """
    if len(parts) == 1:
        return parts[0]
    total = sum(weights)
    shares = [weight / total for weight in weights]
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    var, third, fourth = (torch.zeros_like(mean) for _ in range(3))
    for share, part in zip(shares, parts, strict=True):
        off, own_var = part.mean - mean, part.std**2
        own_third, own_fourth = part.skewness * part.std**3, part.kurtosis * part.std**4
        var = var + share * (own_var + off**2)
        third = third + share * (own_third + 3 * off * own_var + off**3)
        fourth = fourth + share * (own_fourth + 4 * off * own_third + 6 * off**2 * own_var + off**4)
    tables = [part.quantiles for part in parts]
    table = None
    if all(one is not None for one in tables):
        rows = max(one.shape[0] for one in tables)
        values = torch.cat([one.expand(rows, -1, -1) for one in tables], 1)
        counts = [one.new_full((rows, *one.shape[1:]), share) for share, one in zip(shares, tables, strict=True)]
        table = _weighted_quantiles(values, torch.cat(counts, 1))
    return Statistics(*_standardised(mean, var, third, fourth), table)


def likeness(own: Tensor, style: Tensor) -> Tensor:
    """(1 + cosine) / 2 of means (1 or B, 1, C), (B, 1, 1) in [0, 1]: how much a picture is like the style already.

    Source: the fusion weight of the paper, on means before normalisation; normalised features have none.
    """
    own, style = torch.broadcast_tensors(own, style)
    return (1 + torch.cosine_similarity(own, style, -1))[..., None] / 2


def transported(z: Tensor, own: Tensor, style: Tensor) -> Tensor:
    """Standardised features with the shape of the style's distribution, a rising map per channel.

    Args:
        z: (B, N, C), of mean 0 and deviation 1.
        own, style: standardised tables of quantiles, (1 or B, LEVELS, C).

    Returns:
        (B, N, C). No slope is above STEEPEST; beyond the tables' ends the slope is 1.
    """
    gaps = torch.minimum(style.diff(dim=1), STEEPEST * own.diff(dim=1))
    # the limited steps start from the middle of the style's table, so that the bulk stays where it belongs
    middle = style.shape[1] // 2
    risen = torch.cat([torch.zeros_like(gaps[:, :1]), gaps.cumsum(1)], 1)
    wanted = style[:, middle : middle + 1] + risen - risen[:, middle : middle + 1]
    beyond = (z - own[:, -1:]).clamp_min(0) + (z - own[:, :1]).clamp_max(0)
    return interpolated(z, own, wanted) + beyond


def injected(
    x: Tensor,
    style: Statistics,
    *,
    strength: float | Tensor = 1.0,
    tone: float | Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Features with the statistics of a style: ``x + strength * (tone shift + (1 - tone) * change of shape)``.

    Args:
        x: (B, N, C).
        style: with a table of quantiles the whole shape follows it (quantile mode), without one mean and deviation.
        strength: 0 returns ``x`` itself; or one per token, (B, N, 1).
        tone: in [0, 1]; 1 moves the mean alone (global content x global style), 0 gives the whole distribution (local
            content x global style). None takes :func:`likeness`.
        weights: how much each token counts in the statistics of ``x``, as in :func:`statistics`.

    Returns:
        Tensor like ``x``.
    """
    if not isinstance(strength, Tensor) and strength == 0:
        return x
    mean, std = mean_and_std(x, weights)
    tone = likeness(mean, style.mean) if tone is None else tone
    if style.quantiles is None:
        # a gain and an offset per channel, so that the features are read once more and written once
        gain = (1 - tone) * (style.std - std) / _divisor(std)
        offset = style.mean - mean - gain * mean
        if isinstance(strength, Tensor):
            return torch.addcmul(x.float(), strength, torch.addcmul(offset, x.float(), gain)).to(x.dtype)
        return torch.addcmul(strength * offset, x.float(), 1 + strength * gain).to(x.dtype)
    z = (x.float() - mean) / _divisor(std)
    own = (_quantiles(x.float(), weights) - mean) / _divisor(std)
    shaped = transported(z, own, (style.quantiles - style.mean) / _divisor(style.std))
    shape = shaped * style.std - z * std
    return (x.float() + strength * (style.mean - mean + (1 - tone) * shape)).to(x.dtype)


def _root(var: Tensor) -> Tensor:
    """Deviations of variances; the root itself has no finite slope at 0."""
    return torch.where(var > 0, var, torch.ones_like(var)).sqrt() * (var > 0)


def _divisor(std: Tensor) -> Tensor:
    """Deviations to divide by; 1 where there is none."""
    return torch.where(std <= SMALLEST, torch.ones_like(std), std)
