"""Training of a Holistic Style Injector, on two questions in turn.

Own pairs: one part of a picture gives the style in which another part is denoised; the loss is the model's own. It
keeps results likely, but knows no style from anything else that two parts share. Cross pairs: the style is of another
picture, and the estimate should have the moments of the style's and the structure of its own, as the paper's style and
content losses ask of features. Both moments and structure are compared with what the model itself makes of the two
pictures at the same level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ....trained_injector import TrainedInjector
from ....training_pairs import (
    drawn_cross_pairs,
    drawn_pairs,
    level_weight,
    moment_distance,
    spread_shares,
    structure_distance,
)
from ..model import Attend, Call, Layer
from .loop import Frozen

CROSS = 0.5
"""Share of the steps on pairs of different pictures."""

STRUCTURE = 1.0
"""Weight of the distance of structures beside that of moments."""

OUTPUTS = 1e-4
"""Weight of the squared norm of the output maps."""

DROPPED = 0.1
"""Share of pictures whose style is left out of a layer, so that no layer relies on the others."""


Tokens = Mapping[Layer, tuple[Tensor, Sequence[int]]]
"""By layer, with the token grid."""


class InjectorObjective:
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
        """Of a batch of own pairs, or of cross pairs; without autograd always the denoising loss of own pairs."""
        crossed = bool(torch.rand((), generator=draws) < CROSS) and torch.is_grad_enabled()
        drawn = (drawn_cross_pairs if crossed else drawn_pairs)(self.latents, self.cells, self.rows, draws)
        target, style = (frozen.scaled(each) for each in drawn)
        sigmas = frozen.sigmas(spread_shares(self.rows, draws))
        noises = [torch.randn(target.shape, generator=draws).to(target) for _ in range(2)]
        kept = (torch.rand(len(self.layers), self.rows, 1, 1, generator=draws) >= DROPPED).float().to(target)
        ratios = frozen.ratios(sigmas)
        noised = frozen.noised(target, noises[0], sigmas)
        if idle:
            return lambda: _denoising(self._plain(frozen, noised, sigmas)[0], target, ratios)
        styled, tokens = self._plain(frozen, frozen.noised(style, noises[1], sigmas), sigmas)
        plain = self._plain(frozen, noised, sigmas)[0] if crossed else None

        def loss() -> Tensor:
            denoised = self._injected(frozen, noised, sigmas, ratios, tokens, kept)
            norms = sum(module.output_norm() for module in self.injector.layers.values())
            if crossed:
                change = moment_distance(denoised, styled) + STRUCTURE * structure_distance(denoised, plain)
                return change.mean() + OUTPUTS * norms
            return _denoising(denoised, target, ratios) + OUTPUTS * norms * torch.is_grad_enabled()

        return loss

    def _injected(self, frozen: Frozen, noised: Tensor, sigmas: Tensor, ratios: Tensor, tokens: Tokens, kept: Tensor):
        """The estimate with the styles injected, (B, C, H, W)."""
        codes = {layer: self._module(layer).code(*seen) for layer, seen in tokens.items()}

        def inject(call: Call, attend: Attend) -> Tensor:
            out = attend(call.q, call.k, call.v)
            share = kept[self.layers.index(call.layer)]
            return self._module(call.layer)(out, codes[call.layer], ratios, strength=share)

        return frozen.denoised(noised, sigmas, frozenset(self.layers), inject).float()

    def _module(self, layer: Layer):
        return self.injector.layers[str(layer)]

    @torch.no_grad()
    def _plain(self, frozen: Frozen, noised: Tensor, sigmas: Tensor) -> tuple[Tensor, Tokens]:
        """The model's own estimate, and what its layers see, with their token grids."""
        tokens = {}

        def watch(call: Call, attend: Attend) -> Tensor:
            out = attend(call.q, call.k, call.v)
            tokens[call.layer] = out, call.options["activations_shape"][-2:]
            return out

        return frozen.denoised(noised, sigmas, frozenset(self.layers), watch).float(), tokens


def _denoising(denoised: Tensor, target: Tensor, ratios: Tensor) -> Tensor:
    """Loss of estimates at their levels, ()."""
    return (level_weight(ratios) * ((denoised - target) ** 2).mean((1, 2, 3))).mean()
