"""Holistic injection by a trained injector: its codes of references in the place of plain statistics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....holistic import mixed_statistics
from ....trained_injector import StyleCode, TrainedInjector, mixture_of_codes
from ..model import Call, Layer
from ..references import GridWeights, Probe, Reference
from .holistic import HolisticInjection, Pictures, Records
from .operators import RunContext, weight_of
from .settings import Holistic
from .trained import NetworksByDevice


def probe_of_injector(injector: TrainedInjector, layers: frozenset[Layer], reference: Reference) -> Probe:
    """For one reference: per layer the code of all its pictures, each counting alike."""
    networks, weights = NetworksByDevice(injector), GridWeights(reference.mask)

    def keep(call: Call, out: Tensor) -> StyleCode:
        grid = call.options["activations_shape"][-2:]
        found = networks(call.layer, out.device).code(out, grid, weights.at(grid, out.device))
        pictures = [found.row(index) for index in range(len(out))]
        return _joined(pictures, [1.0] * len(pictures))

    return Probe(layers, keep, name=_name(injector))


def _name(injector: TrainedInjector) -> str:
    return f"injector {injector.digest}"


def _joined(codes: list[StyleCode], weights: list[float]) -> StyleCode:
    return mixture_of_codes(codes, mixed_statistics([code.style for code in codes], weights), weights)


class TrainedInjection(HolisticInjection):
    """One node's injection by a trained injector."""

    def __init__(self, settings: Holistic, run: RunContext):
        super().__init__(settings, run)
        self._networks = NetworksByDevice(settings.injector)

    def prepare(
        self, records: Records, polarity: int, sigma: float
    ) -> Callable[[Layer], tuple[StyleCode, Tensor]] | None:
        """What is injected into a layer under a polarity, and the noise-to-signal ratio, (1,) on the run's device."""
        if not self.recorders:
            return None
        name = _name(self.settings.injector)
        kept = [records[recorder][polarity].layers[name] for recorder in self.recorders]
        weights = [weight_of(recorder.noised.reference) for recorder in self.recorders]
        noised = self.recorders[0].noised
        ratio = torch.full((1,), noised.levels.reference(sigma), device=noised.device)
        return lambda layer: (_joined([layers[layer] for layers in kept], weights), ratio)

    def applied(
        self, pictures: Pictures, prepared: Callable[[Layer], tuple[StyleCode, Tensor]], layer: Layer, polarity: int
    ) -> Tensor:
        """Attention outputs with the style injected, (B, N, C)."""
        (code, ratio), out = prepared(layer), pictures.out
        strength, weights = self.share(pictures.mask, polarity)
        network = self._networks(layer, out.device)
        return network(out, code.to(out.device), ratio.to(out.device), strength=strength, weights=weights)


def injection_of(settings: Holistic, run: RunContext) -> HolisticInjection:
    """The injection that a node's settings ask for."""
    return (HolisticInjection if settings.injector is None else TrainedInjection)(settings, run)
