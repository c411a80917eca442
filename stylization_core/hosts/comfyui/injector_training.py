"""Training of a Holistic Style Injector: one part of a picture gives the style in which another part is denoised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...trained_injector import StyleCode, TrainedInjector
from ...training_pairs import drawn_pairs, level_weight, moment_distance, spread_shares
from .attention import Attend, Call
from .layers import Layer
from .training import Frozen

MOMENTS, MOMENT_LEVELS = 0.1, 1.0
"""Weight of the distance of moments, and the noise-to-signal ratio below which an estimate has any."""

OUTPUTS = 1e-4
"""Weight of the squared norm of the output maps."""

DROPPED = 0.1
"""Share of pictures whose style is left out of a layer, so that no layer relies on the others."""


class InjectorLesson:
    """Pairs of parts of pictures, and what the injector makes of them.

    Args:
        injector: in training.
        latents: of whole pictures as a VAE gives them, (C, h, w) each.
        cells: side of a part.
        rows: pairs in a batch.
    """

    purpose = "hsi"

    def __init__(self, injector: TrainedInjector, latents: Sequence[Tensor], cells: int, rows: int):
        self.injector, self.latents, self.cells, self.rows = injector, latents, cells, rows
        names = sorted(tuple(name.split(".")) for name in injector.layers)
        self.layers = [Layer(stage, int(number), int(index)) for stage, number, index in names]

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Of the injector."""
        return self.injector.parameters()

    def loss(self, frozen: Frozen, draws: torch.Generator, *, idle: bool = False) -> Callable[[], Tensor]:
        """Denoising loss of a batch of targets, each in the style of its picture's other part."""
        target, style = (frozen.scaled(each) for each in drawn_pairs(self.latents, self.cells, self.rows, draws))
        sigmas = frozen.sigmas(spread_shares(self.rows, draws))
        noises = [torch.randn(target.shape, generator=draws).to(target) for _ in range(2)]
        kept = (torch.rand(len(self.layers), self.rows, 1, 1, generator=draws) >= DROPPED).float().to(target)
        ratios, layers = frozen.ratios(sigmas), frozenset(self.layers)
        noised = frozen.noised(target, noises[0], sigmas)
        tokens = {} if idle else self._tokens(frozen, frozen.noised(style, noises[1], sigmas), sigmas)

        def loss() -> Tensor:
            codes = self._codes(tokens)

            def inject(call: Call, attend: Attend) -> Tensor:
                out = attend(call.q, call.k, call.v)
                if idle:
                    return out
                share = kept[self.layers.index(call.layer)]
                return self._module(call.layer)(out, codes[call.layer], ratios, strength=share)

            found = frozen.denoised(noised, sigmas, layers, inject).float()
            error = ((found - target) ** 2).mean((1, 2, 3))
            total = (level_weight(ratios) * error).mean()
            if idle or not torch.is_grad_enabled():
                return total
            moments = (moment_distance(found, style) * (ratios < MOMENT_LEVELS)).mean()
            norms = sum(module.output_norm() for module in self.injector.layers.values())
            return total + MOMENTS * moments + OUTPUTS * norms

        return loss

    def _module(self, layer: Layer):
        return self.injector.layers[str(layer)]

    @torch.no_grad()
    def _tokens(self, frozen: Frozen, noised: Tensor, sigmas: Tensor) -> dict[Layer, tuple[Tensor, Sequence[int]]]:
        """What the layers see of the styles, with their token grids."""
        found = {}

        def watch(call: Call, attend: Attend) -> Tensor:
            out = attend(call.q, call.k, call.v)
            found[call.layer] = out, call.options["activations_shape"][-2:]
            return out

        frozen.denoised(noised, sigmas, frozenset(self.layers), watch)
        return found

    def _codes(self, tokens: Mapping[Layer, tuple[Tensor, Sequence[int]]]) -> dict[Layer, StyleCode]:
        return {layer: self._module(layer).code(*seen) for layer, seen in tokens.items()}
