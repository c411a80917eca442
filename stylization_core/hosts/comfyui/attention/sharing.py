"""Shared attention in one run: with references from outside the batch, or with the first picture of the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ....shared_attention import GroupMoments, Moments, Tokens, moments
from ..model import POSITIVE, Call, Layer
from ..references import GridWeights, Probe, Record, Recorder, Reference
from .operators import Operator, RunContext
from .settings import SharedAttention, SharedBatch, Sharing

TOKENS = "tokens"
"""Name of the probe for keys, values and moments."""


def probe_of_tokens(sharing: Sharing, reference: Reference) -> Probe:
    """What sharing wants of a reference: per layer, :class:`Tokens` of each of its pictures."""
    return Probe(sharing.layers, _keeping(reference), sharing.norms, TOKENS)


def _keeping(reference: Reference) -> Callable[[Call, Tensor], list[Tokens]]:
    weights = GridWeights(reference.mask)

    def keep(call: Call, out: Tensor) -> list[Tokens]:
        grid = call.options["activations_shape"][-2:]
        counts, mask = weights.at(grid, out.device), weights.tokens(grid, out.device)
        queries, keys = moments(call.q, counts), moments(call.k, counts)

        def picture(rows: slice) -> Tokens:
            parts = (Moments(*(part[rows] for part in found)) for found in (queries, keys))
            return Tokens(call.k[rows], call.v[rows], *parts, reference.weight, mask=mask)

        return [picture(slice(index, index + 1)) for index in range(call.k.shape[0])]

    return keep


@dataclass(frozen=True, eq=False)
class SharedReference:
    """What one reference gives to one node at one level, under one polarity.

    Attributes:
        sharing: how the node shares.
        record: of the reference.
        weight: factor on the mass of its tokens.
        picture_weight: by which each of its pictures counts in group norms.
    """

    sharing: Sharing
    record: Record
    weight: float
    picture_weight: float

    def tokens(self, layer: Layer) -> list[Tokens]:
        """Of a layer, with the node's weights; one per picture of the reference."""
        if layer not in self.sharing.layers:
            return []
        kept = self.record.layers[TOKENS][layer]
        return [replace(tokens, weight=tokens.weight * self.weight, scale=self.sharing.score_scale) for tokens in kept]

    def norms(self, name: str) -> tuple[GroupMoments, float] | None:
        """Of a group norm, with the weight of all its pictures; None where the node shares none."""
        if not self.sharing.norms:
            return None
        moments_of = self.record.norms[name]
        return moments_of, self.picture_weight * len(moments_of.mean)


class _Sharing(Operator):
    """What both kinds of sharing do alike: the positive prompt always, the negative one where it is asked for."""

    def __init__(self, sharing: Sharing, run: RunContext, references=(), mask: Tensor | None = None):
        super().__init__(sharing, run, references, mask=mask)
        self.sharing = sharing

    def acts(self, polarity: int) -> bool:
        """See :class:`Operator`; the strength is the dial's, which is above 0 here."""
        return polarity == POSITIVE or self.sharing.both

    @property
    def factor(self) -> float:
        """On the mass of the reference's tokens; swapped ones are blended afterwards instead."""
        return self.sharing.weight * (1.0 if self.sharing.swap else self.strength)


class ReferenceSharing(_Sharing):
    """One node's sharing with references from outside."""

    def __init__(self, settings: SharedAttention, run: RunContext):
        super().__init__(settings.sharing, run, settings.references, settings.mask)

    def shared(self, records: Mapping[Recorder, Mapping[int, Record]], polarity: int) -> list[SharedReference]:
        """What its references give under a polarity; nothing where it leaves that one alone."""
        if not self.acts(polarity):
            return []
        return [
            SharedReference(
                self.sharing,
                records[recorder][polarity],
                self.factor,
                self.sharing.weight * recorder.noised.reference.weight,
            )
            for recorder in self.recorders
        ]


class BatchSharing(_Sharing):
    """Sharing with the first picture of the batch, which itself is as it would be alone."""

    def __init__(self, settings: SharedBatch, run: RunContext):
        super().__init__(settings.sharing, run)
        self.full, self.uncontrolled = settings.full, settings.uncontrolled
        if run.noise.shape[0] == 1:
            text = "[Stylization] %s: the batch holds one picture, so there is nothing to share"
            logging.warning(text, settings.sharing.node)

    def tokens(self, q: Tensor, k: Tensor, v: Tensor) -> Tokens:
        """What the first picture gives; its queries can be tiles."""
        own = moments(q.reshape(1, -1, q.shape[-1])), moments(k)
        return Tokens(k, v, *own, self.factor, self.sharing.score_scale)
