"""What gives in class-adaptive attention: a reference for each region of the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ....class_adaptive import ClassTokens, blended, class_attention, class_tokens, partition
from ....errors import StylizationError
from ....holistic import Statistics, injected, mixture
from ....masks import latent_mask
from ..model import NEGATIVE, Attend, Call, Layer, NoiseWindow
from ..references import Probe, Recorder, Reference
from .holistic import counts_of, probe_for, statistics_name, weight_of
from .settings import CLASS_ADAPTIVE, Region, Regions
from .trained import Placed

FEW = 16
"""With fewer tokens in a layer a region's own statistics are noise, and those of the whole picture serve."""

Prepared = list[Callable[[Layer], object]]
"""For each region with a reference, what it gives to a layer."""


def probe_of_regions(settings: Regions, reference: Reference) -> Probe:
    """What class-adaptive attention wants of a reference."""
    if settings.holistic:
        return probe_for(settings.layers, False, reference)
    return Probe(settings.layers, _keep(reference, settings.tokens), name=_name(settings))


def _name(settings: Regions) -> str:
    return statistics_name(False) if settings.holistic else f"{settings.tokens} class tokens"


def _keep(reference: Reference, count: int) -> Callable[[Call, Tensor], list[ClassTokens | None]]:
    def keep(call: Call, out: Tensor) -> list[ClassTokens | None]:
        weights = counts_of(reference, call, out)
        return [class_tokens(key, value, weights, count) for key, value in zip(call.k, call.v, strict=True)]

    return keep


class ClassAdaptive:
    """One node's regions."""

    NAME = CLASS_ADAPTIVE

    def __init__(
        self,
        settings: Regions,
        window: NoiseWindow,
        recorders: Mapping[int, Recorder],
        noise: Tensor,
        strength: float,
    ):
        self.settings, self.window, self.strength = settings, window, settings.strength * strength
        every = _soft([latent_mask(one.mask, noise) for one in settings.regions], settings.feather)
        given = [
            (place, one, [recorders[id(r)] for r in one.references if id(r) in recorders])
            for place, one in enumerate(settings.regions)
        ]
        given = [one for one in given if one[2]]
        if not given:
            raise StylizationError("regions", "none has a reference", "Connect a reference to a Stylize Region")
        self.mask = every[:, [place for place, *_ in given]]
        self._placed = None if settings.adapter is None else Placed(settings.adapter)
        self.regions: list[Region] = [one for _, one, _ in given]
        self.recorders = [found for *_, found in given]

    def styles(self, half: int, sigma: float) -> Prepared | None:
        """What each region gives under one half; None where that half is left alone."""
        if self._strength(half) == 0:
            return None
        gather = self._statistics if self.settings.holistic else self._tokens
        return [gather(recorders, half, sigma) for recorders in self.recorders]

    def _statistics(self, recorders: list[Recorder], half: int, sigma: float) -> Callable[[Layer], Statistics]:
        kept = [one.at(sigma, half).layers[one.place(_name(self.settings))] for one in recorders]
        weights = [weight_of(one.noised.reference) for one in recorders]
        return lambda layer: mixture([one[layer] for one in kept], weights)

    def _tokens(self, recorders: list[Recorder], half: int, sigma: float) -> Callable[[Layer], ClassTokens | None]:
        kept = [one.at(sigma, half).layers[one.place(_name(self.settings))] for one in recorders]
        weights = [one.noised.reference.weight for one in recorders]

        def joined(layer: Layer) -> ClassTokens | None:
            found = [
                tokens._replace(mass=tokens.mass * weight)
                for one, weight in zip(kept, weights, strict=True)
                for tokens in one[layer]
                if tokens is not None
            ]
            return self._adapted(layer, found) if found else None

        return joined

    def _adapted(self, layer: Layer, found: list[ClassTokens]) -> ClassTokens:
        """All tokens of a class, as the adapter makes them where there is one."""
        tokens = ClassTokens(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        if self._placed is None or str(layer) not in self.settings.adapter.layers:
            return tokens
        return self._placed(layer, tokens.key.device)(tokens)

    def _strength(self, half: int) -> float:
        return self.strength * (self.settings.negative if half == NEGATIVE else 1.0)

    def applied(
        self,
        out: Tensor,
        prepared: Prepared,
        layer: Layer,
        half: int,
        mask: Tensor,
        q: Tensor,
        heads: int,
        attend: Attend,
    ) -> Tensor:
        """Attention outputs in which each region has its own style.

        Args:
            out, q: (B, N, C), of whole pictures.
            mask: (B, N, K).
        """
        found = [one(layer) for one in prepared]
        if self.settings.holistic:
            return self._injected(out, found, half, mask.float())
        kept = [k for k, one in enumerate(found) if one is not None]
        if not kept:
            return out
        mask = mask[..., kept]
        seen = class_attention(
            q,
            [found[k] for k in kept],
            mask,
            heads,
            attend,
            weights=[self.regions[k].weight for k in kept],
            adaptivity=self.settings.adaptivity,
        )
        return blended(out, seen, mask, self._strength(half))

    def _injected(self, out: Tensor, styles: list[Statistics], half: int, mask: Tensor) -> Tensor:
        change = torch.zeros_like(out)
        for k, style in enumerate(styles):
            own = mask[..., k]
            weights = torch.where(own.sum(-1, keepdim=True) < FEW, torch.ones_like(own), own)
            strength = self._strength(half) * self.regions[k].weight * own[..., None]
            change = change + injected(out, style, strength=strength, tone=0.0, weights=weights) - out
        return out + change


def _soft(masks: list[Tensor], feather: float) -> Tensor:
    """A soft partition (B or 1, K, h, w) of masks (B or 1, 1, h, w), their borders blurred over ``feather`` cells."""
    rows = max(len(one) for one in masks)
    every = torch.cat([one.expand(rows, -1, -1, -1) for one in masks], 1)
    if feather > 0:
        reach = max(1, round(2 * feather))
        x = torch.arange(-reach, reach + 1, device=every.device, dtype=every.dtype)
        kernel = torch.exp(-0.5 * (x / feather) ** 2)
        kernel = (kernel / kernel.sum()).expand(every.shape[1], 1, -1)
        padded = F.pad(every, (reach, reach, reach, reach), mode="replicate")
        along = F.conv2d(padded, kernel[..., None, :], groups=every.shape[1])
        every = F.conv2d(along, kernel[..., :, None], groups=every.shape[1])
    return partition(every.transpose(0, 1)).transpose(0, 1)
