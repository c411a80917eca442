"""What gives in holistic injection: the statistics of attention outputs of references."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ...holistic import Statistics, injected, mixture, statistics
from ...masks import latent_mask
from .attention import Call
from .layers import Layer
from .percent import NoiseWindow
from .recorder import NEGATIVE, Probe, Record, Recorder
from .references import Reference
from .settings import HOLISTIC_INJECTOR, Holistic
from .token_masks import on_grid


def statistics_of(settings: Holistic, reference: Reference) -> Probe:
    """The probe for one reference: per layer the statistics over all its pictures, each counting alike."""
    return Probe(settings.layers, _keep(reference, settings.table), name=_name(settings))


def _name(settings: Holistic) -> str:
    return "statistics with quantiles" if settings.table else "statistics"


def _keep(reference: Reference, table: bool) -> Callable[[Call, Tensor], Statistics]:
    def keep(call: Call, out: Tensor) -> Statistics:
        weights = None
        if reference.mask is not None:
            grid = call.options["activations_shape"][-2:]
            weights = on_grid(reference.mask[None, None].float(), grid, out).flatten()
        found = statistics(out, weights, table=table)
        parts = [found.row(index) for index in range(len(out))]
        return mixture(parts, [1.0] * len(parts))

    return keep


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

    def records(self, half: int, sigma: float) -> list[tuple[Record, int, float]]:
        """(record, place of the statistics in it, weight) of its references for one half."""
        if self._strength(half) == 0:
            return []
        return [
            (one.at(sigma, half), one.place(_name(self.settings)), _weight(one.noised.reference))
            for one in self.recorders
        ]

    def _strength(self, half: int) -> float:
        return self.strength * (self.settings.negative if half == NEGATIVE else 1.0)

    def applied(
        self, out: Tensor, layer: Layer, half: int, records: list[tuple[Record, int, float]], mask: Tensor | None
    ) -> Tensor:
        """Attention outputs with the style's statistics.

        Args:
            out: (B, N, C), the tokens of whole pictures.
            mask: (B, N, 1) or None.
        """
        parts = [record.layers[place][layer] for record, place, _ in records]
        style = mixture(parts, [weight for *_, weight in records])
        own = None if mask is None else statistics(out, mask[..., 0], table=style.quantiles is not None)
        strength = self._strength(half) if mask is None else self._strength(half) * mask.float()
        return injected(out, style, strength=strength, tone=self.settings.tone, own=own)


def _weight(reference: Reference) -> float:
    return reference.weight * len(reference.samples)
