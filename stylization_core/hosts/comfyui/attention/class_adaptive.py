"""Class-adaptive attention in one run: a reference for each region of the picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....class_adaptive import ClassTokens, blended, class_attention, class_tokens, partition
from ....errors import StylizationError
from ....holistic import Statistics, injected
from ....masks import gaussian_blur, latent_mask
from ..model import Call, Layer
from ..references import GridWeights, Probe, Recorder, Reference
from .holistic import Pictures, Records, mixed_records, probe_of_statistics, statistics_name
from .operators import Operator, RunContext
from .settings import Regions
from .trained import NetworksByDevice

FEW = 16
"""With fewer tokens in a layer a region's own statistics are noise, and those of the whole picture serve."""

Prepared = list[Callable[[Layer], object]]
"""For each region with a reference, what it gives to a layer."""


def probe_of_regions(settings: Regions, reference: Reference) -> Probe:
    """What class-adaptive attention wants of a reference."""
    if settings.holistic:
        return probe_of_statistics(settings.layers, False, reference)
    return Probe(settings.layers, _keeping(reference, settings.tokens), name=_name(settings))


def _name(settings: Regions) -> str:
    return statistics_name(False) if settings.holistic else f"{settings.tokens} class tokens"


def _keeping(reference: Reference, count: int) -> Callable[[Call, Tensor], list[ClassTokens | None]]:
    weights = GridWeights(reference.mask)

    def keep(call: Call, out: Tensor) -> list[ClassTokens | None]:
        mask = weights.tokens(call.options["activations_shape"][-2:], out.device)
        return [class_tokens(key, value, mask, count) for key, value in zip(call.k, call.v, strict=True)]

    return keep


class ClassAdaptive(Operator):
    """One node's regions; only those with a reference are kept, the others merely hold their place."""

    def __init__(self, settings: Regions, run: RunContext):
        super().__init__(settings, run, settings.references, settings.strength, settings.negative)
        self.regions, self._recorders, places = [], [], []
        for place, region in enumerate(settings.regions):
            recorders = [run.recorders[id(one)] for one in region.references if id(one) in run.recorders]
            if recorders:
                places.append(place)
                self.regions.append(region)
                self._recorders.append(recorders)
        if not places:
            raise StylizationError("regions", "none has a reference", "Connect a reference to a Stylize Region")
        masks = [latent_mask(region.mask, run.noise) for region in settings.regions]
        self.mask = soft_partition(masks, settings.feather)[:, places]
        self._networks = None if settings.adapter is None else NetworksByDevice(settings.adapter)

    def prepare(self, records: Records, polarity: int, sigma: float) -> Prepared:
        """What each region gives under a polarity."""
        if self.settings.holistic:
            name = _name(self.settings)
            return [mixed_records(recorders, records, polarity, name) for recorders in self._recorders]
        return [self._tokens(recorders, records, polarity) for recorders in self._recorders]

    def _tokens(
        self, recorders: list[Recorder], records: Records, polarity: int
    ) -> Callable[[Layer], ClassTokens | None]:
        kept = [records[recorder][polarity].layers[_name(self.settings)] for recorder in recorders]
        weights = [recorder.noised.reference.weight for recorder in recorders]

        def joined(layer: Layer) -> ClassTokens | None:
            found = [
                tokens._replace(mass=tokens.mass * weight)
                for layers, weight in zip(kept, weights, strict=True)
                for tokens in layers[layer]
                if tokens is not None
            ]
            return self._adapted(layer, found) if found else None

        return joined

    def _adapted(self, layer: Layer, found: list[ClassTokens]) -> ClassTokens:
        """All tokens of a class, as the adapter makes them where there is one."""
        tokens = ClassTokens(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        if self._networks is None or str(layer) not in self.settings.adapter.layers:
            return tokens
        return self._networks(layer, tokens.key.device)(tokens)

    def applied(self, pictures: Pictures, prepared: Prepared, layer: Layer, polarity: int) -> Tensor:
        """Attention outputs (B, N, C) in which each region has its own style."""
        given = [region_of(layer) for region_of in prepared]
        if self.settings.holistic:
            return self._injected(pictures.out, given, polarity, pictures.mask.float())
        kept = [k for k, tokens in enumerate(given) if tokens is not None]
        if not kept:
            return pictures.out
        # by slices: an index made on the processor would have to be copied to the device in every layer
        mask = (
            pictures.mask if len(kept) == len(given) else torch.cat([pictures.mask[..., k : k + 1] for k in kept], -1)
        )
        styled = class_attention(
            pictures.q,
            [given[k] for k in kept],
            mask,
            pictures.heads,
            pictures.attend,
            weights=[self.regions[k].weight for k in kept],
            adaptivity=self.settings.adaptivity,
        )
        return blended(pictures.out, styled, mask, self.strength_under(polarity))

    def _injected(self, out: Tensor, styles: list[Statistics], polarity: int, mask: Tensor) -> Tensor:
        change = torch.zeros_like(out)
        for k, style in enumerate(styles):
            own = mask[..., k]
            weights = torch.where(own.sum(-1, keepdim=True) < FEW, torch.ones_like(own), own)
            strength = self.strength_under(polarity) * self.regions[k].weight * own[..., None]
            change = change + injected(out, style, strength=strength, tone=0.0, weights=weights) - out
        return out + change


def soft_partition(masks: list[Tensor], feather: float) -> Tensor:
    """A partition (B or 1, K, h, w) of masks (B or 1, 1, h, w), their borders blurred over ``feather`` cells."""
    rows = max(len(mask) for mask in masks)
    joined = gaussian_blur(torch.cat([mask.expand(rows, -1, -1, -1) for mask in masks], 1), feather)
    return partition(joined.transpose(0, 1)).transpose(0, 1)
