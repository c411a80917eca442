"""Shared self-attention: pictures attend to a reference's tokens besides their own, and so take its style.

Source: StyleAligned (Hertz et al., arXiv 2312.02133), section 3.2 and equation 2. Queries and keys are normalised to
the reference's statistics (AdaIN) after projection, then the reference's keys and values join the picture's own.
Tensors are (B, N, C) with C = heads * channels of a head, as projections give them; statistics over the N tokens of
each channel are therefore statistics per head and channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to variances, as published."""

PAD = 8
"""Channels added to each head for a bias; fused attention wants multiples of 8."""

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scaled dot-product attention of (B, N, C) queries with (B, M, C) keys and values, for a fixed number of heads."""


class Moments(NamedTuple):
    """Mean and standard deviation over tokens, (B, 1, C) each."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True, eq=False)
class TokenMask:
    """How much the tokens of a reference count, made so that no layer has to wait for the device.

    Attributes:
        log_mass: (K,) logarithms of the mass of the tokens that count, on the device.
        place: (K,) where they are among all tokens, on the device; None where all count.
        even: all that count have the mass 1.
    """

    log_mass: Tensor
    place: Tensor | None
    even: bool


def token_mask(mask: Tensor, device: torch.device | None = None) -> TokenMask:
    """Of a mask (M,) in [0, 1]; tokens of 0 are left out. What is decided by its values is decided here, once."""
    kept = mask > 0
    mass = mask[kept].float()
    place = None if bool(kept.all()) else kept.nonzero()[:, 0].to(device or mask.device)
    return TokenMask(mass.log().to(device or mask.device), place, bool((mass == 1).all()))


@dataclass(frozen=True, eq=False)
class Tokens:
    """What one reference gives to one layer.

    Attributes:
        key, value: (1 or B, M, C), projected.
        query_moments, key_moments: of the reference's own queries and keys, (1 or B, 1, C).
        weight: in AdaIN's mixture and as a factor m on the attention mass: it counts like m copies of the reference, so
            the expected mass on a reference with as many tokens as the picture is m / (1 + m).
        scale: factor on the keys, that is, on the reference's logits.
        mask: which tokens count how much, see :func:`token_mask`; None is all alike.
    """

    key: Tensor
    value: Tensor
    query_moments: Moments
    key_moments: Moments
    weight: float = 1.0
    scale: float = 1.0
    mask: TokenMask | None = None


def moments(x: Tensor, weights: Tensor | None = None) -> Moments:
    """Mean and unbiased standard deviation over the tokens of ``x`` (B, N, C), in float32.

    Args:
        weights: (N,) at least 0, how much each token counts; None is all alike.
    """
    x = x.float()
    count = x.shape[-2]
    if weights is None:
        var, mean = torch.var_mean(x, -2, keepdim=True, correction=min(1, count - 1))
        return Moments(mean, (var + EPSILON).sqrt())
    share = weights.float() / weights.sum()
    # reduces to N - 1 for equal weights; where the weights lie, so that none on the CPU waits for the device
    correction = (1.0 - (share**2).sum()).clamp_min(1.0 / count).to(x)
    share = share.to(x)[:, None]
    mean = (share * x).sum(-2, keepdim=True)
    var = (share * (x - mean) ** 2).sum(-2, keepdim=True) / correction
    return Moments(mean, (var + EPSILON).sqrt())


def mixed_moments(parts: Sequence[Moments], weights: Sequence[float]) -> Moments:
    """Moments of the weighted mixture of several populations (not the mean of their spreads)."""
    if len(parts) == 1:
        return parts[0]
    total = sum(weights)
    shares = [weight / total for weight in weights]
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    var = sum(share * (part.std**2 + (part.mean - mean) ** 2) for share, part in zip(shares, parts, strict=True))
    return Moments(mean, var.sqrt())


def adain(x: Tensor, to: Moments, strength: float = 1.0, own: Moments | None = None) -> Tensor:
    """Adaptive instance normalisation over tokens: ``(x - mean) / std * to.std + to.mean``, blended by ``strength``.

    Args:
        x: (B, N, C).
        to: wanted moments, (1 or B, 1, C).
        own: moments of ``x`` when they are known, (B, 1, C).

    Returns:
        Tensor like ``x``; ``x`` itself for strength 0.
    """
    if strength == 0:
        return x
    own = moments(x) if own is None else own
    gain = to.std / own.std
    shift = to.mean - own.mean * gain
    if strength != 1:
        gain, shift = 1 + strength * (gain - 1), strength * shift
    # one rounding, in the picture's own precision
    return torch.addcmul(shift, x.float(), gain).to(x.dtype)


def shared_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    references: Sequence[Tokens],
    heads: int,
    attention: Attention,
    *,
    adain_query: float = 1.0,
    adain_key: float = 1.0,
    swap: bool = False,
    own: tuple[Moments, Moments] | None = None,
) -> Tensor:
    """Attention of pictures to their own tokens and to those of references.

    ``softmax([Q K^T, s Q K_r^T] / sqrt(d) + [0, ln m]) [V; V_r]`` with AdaIN on Q and K, exactly and without an
    explicit mask, so that fused attention stays in use: logarithms of weights travel as one more channel of the keys.

    Args:
        q, k, v: (B, N, C) and (B, M, C), projected; the picture's own.
        references: at least one.
        heads: number of heads in C.
        attention: the backend.
        adain_query, adain_key: strength of AdaIN, in [0, 1].
        swap: the reference's keys and values in the place of the picture's own (visual style prompting).
        own: moments of q and k when they are not those of its rows (tiled attention).

    Returns:
        (B, N, C).
    """
    weights = [reference.weight for reference in references]
    own_q, own_k = own or (None, None)
    if adain_query:
        q = adain(q, mixed_moments([reference.query_moments for reference in references], weights), adain_query, own_q)
    if adain_key and not swap:
        k = adain(k, mixed_moments([reference.key_moments for reference in references], weights), adain_key, own_k)
    rows = q.shape[0]
    keys, values, logs = ([], [], []) if swap else ([k], [v], [torch.zeros(k.shape[1], device=k.device)])
    for reference in references:
        key, value, log = _weighted(reference)
        keys.append((key * reference.scale if reference.scale != 1 else key).expand(rows, -1, -1).to(k))
        values.append(value.expand(rows, -1, -1).to(v))
        logs.append(log)
    k, v = torch.cat(keys, 1), torch.cat(values, 1)
    if _even(references, swap):
        return attention(q, k, v)
    return _biased(q, k, v, torch.cat(logs), heads, attention)


def _even(references: Sequence[Tokens], swap: bool) -> bool:
    """Whether all tokens have one mass, which shifts all logits alike; read off numbers that no device has to tell."""
    if any(reference.mask is not None and not reference.mask.even for reference in references):
        return False
    weights = {float(reference.weight) for reference in references}
    return len(weights if swap else weights | {1.0}) == 1


def _weighted(reference: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and logarithms of the mass of each token; tokens without mass are left out."""
    key, value, log = reference.key, reference.value, _log(reference.weight)
    if reference.mask is None:
        return key, value, torch.full((key.shape[1],), log, device=key.device)
    place = reference.mask.place
    if place is not None:
        key, value = (each.index_select(1, place.to(each.device)) for each in (key, value))
    return key, value, (reference.mask.log_mass + log).to(key.device)


def _log(weight: float) -> float:
    return math.log(weight) if weight > 0 else -math.inf


def _biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int, attention: Attention) -> Tensor:
    """Attention whose logits get ``bias`` (M,) added per key, through PAD more channels of each head."""
    width = q.shape[-1] // heads
    wide = width + PAD
    split = lambda x: x.unflatten(-1, (heads, width))  # noqa: E731
    # the backend divides by sqrt(wide)
    q_more = q.new_zeros(*q.shape[:2], heads, PAD)
    q_more[..., 0] = 1
    k_more = k.new_zeros(*k.shape[:2], heads, PAD)
    k_more[..., 0] = (bias * math.sqrt(wide)).to(k)[None, :, None]
    q = torch.cat([split(q) * math.sqrt(wide / width), q_more], -1).flatten(-2)
    k = torch.cat([split(k), k_more], -1).flatten(-2)
    v = torch.cat([split(v), v.new_zeros(*v.shape[:2], heads, PAD)], -1).flatten(-2)
    return attention(q, k, v).unflatten(-1, (heads, wide))[..., :width].flatten(-2)


def full_sharing(q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
    """Every picture attends to the tokens of all pictures (section 4.3, "full attention sharing"); (B, N, C)."""
    rows = q.shape[0]
    everyone = lambda x: x.reshape(1, -1, x.shape[-1]).expand(rows, -1, -1)  # noqa: E731
    return attention(q, everyone(k), everyone(v))


class GroupMoments(NamedTuple):
    """Mean and biased variance of each normalisation group, (B, G) each."""

    mean: Tensor
    var: Tensor


def group_moments(x: Tensor, groups: int) -> GroupMoments:
    """Of ``x`` (B, C, ...) in float32, as GroupNorm takes them."""
    var, mean = torch.var_mean(x.float().reshape(x.shape[0], groups, -1), -1, correction=0)
    return GroupMoments(mean, var)


def pooled_group_norm(own: GroupMoments, reference: GroupMoments, epsilon: float) -> tuple[Tensor, Tensor]:
    """Group norm over a picture and a reference of equal weight, from both moments (closed form).

    Returns:
        (gain, shift), (B, G): what turns the picture's own normalised values into the pooled ones.
    """
    mean = (own.mean + reference.mean) / 2
    var = (own.var + reference.var) / 2 + ((own.mean - reference.mean) / 2) ** 2
    std = (var + epsilon).sqrt()
    return (own.var + epsilon).sqrt() / std, (own.mean - mean) / std


def group_mixture(parts: Sequence[GroupMoments], weights: Sequence[float]) -> GroupMoments:
    """Moments of the weighted mixture of references; the rows of each part count alike, (1, G)."""
    total = sum(weights)
    shares = [weight / total for weight in weights]
    mean = sum(share * part.mean.mean(0, keepdim=True) for share, part in zip(shares, parts, strict=True))
    spread = sum(
        share * (part.var + (part.mean - mean) ** 2).mean(0, keepdim=True)
        for share, part in zip(shares, parts, strict=True)
    )
    return GroupMoments(mean, spread)
