"""Trained keys and values of class tokens: what class-adaptive attention sees of a region's reference, learned.

Source: CA2-SIS (Fontanini et al., IEEE Access 2025, arXiv 2308.16071) trains its generator to attend to class codes,
with a loss that leads the logits of a class to its mask; SCA-DM (arXiv 2403.12743), of the same group, does so in a
diffusion model with a weight of 0.01. Here the tokens of :mod:`class_adaptive`, which stand for keys and values of a
reference, pass through low-rank maps whose outputs start at zero: untrained, the attention is the one without training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .class_adaptive import ClassTokens
from .randomness import stream
from .trained_files import LayerNetworks

RANK = 16


class LayerAdapter(nn.Module):
    """Low-rank changes of a layer's class tokens.

    Args:
        channels: C.
        rank: of each.
        seed: of the start values.
    """

    def __init__(self, channels: int, rank: int = RANK, seed: int = 0):
        super().__init__()
        self.k_down, self.v_down = (nn.Linear(channels, rank, bias=False) for _ in range(2))
        self.k_up, self.v_up = (nn.Linear(rank, channels, bias=False) for _ in range(2))
        draws = stream(seed, "class adapter")
        with torch.no_grad():
            for down, up in ((self.k_down, self.k_up), (self.v_down, self.v_up)):
                down.weight.normal_(0, channels**-0.5, generator=draws)
                up.weight.zero_()

    def forward(self, tokens: ClassTokens) -> ClassTokens:
        """Tokens with other keys and values, in their own precision."""
        key, value = tokens.key.float(), tokens.value.float()
        key = key + self.k_up(self.k_down(key))
        value = value + self.v_up(self.v_down(value))
        return tokens._replace(key=key.to(tokens.key.dtype), value=value.to(tokens.value.dtype))


class ClassAdapter(LayerNetworks):
    """A :class:`LayerAdapter` per layer."""

    PREFIX, FORMAT = "caca", "caca-adapter/1"
    STATED = {"r": str(RANK)}

    @staticmethod
    def network(width: int, seed: int) -> LayerAdapter:
        """An untrained one, which changes nothing."""
        return LayerAdapter(width, seed=seed)


def class_logits(q: Tensor, classes: Sequence[ClassTokens], heads: int) -> Tensor:
    """How much each position looks at each class before the softmax, (B, N, K): the mean over heads.

    Of a class's tokens the smooth maximum counts, ``ln mean exp``; no mask and no bias are in it.

    Args:
        q: (B, N, C), projected.
    """
    root = heads * math.sqrt(q.shape[-1] // heads)
    logits = [torch.einsum("bnc,tc->bnt", q.float(), one.key.float()) / root for one in classes]
    return torch.stack([each.logsumexp(-1) - math.log(each.shape[-1]) for each in logits], -1)


def mask_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy between logits and masks (B, N, K) of the classes, ()."""
    return F.binary_cross_entropy_with_logits(logits, masks.float())


def color_classes(latent: Tensor, count: int, rounds: int = 8) -> Tensor:
    """A picture's parts by colour, (K, h, w) of 0 and 1: k-means of the blurred latent, from cells spread evenly.

    Args:
        latent: (C, h, w).
        count: K.
    """
    blurred = F.avg_pool2d(latent[None].float(), 5, 1, 2, count_include_pad=False)[0]
    cells = blurred.flatten(1).T
    place = torch.linspace(0, len(cells) - 1, count).round().long()
    # from light to dark, or whatever the first channel says: cells in a row may be of one part
    centres = cells[cells[:, 0].argsort()[place]]
    for _ in range(rounds):
        member = F.one_hot(torch.cdist(cells, centres).argmin(1), count).to(cells)
        mass = member.sum(0)
        found = (member.T @ cells) / mass.clamp_min(1)[:, None]
        centres = torch.where(mass[:, None] > 0, found, centres)
    return F.one_hot(torch.cdist(cells, centres).argmin(1), count).T.reshape(count, *latent.shape[-2:]).to(latent)
