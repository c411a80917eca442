"""Holistic injection in one run: the statistics of references' attention outputs, or those of a style card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from ....holistic import Statistics, injected, mixed_statistics, statistics
from ..model import POLARITIES, Attend, Call, Layer
from ..references import GridWeights, Probe, Record, Recorder, Reference
from .operators import Operator, RunContext, weight_of
from .settings import Holistic

Records = Mapping[Recorder, Mapping[int, Record]]
"""What references gave at a level, by polarity."""


class Pictures(NamedTuple):
    """The rows of one prediction in one layer, as whole pictures.

    Attributes:
        out: attention outputs before ``to_out``, (B, N, C).
        q: projected queries, (B, N, C).
        mask: the operator's, (B, N, K), or None.
        heads: number of heads in C.
        attend: the attention that comes next.
    """

    out: Tensor
    q: Tensor
    mask: Tensor | None
    heads: int
    attend: Attend


def probe_of_statistics(layers: frozenset[Layer], table: bool, reference: Reference) -> Probe:
    """For one reference: per layer the statistics over all its pictures, each counting alike."""
    return Probe(layers, _keeping(reference, table), name=statistics_name(table))


def statistics_name(table: bool) -> str:
    """Name of the probe."""
    return "statistics with quantiles" if table else "statistics"


def _keeping(reference: Reference, table: bool) -> Callable[[Call, Tensor], Statistics]:
    weights = GridWeights(reference.mask)

    def keep(call: Call, out: Tensor) -> Statistics:
        counts = weights.at(call.options["activations_shape"][-2:], out.device)
        found = statistics(out, counts, table=table)
        pictures = [found.row(index) for index in range(len(out))]
        return mixed_statistics(pictures, [1.0] * len(pictures))

    return keep


def mixed_records(
    recorders: list[Recorder], records: Records, polarity: int, name: str
) -> Callable[[Layer], Statistics]:
    """Statistics of a layer, mixed over references by their weights."""
    kept = [records[recorder][polarity].layers[name] for recorder in recorders]
    weights = [weight_of(recorder.noised.reference) for recorder in recorders]
    return lambda layer: mixed_statistics([layers[layer] for layers in kept], weights)


class HolisticInjection(Operator):
    """One node's injection."""

    def __init__(self, settings: Holistic, run: RunContext):
        super().__init__(settings, run, settings.references, settings.strength, settings.negative, settings.mask)
        # once for the run, instead of once for each layer and step
        self.card = None if settings.card is None else settings.card.to(run.noise.device)

    def prepare(self, records: Records, polarity: int, sigma: float) -> Callable[[Layer], object] | None:
        """What is injected into a layer under a polarity; None where there is nothing to inject."""
        if self.card is not None:
            return lambda layer: self.card.at(sigma, POLARITIES[polarity], str(layer))
        if not self.recorders:
            return None
        return mixed_records(self.recorders, records, polarity, statistics_name(self.settings.table))

    def applied(
        self, pictures: Pictures, prepared: Callable[[Layer], Statistics], layer: Layer, polarity: int
    ) -> Tensor:
        """Attention outputs with the statistics of the style, (B, N, C)."""
        style = prepared(layer)
        if not self.settings.table:
            style = style._replace(quantiles=None)
        strength, weights = self.share(pictures.mask, polarity)
        return injected(pictures.out, style, strength=strength, tone=self.settings.tone, weights=weights)

    def share(self, mask: Tensor | None, polarity: int) -> tuple[float | Tensor, Tensor | None]:
        """Strength at each token, a number or (B, N, 1), and how much each counts in the picture's own statistics."""
        strength = self.strength_under(polarity)
        return (strength, None) if mask is None else (strength * mask.float(), mask[..., 0])
