"""Class-adaptive attention: each region of a picture attends to a few tokens of its own reference.

Source: CA2-SIS (Fontanini et al., IEEE Access 2025, arXiv 2308.16071), whose generator attends from content features to
one style code per class and lets the softmax run over all classes. Here the codes are a few keys and values of each
class's reference, taken from the model's own self-attention; a bias says how strictly a position keeps to its class.
With one token per class and a hard mask the softmax would be a look-up, so classes have several. Tensors are (B, N, C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared_attention import Attention, TokenMask

TOKENS = 16
"""Tokens of a class."""

ROUNDS = 4
"""Of k-means."""

CHANNELS = 8
"""Channels added to each head come in multiples of this, which fused attention wants."""

NEVER = -1e4
"""Logit of what is not attended to; far below any other, and finite in half precision."""


class ClassTokens(NamedTuple):
    """What stands for a class in one layer.

    Attributes:
        key, value: (T, C), projected.
        mass: (T,), how many tokens of the reference each stands for, relative to the mean of those that are not empty.
    """

    key: Tensor
    value: Tensor
    mass: Tensor


def partition(masks: Tensor) -> Tensor:
    """A soft partition (K, ...) of masks in [0, 1]: where their sum is above 1 they share, the rest is free."""
    masks = masks.clamp(0, 1)
    return masks / masks.sum(0, keepdim=True).clamp_min(1)


def class_tokens(key: Tensor, value: Tensor, mask: TokenMask | None = None, count: int = TOKENS) -> ClassTokens | None:
    """At most ``count`` tokens that stand for a reference, or for the part of it that a mask keeps.

    k-means on the keys, started from tokens spread evenly over the reference; a cluster's key and value are its means.
    A cluster that ends empty stays, with the mass 0: how many there are only the device knows.

    Args:
        key, value: (N, C), projected, of one reference.
        mask: how much each token counts; None is all alike.

    Returns:
        None where no token counts.
    """
    if mask is not None and mask.place is not None:
        key, value = (each.index_select(0, mask.place.to(each.device)) for each in (key, value))
    if len(key) == 0:
        return None
    weights = key.new_ones(len(key), dtype=torch.float32) if mask is None else mask.log_mass.to(key.device).exp()
    if len(key) <= count:
        return ClassTokens(key, value, weights / weights.mean())
    k, v = key.float(), value.float()
    spread = torch.linspace(0, len(k) - 1, count, device=k.device).round().long()
    centres = k.index_select(0, spread)
    for _ in range(ROUNDS):
        member = F.one_hot(torch.cdist(k, centres).argmin(1), count).to(k) * weights[:, None]
        mass = member.sum(0)
        found = (member.T @ k) / mass.clamp_min(1e-12)[:, None]
        # an empty cluster stays where it was
        centres = torch.where(mass[:, None] > 0, found, centres)
    values = (member.T @ v) / mass.clamp_min(1e-12)[:, None]
    return ClassTokens(centres.to(key), values.to(value), mass * (mass > 0).sum() / mass.sum())


def class_attention(
    q: Tensor,
    classes: Sequence[ClassTokens],
    masks: Tensor,
    heads: int,
    attention: Attention,
    *,
    weights: Sequence[float] | None = None,
    adaptivity: float = 5.0,
) -> Tensor:
    """Attention of every position to the tokens of all classes, its own preferred.

    ``softmax(q k / sqrt(d) + adaptivity * (m_c - 1) + ln w_c + ln mass) v`` without an explicit mask: the bias has the
    rank of the number of classes and travels as that many channels.

    Args:
        q: (B, N, C), projected.
        classes: at least one.
        masks: (1 or B, N, K) in [0, 1], how much each position belongs to each class.
        heads: number of heads in C.
        attention: the backend.
        weights: one per class, above 0; None is 1 each.
        adaptivity: 0 is one shared pool, infinity each position's own classes alone.

    Returns:
        (B, N, C). Positions of no class see the pool of all; leave them out with the masks.
    """
    rows, width = q.shape[0], q.shape[-1] // heads
    count = len(classes)
    more = CHANNELS * -(-(count + 1) // CHANNELS)
    wide = width + more
    keys, values = (torch.cat([getattr(one, part) for one in classes])[None] for part in ("key", "value"))
    factors = [1.0] * count if weights is None else weights
    pairs = list(zip(classes, factors, strict=True))
    log = torch.cat([(one.mass.float() * factor).log() for one, factor in pairs])
    # the backend divides by sqrt(wide)
    root = math.sqrt(wide)
    bias = (masks.float() - 1) * adaptivity if math.isfinite(adaptivity) else torch.where(masks > 0, 0.0, NEVER)
    q_more = q.new_zeros(rows, q.shape[1], heads, more)
    q_more[..., :count] = bias.clamp_min(NEVER).to(q)[:, :, None]
    q_more[..., count] = 1
    k_more = keys.new_zeros(1, keys.shape[1], heads, more)
    # by slices: an index made on the processor would have to be copied to the device in every layer
    for place, part in enumerate(k_more.split([len(one.key) for one in classes], 1)):
        part[..., place] = root
    # an empty cluster has the logarithm of 0
    k_more[..., count] = (log * root).clamp_min(NEVER).to(keys)[None, :, None]
    split = lambda x: x.unflatten(-1, (heads, width))  # noqa: E731
    q = torch.cat([split(q) * math.sqrt(wide / width), q_more], -1).flatten(-2)
    keys = torch.cat([split(keys), k_more], -1).flatten(-2)
    values = torch.cat([split(values), values.new_zeros(*values.shape[:2], heads, more)], -1).flatten(-2)
    found = attention(q, keys.expand(rows, -1, -1).to(q), values.expand(rows, -1, -1).to(q))
    return found.unflatten(-1, (heads, wide))[..., :width].flatten(-2)


def blended(own: Tensor, found: Tensor, masks: Tensor, strength: float = 1.0) -> Tensor:
    """``own`` where no class is, ``found`` where classes are, by the sum of their masks (1 or B, N, K); (B, N, C).

    Positions that no class reaches stay equal bit for bit.
    """
    share = (masks.sum(-1, keepdim=True) * strength).to(own)
    return torch.where(share > 0, torch.lerp(own, found.to(own), share), own)
