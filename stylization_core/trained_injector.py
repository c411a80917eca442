"""The trained Holistic Style Injector: which statistics of a reference a picture takes, learned per channel and level.

Source: Holistic Style Injector (CVPR 2025, arXiv 2502.04369): a dynamic network, fed by the pooled keys of the style,
weighs their mean, spread, skewness and kurtosis into one vector per style (global style); its products with the
picture's pooled query (global content) and with each query (local content) gate the style's value. Here that acts
inside a loaded UNet, beside the two directions of :mod:`holistic`: the shift of each channel (tone) and the change of
its spread (texture), with a learned share per channel and noise level. With all shares at 1 and the rest at 0 it is
the injection without training; as made, everything is 0 and the picture stays as it is, bit for bit.

Other than in the paper, the value is what the style's statistics have and the picture's lack. A picture that has the
style already stays as it is, whatever was learned; otherwise the network would learn what all its training pictures
have in common, and bring that into every picture instead of the style.

Tensors are (B, N, C), features over N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .holistic import SMALLEST, Statistics, likeness, statistics
from .randomness import stream
from .trained_files import LayerNetworks

STATISTICS = ("mean", "ln std", "asinh skewness", "ln kurtosis")
RANK, OUT_RANK = 32, 16

KNOTS = 6
LOWEST, HIGHEST = math.log(0.03), math.log(15.0)
"""Between these logarithms of the noise-to-signal ratio the knots of the levels are spread."""

FLATTEST = 1e-3
"""Spreads count as at least this where their logarithm is taken."""


class StyleCode(NamedTuple):
    """What a layer needs to know of a style; a few vectors, whatever the size of the reference.

    Attributes:
        key: K_s, (B, 1, C).
        factors: of the differences of statistics in V_s, (B, 4, C).
        scale: root mean square of the style's features, (B, 1, 1).
        style: their statistics.
    """

    key: Tensor
    factors: Tensor
    scale: Tensor
    style: Statistics

    def row(self, index: int) -> StyleCode:
        """Of one picture of the batch."""
        vectors = (each[index : index + 1] for each in self[:3])
        return StyleCode(*vectors, self.style.row(index))

    def to(self, device: torch.device) -> StyleCode:
        """On a device."""
        style = Statistics(*(each if each is None else each.to(device) for each in self.style))
        return StyleCode(*(each.to(device) for each in self[:3]), style)


class _Affine(nn.Module):
    """A factor and a shift per channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class _ByLevel(nn.Module):
    """Numbers per knot of the noise level, linear between the knots."""

    def __init__(self, *shape: int, value: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((KNOTS, *shape), value))

    def forward(self, share: Tensor) -> Tensor:
        """(B, ...) of shares (B, KNOTS)."""
        return torch.tensordot(share, self.weight, 1)


def knot_shares(ratio: Tensor) -> Tensor:
    """How much each knot counts at noise-to-signal ratios (B,), (B, KNOTS); constant beyond the ends."""
    place = (ratio.float().clamp_min(1e-12).log() - LOWEST) / (HIGHEST - LOWEST) * (KNOTS - 1)
    place = place.clamp(0, KNOTS - 1)[:, None]
    return (1 - (place - torch.arange(KNOTS, device=ratio.device)).abs()).clamp_min(0)


class LayerInjector(nn.Module):
    """The injector of one layer.

    Args:
        channels: C.
        rank: inner width of the dynamic network.
        out_rank: rank of the output map W_o.
        seed: of its start values.
    """

    def __init__(self, channels: int, rank: int = RANK, out_rank: int = OUT_RANK, seed: int = 0):
        super().__init__()
        self.q_aff, self.k_aff = _Affine(channels), _Affine(channels)
        self.dw = nn.Conv2d(channels, channels, 3, groups=channels)
        self.fc1, self.fc2 = nn.Linear(2 * channels, rank), nn.Linear(rank, (2 * len(STATISTICS) + 1) * channels)
        self.o_down, self.o_up = nn.Linear(channels, out_rank, bias=False), nn.Linear(out_rank, channels, bias=False)
        self.o_level = _ByLevel(out_rank, value=1.0)
        self.gate = _ByLevel(2, channels)
        self._start(stream(seed, "injector"))

    @torch.no_grad()
    def _start(self, draws: torch.Generator) -> None:
        """Keys as they are, all weights of statistics drawn, and an output of zero."""
        for layer in (self.fc1, self.fc2, self.o_down):
            layer.weight.normal_(0, layer.in_features**-0.5, generator=draws)
        self.fc1.bias.zero_()
        self.fc2.bias.zero_()
        self.o_up.weight.zero_()
        self.dw.weight.zero_()
        self.dw.weight[:, :, 1, 1] = 1
        self.dw.bias.zero_()

    def code(self, tokens: Tensor, grid: Sequence[int], weights: Tensor | None = None) -> StyleCode:
        """What the layer needs to know of styles.

        Args:
            tokens: (B, N, C), features of references, not normalised: normalised ones have nothing to pool.
            grid: (h, w) of their tokens, N = h * w.
            weights: (N,) at least 0, how much each token counts; None is all alike.
        """
        # fourth powers overflow in half precision
        tokens = tokens.float()
        style = statistics(tokens, weights)
        scale = (style.mean**2 + style.std**2).mean(-1, keepdim=True).sqrt().clamp_min(SMALLEST)
        keys = self._local(self.k_aff(tokens / scale), grid)
        found = statistics(keys, weights)
        counted = keys if weights is None else keys.masked_fill(weights.reshape(1, -1, 1).to(keys) <= 0, -torch.inf)
        pooled = torch.cat([found.mean[:, 0], counted.amax(1)], -1)
        factors = self.fc2(F.gelu(self.fc1(pooled))).unflatten(-1, (2 * len(STATISTICS) + 1, -1))
        of_key, bias, of_value = factors.split([len(STATISTICS), 1, len(STATISTICS)], 1)
        key = (of_key * _tame(found, torch.ones_like(scale))).sum(1, keepdim=True) + bias
        return StyleCode(key, of_value, scale, style)

    def _local(self, keys: Tensor, grid: Sequence[int]) -> Tensor:
        """Keys after the depth-wise 3x3; borders see themselves, since zeros would count as features."""
        grids = keys.transpose(1, 2).unflatten(-1, tuple(grid))
        return self.dw(F.pad(grids, (1, 1, 1, 1), mode="replicate")).flatten(2).transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        code: StyleCode,
        ratio: Tensor,
        *,
        strength: float | Tensor = 1.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Features with the style injected.

        ``x + strength * (g_tone (m_s - m_c) + g_texture z (s_s - s_c) + W_o(A V_s))`` with
        ``A = sigmoid((lam Q_c + (1 - lam) Q) K_s)`` and ``V_s`` the weighed differences of the statistics.

        Args:
            x: (B, N, C).
            code: (1 or B rows).
            ratio: noise-to-signal ratio, (1,) or (B,).
            strength: 0 returns ``x`` itself; or one per token, (B or 1, N or 1, 1).
            weights: how much each token counts in the statistics of ``x``, as in :func:`statistics`.
        """
        if not isinstance(strength, Tensor) and strength == 0:
            return x
        features = x.float()
        own = statistics(features, weights)
        share = knot_shares(ratio)
        tone, texture = self.gate(share)[:, :, None].unbind(1)
        spread = torch.where(
            own.std <= SMALLEST, torch.zeros_like(own.std), code.style.std / own.std.clamp_min(SMALLEST) - 1
        )
        change = tone * (code.style.mean - own.mean) + texture * spread * (features - own.mean)
        similar = likeness(own.mean, code.style.mean)
        query, pooled = self.q_aff(features / code.scale), self.q_aff(own.mean / code.scale)
        gate = torch.sigmoid((similar * pooled + (1 - similar) * query) * code.key)
        lacking = _tame(code.style, code.scale) - _tame(own, code.scale)
        value = (code.factors * lacking).sum(1, keepdim=True)
        change = change + code.scale * self.o_up(self.o_down(gate * value) * self.o_level(share)[:, None])
        return (features + strength * change).to(x.dtype)

    def output_norm(self) -> Tensor:
        """Squared Frobenius norm of W_o, ()."""
        return ((self.o_up.weight.T @ self.o_up.weight) * (self.o_down.weight @ self.o_down.weight.T)).sum()


def _tame(of: Statistics, scale: Tensor) -> Tensor:
    """Mean in units of ``scale``, ln std, asinh skewness and ln kurtosis, (B, 4, C): forms without outliers."""
    spread = (of.std / scale).clamp_min(FLATTEST).log()
    return torch.cat([of.mean / scale, spread, of.skewness.asinh(), of.kurtosis.clamp_min(1).log()], 1)


def mixture_of_codes(codes: Sequence[StyleCode], style: Statistics, weights: Sequence[float]) -> StyleCode:
    """One style out of several: weighted vectors beside ``style``, their mixture.

    Args:
        weights: one per code, at least 0 and not all 0.
    """
    shares = [weight / sum(weights) for weight in weights]
    vectors = (sum(s * getattr(c, part) for s, c in zip(shares, codes, strict=True)) for part in ("key", "factors"))
    scale = sum(s * c.scale**2 for s, c in zip(shares, codes, strict=True)).sqrt()
    return StyleCode(*vectors, scale, style)


class TrainedInjector(LayerNetworks):
    """A :class:`LayerInjector` per layer."""

    PREFIX, FORMAT = "hsi", "hsi-injector/1"
    STATED = {"stats": ",".join(STATISTICS), "r": str(RANK), "r_o": str(OUT_RANK)}

    @staticmethod
    def network(width: int, seed: int) -> LayerInjector:
        """An untrained one, which changes nothing."""
        return LayerInjector(width, seed=seed)
