"""The second of three steps, *operate*: the attention of one prediction's rows, from what the references gave.

Nothing here knows hooks or rows of other predictions; everything comes in, and the output goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....shared_attention import Moments, Tokens, full_sharing, moments, shared_attention
from ..model import Attend, Layer
from .holistic import Pictures
from .operators import Operator
from .settings import Sharing
from .sharing import BatchSharing, SharedReference
from .step import Given, Step

Masks = Callable[[Operator], Tensor]
"""Masks of an operator for the tokens of the rows, (B or 1, N, K)."""


@dataclass(frozen=True)
class Chunk:
    """The rows of one prediction in one layer.

    Attributes:
        layer: which.
        polarity: of the prediction, or None.
        q, k, v: projected; queries can come as tiles of more rows than keys, for merged or tiled tokens.
        heads: number of heads.
        attend: the attention that comes next.
    """

    layer: Layer
    polarity: int | None
    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    attend: Attend

    @property
    def tiles(self) -> int:
        """Rows of queries for each row of keys."""
        return self.q.shape[0] // self.k.shape[0]


def operate(chunk: Chunk, step: Step, masks: Masks) -> Tensor:
    """Attention output of a chunk: sharing without masks as one, with masks in turn, then injections in turn."""
    given = step.given.get(chunk.polarity, Given())
    out = _shared(chunk, step, given.everywhere(), step.batch)
    for operator, references in given.masked():
        if chunk.layer in operator.sharing.layers:
            out = torch.lerp(out, _shared(chunk, step, references, None), masks(operator))
    for operator, prepared in given.injections:
        if chunk.layer in operator.settings.layers:
            # statistics and regions are of whole pictures
            whole, q = (rows.reshape(len(chunk.k), -1, rows.shape[-1]) for rows in (out, chunk.q))
            mask = None if operator.mask is None else masks(operator).expand(len(chunk.k), -1, -1)
            pictures = Pictures(whole, q, mask, chunk.heads, chunk.attend)
            out = operator.applied(pictures, prepared, chunk.layer, chunk.polarity).reshape(out.shape)
    return out


def _shared(chunk: Chunk, step: Step, references: Sequence[SharedReference], batch: BatchSharing | None) -> Tensor:
    """Attention to the tokens of references and, with ``batch``, to those of the first picture."""
    tokens_of = [(reference.tokens(chunk.layer), reference.sharing) for reference in references]
    tokens = [one for given, _ in tokens_of for one in given]
    how = [sharing for given, sharing in tokens_of if given]
    q, k, v = chunk.q, chunk.k, chunk.v
    acts = batch is not None and chunk.layer in batch.sharing.layers and chunk.polarity is not None
    if not acts or not batch.acts(chunk.polarity) or len(k) == 1:
        return _with(chunk, q, k, v, tokens, how, step.strength)
    if batch.full:
        out = full_sharing(q, k, v, lambda q, k, v: _with(chunk, q, k, v, tokens, how, step.strength))
        if step.strength == 1:
            return out
        return torch.lerp(_with(chunk, q, k, v, tokens, how, step.strength), out, step.strength)
    tiles = chunk.tiles
    first = _with(chunk, q[:tiles], k[:1], v[:1], tokens, how, step.strength)
    more = [*tokens, batch.tokens(q[:tiles], k[:1], v[:1])]
    others = _with(chunk, q[tiles:], k[1:], v[1:], more, [*how, batch.sharing], step.strength)
    return torch.cat([first, others])


def _with(
    chunk: Chunk, q: Tensor, k: Tensor, v: Tensor, tokens: list[Tokens], how: Sequence[Sharing], strength: float
) -> Tensor:
    """Attention of some rows to their own tokens and to those of references."""
    if not tokens:
        return chunk.attend(q, k, v)
    own = None
    tiles = q.shape[0] // k.shape[0]
    if tiles > 1:
        # statistics belong to the picture; keys are dealt to the tiles as the backends would
        own = (moments(q.reshape(k.shape[0], -1, q.shape[-1])), moments(k))
        own = tuple(Moments(*(part.repeat_interleave(tiles, 0) for part in parts)) for parts in own)
        k, v = (rows.reshape(q.shape[0], -1, rows.shape[-1]) for rows in (k, v))
    swap = any(sharing.swap for sharing in how)
    out = shared_attention(
        q,
        k,
        v,
        tokens,
        chunk.heads,
        chunk.attend,
        adain_query=max(sharing.adain_query for sharing in how) * strength,
        adain_key=max(sharing.adain_key for sharing in how) * strength,
        swap=swap,
        own=own,
    )
    return torch.lerp(chunk.attend(q, k, v), out, strength) if swap and strength < 1 else out
