"""What gives in holistic injection with a trained injector: its codes of references."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....holistic import mixture
from ....trained_injector import StyleCode, TrainedInjector, mixture_of_codes
from ..model import Call, Layer
from ..references import Probe, Reference
from .holistic import Injection, counts_of, weight_of
from .settings import Holistic
from .trained import Placed


def probe_of_injector(injector: TrainedInjector, layers: frozenset[Layer], reference: Reference) -> Probe:
    """For one reference: per layer the code of all its pictures, each counting alike."""
    placed = Placed(injector)

    def keep(call: Call, out: Tensor) -> StyleCode:
        grid = call.options["activations_shape"][-2:]
        found = placed(call.layer, out.device).code(out, grid, counts_of(reference, call, out))
        pictures = [found.row(index) for index in range(len(out))]
        return _joined(pictures, [1.0] * len(pictures))

    return Probe(layers, keep, name=_name(injector))


def _name(injector: TrainedInjector) -> str:
    return f"injector {injector.digest}"


def _joined(codes: list[StyleCode], weights: list[float]) -> StyleCode:
    return mixture_of_codes(codes, mixture([one.style for one in codes], weights), weights)


class TrainedInjection(Injection):
    """One node's injection by a trained injector."""

    def __init__(self, settings: Holistic, *args, **named):
        super().__init__(settings, *args, **named)
        self._placed = Placed(settings.injector)

    def styles(self, half: int, sigma: float) -> Callable[[Layer], tuple[StyleCode, float]] | None:
        """What is injected into a layer under one half, and the noise-to-signal ratio; None leaves that half alone."""
        if self._strength(half) == 0 or not self.recorders:
            return None
        name = _name(self.settings.injector)
        kept = [one.at(sigma, half).layers[one.place(name)] for one in self.recorders]
        weights = [weight_of(one.noised.reference) for one in self.recorders]
        ratio = self.recorders[0].noised.levels.reference(sigma)
        return lambda layer: (_joined([one[layer] for one in kept], weights), ratio)

    def applied(
        self,
        out: Tensor,
        prepared: Callable[[Layer], tuple[StyleCode, float]],
        layer: Layer,
        half: int,
        mask: Tensor | None,
        *_seen: object,
    ) -> Tensor:
        """Attention outputs (B, N, C) with the style injected; ``mask`` is (B, N, 1) or None."""
        code, ratio = prepared(layer)
        weights = None if mask is None else mask[..., 0]
        strength = self._strength(half) if mask is None else self._strength(half) * mask.float()
        level = torch.full((1,), ratio, device=out.device)
        return self._placed(layer, out.device)(out, code.to(out.device), level, strength=strength, weights=weights)


def injection_of(settings: Holistic, *args, **named) -> Injection | TrainedInjection:
    """The injection that a node's settings ask for."""
    return (Injection if settings.injector is None else TrainedInjection)(settings, *args, **named)
