"""What gives in shared attention: references from outside, or the first picture of the batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from ....masks import latent_mask
from ....shared_attention import GroupMoments, Moments, Tokens, moments
from ..model import NEGATIVE, POSITIVE, Call, Layer, NoiseWindow, on_grid
from ..references import Record, Recorder, Reference
from .settings import SHARED_ATTENTION, SHARED_ATTENTION_BATCH, SharedAttention, SharedBatch

TOKENS = "tokens"
"""Name of the probe for keys, values and moments."""


def tokens_of(reference: Reference) -> Callable[[Call, Tensor], list[Tokens]]:
    """What to keep of a layer: one :class:`Tokens` per picture of the reference."""

    def keep(call: Call, out: Tensor) -> list[Tokens]:
        mask = None
        if reference.mask is not None:
            # stays where the mask is: which tokens count is decided there, without waiting for the device
            grid = call.options["activations_shape"][-2:]
            mask = on_grid(reference.mask[None, None].float(), grid, reference.mask).flatten()
        queries, keys = moments(call.q, mask), moments(call.k, mask)

        def row(at: slice) -> Tokens:
            parts = (Moments(*(each[at] for each in one)) for one in (queries, keys))
            return Tokens(call.k[at], call.v[at], *parts, reference.weight, mask=mask)

        return [row(slice(index, index + 1)) for index in range(call.k.shape[0])]

    return keep


class Outside:
    """One node's sharing with references from outside."""

    NAME = SHARED_ATTENTION

    def __init__(
        self,
        settings: SharedAttention,
        window: NoiseWindow,
        recorders: Mapping[int, Recorder],
        noise: Tensor,
        strength: float,
    ):
        self.sharing, self.window, self.strength = settings.sharing, window, strength
        used = [id(reference) for reference in settings.references]
        self.recorders = [recorders[key] for key in used if key in recorders]
        self.mask = latent_mask(settings.mask, noise)

    def gifts(self, half: int, sigma: float) -> list[Gift]:
        """What its references give for one half; nothing where it leaves that half alone."""
        if half == NEGATIVE and not self.sharing.both:
            return []
        return [
            Gift(self, recorder.at(sigma, half), recorder.place(TOKENS), recorder.noised.reference)
            for recorder in self.recorders
        ]


class Gift(NamedTuple):
    """What one reference gives to one node for one half."""

    node: Outside
    record: Record
    place: int
    reference: Reference

    def tokens(self, layer: Layer) -> list[Tokens]:
        """Of a layer, with the node's weights; one per picture of the reference."""
        sharing = self.node.sharing
        if layer not in sharing.layers:
            return []
        factor = sharing.weight * (1.0 if sharing.swap else self.node.strength)
        kept = self.record.layers[self.place][layer]
        return [replace(one, weight=one.weight * factor, scale=sharing.score_scale) for one in kept]

    def norms(self, name: str) -> tuple[GroupMoments, float] | None:
        """Of a group norm, with a weight by which each of its pictures counts once."""
        if not self.node.sharing.norms:
            return None
        found = self.record.norms[name]
        return found, self.node.sharing.weight * self.reference.weight * len(found.mean)


class Inside:
    """Sharing with the first picture of the batch, which itself is as it would be alone."""

    def __init__(self, settings: SharedBatch, window: NoiseWindow, noise: Tensor, strength: float):
        self.settings, self.sharing, self.window, self.strength = settings, settings.sharing, window, strength
        if noise.shape[0] == 1:
            logging.warning(
                "[Stylization] %s: the batch holds one picture, so there is nothing to share", SHARED_ATTENTION_BATCH
            )

    def acts(self, half: int | None, layer: Layer) -> bool:
        return layer in self.sharing.layers and self._in(half)

    def pools(self, half: int | None) -> bool:
        return self.sharing.norms and self._in(half)

    def _in(self, half: int | None) -> bool:
        return half == POSITIVE or self.sharing.both

    def tokens(self, q: Tensor, k: Tensor, v: Tensor) -> Tokens:
        """What the first picture gives; its queries can be tiles."""
        factor = self.sharing.weight * (1.0 if self.sharing.swap else self.strength)
        seen = moments(q.reshape(1, -1, q.shape[-1])), moments(k)
        return Tokens(k, v, *seen, factor, self.sharing.score_scale)
