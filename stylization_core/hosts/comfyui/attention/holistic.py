"""What gives in holistic injection: the statistics of attention outputs of references."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ....holistic import Statistics, injected, mixture, statistics
from ....masks import latent_mask
from ..model import HALVES, NEGATIVE, Call, Layer, NoiseWindow, on_grid
from ..references import Probe, Recorder, Reference
from .settings import HOLISTIC_INJECTOR, Holistic


def probe_for(layers: frozenset[Layer], table: bool, reference: Reference) -> Probe:
    """For one reference: per layer the statistics over all its pictures, each counting alike."""
    return Probe(layers, _keep(reference, table), name=statistics_name(table))


def statistics_name(table: bool) -> str:
    """Name of the probe."""
    return "statistics with quantiles" if table else "statistics"


def _keep(reference: Reference, table: bool) -> Callable[[Call, Tensor], Statistics]:
    def keep(call: Call, out: Tensor) -> Statistics:
        found = statistics(out, counts_of(reference, call, out), table=table)
        parts = [found.row(index) for index in range(len(out))]
        return mixture(parts, [1.0] * len(parts))

    return keep


def counts_of(reference: Reference, call: Call, out: Tensor) -> Tensor | None:
    """How much each token of a reference counts in a layer, (N,); None is all alike."""
    if reference.mask is None:
        return None
    return on_grid(reference.mask[None, None].float(), call.options["activations_shape"][-2:], out).flatten()


class Injection:
    """One node's injection."""

    NAME = HOLISTIC_INJECTOR

    def __init__(
        self,
        settings: Holistic,
        window: NoiseWindow,
        recorders: Mapping[int, Recorder],
        noise: Tensor,
        strength: float,
    ):
        self.settings, self.window, self.strength = settings, window, settings.strength * strength
        self.recorders = [recorders[id(one)] for one in settings.references if id(one) in recorders]
        self.mask = latent_mask(settings.mask, noise)

    def styles(self, half: int, sigma: float) -> Callable[[Layer], Statistics] | None:
        """What is injected into a layer under one half; None where that half is left alone."""
        if self._strength(half) == 0:
            return None
        if self.settings.card is not None:
            return lambda layer: self.settings.card.at(sigma, HALVES[half], str(layer))
        kept = [one.at(sigma, half).layers[one.place(statistics_name(self.settings.table))] for one in self.recorders]
        weights = [weight_of(one.noised.reference) for one in self.recorders]
        return lambda layer: mixture([one[layer] for one in kept], weights)

    def _strength(self, half: int) -> float:
        return self.strength * (self.settings.negative if half == NEGATIVE else 1.0)

    def applied(
        self,
        out: Tensor,
        prepared: Callable[[Layer], Statistics],
        layer: Layer,
        half: int,
        mask: Tensor | None,
        *_seen: object,
    ) -> Tensor:
        """Attention outputs with the statistics of the style.

        Args:
            out: (B, N, C), the tokens of whole pictures.
            mask: (B, N, 1) or None.
        """
        style = prepared(layer)
        style = Statistics(*(part if part is None else part.to(out.device) for part in style))
        if not self.settings.table:
            style = style._replace(quantiles=None)
        weights = None if mask is None else mask[..., 0]
        strength = self._strength(half) if mask is None else self._strength(half) * mask.float()
        return injected(out, style, strength=strength, tone=self.settings.tone, weights=weights)


def weight_of(reference: Reference) -> float:
    """How much a reference counts; each of its pictures alike."""
    return reference.weight * len(reference.samples)
