"""Shared attention between the pictures of a batch, as attention processors of a diffusers UNet.

Source: StyleAligned (Hertz et al., arXiv 2312.02133), section 3.2, in the layout of diffusers' pipelines: the batch
holds one part per half of the guidance, and the first picture of each part is the reference of the others in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import StylizationError
from ...packages import DIFFUSERS, command
from ...shared_attention import Tokens, full_sharing, moments, shared_attention

try:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention
except ImportError as error:
    raise ImportError(f"This adapter needs diffusers; run `{command(DIFFUSERS)}`. {error}") from error


@dataclass(frozen=True)
class SharedAttention:
    """How the pictures of a batch share self-attention.

    Attributes:
        chunks: equal parts of the batch that share apart: 2 under classifier-free guidance, 1 without.
        weight: m, the reference's mass counts like m copies; 0 is off.
        score_scale: factor on the reference's keys.
        adain_query, adain_key: strength of AdaIN, in [0, 1].
        swap: the reference's keys and values in the place of the picture's own.
        full: all pictures of a polarity share with all (ablation of section 4.3), without weights and AdaIN.
        layers: names of modules of the UNet, such as ``up_blocks.1``; self-attention below any of them shares. The
            empty name stands for the whole UNet.

    Raises:
        StylizationError: a value outside its range; swap and full together.
    """

    chunks: int
    weight: float = 1.0
    score_scale: float = 1.0
    adain_query: float = 1.0
    adain_key: float = 1.0
    swap: bool = False
    full: bool = False
    layers: tuple[str, ...] = ("",)

    def __post_init__(self):
        if self.chunks < 1:
            raise StylizationError("chunks", f"it is {self.chunks}", "Give 2 under classifier-free guidance, else 1")
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise StylizationError("weight", f"it is {self.weight}", "Give a finite number, at least 0")
        for name in ("adain_query", "adain_key"):
            if not 0 <= getattr(self, name) <= 1:
                raise StylizationError(name, f"it is {getattr(self, name)}", "Give a number from 0 to 1")
        if self.swap and self.full:
            raise StylizationError("swap", "it is set together with full", "Choose one of them")

    def chosen(self, unet: UNet2DConditionModel) -> dict[str, Attention]:
        """The self-attention modules that share, by name.

        Raises:
            StylizationError: not a UNet of this kind; a name in ``layers`` has no self-attention below it.
        """
        if not isinstance(unet, UNet2DConditionModel):
            raise StylizationError(
                "unet", f"it is a {type(unet).__name__}", "Give the UNet2DConditionModel of a pipeline"
            )
        found = {
            name: module
            for name, module in unet.named_modules()
            if isinstance(module, Attention) and name.endswith("attn1") and not module.is_cross_attention
        }
        below = lambda name, prefix: prefix in ("", name) or name.startswith(prefix + ".")  # noqa: E731
        for prefix in self.layers:
            if not any(below(name, prefix) for name in found):
                blocks = dict.fromkeys(name.partition(".transformer_blocks")[0] for name in found)
                raise StylizationError(
                    "layers", f"'{prefix}' holds no self-attention of this UNet", f"There are {', '.join(blocks)}"
                )
        return {name: module for name, module in found.items() if any(below(name, prefix) for prefix in self.layers)}

    @contextmanager
    def attach(self, unet: UNet2DConditionModel) -> Iterator[tuple[str, ...]]:
        """Share inside the ``with`` block, whose value is the names of the layers; afterwards all is as before.

        Raises:
            StylizationError: see :meth:`chosen`; a layer shares already.
        """
        layers = self.chosen(unet) if self.weight != 0 else {}
        former = {name: layer.processor for name, layer in layers.items()}
        for name, processor in former.items():
            if isinstance(processor, _Processor):
                raise StylizationError("unet", f"'{name}' shares already", "Leave the other sharing's block first")
        try:
            for layer in layers.values():
                layer.set_processor(_Processor(self))
            yield tuple(layers)
        finally:
            for name, processor in former.items():
                layers[name].set_processor(processor)

    def of_half(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Attention of the pictures of one half, (B, N, C) each; the first is as it would be alone."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

        if len(q) == 1:
            return attend(q, k, v)
        if self.full:
            return full_sharing(q, k, v, attend)
        reference = Tokens(k[:1], v[:1], moments(q[:1]), moments(k[:1]), self.weight, self.score_scale)
        how = {"adain_query": self.adain_query, "adain_key": self.adain_key, "swap": self.swap}
        others = shared_attention(q[1:], k[1:], v[1:], [reference], heads, attend, **how)
        return torch.cat([attend(q[:1], k[:1], v[:1]), others])


class _Processor:
    """Self-attention of a transformer block, whose rows are the chunks one after another."""

    def __init__(self, sharing: SharedAttention):
        self.sharing = sharing

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states=None, attention_mask=None):
        if attention_mask is not None:
            raise StylizationError("attention_mask", "self-attention has a mask", "Call the UNet without it")
        rows, chunks = len(hidden_states), self.sharing.chunks
        if rows % chunks:
            raise StylizationError("chunks", f"{rows} rows do not divide into {chunks}", "Give the parts of this batch")
        q, k, v = (project(hidden_states).chunk(chunks) for project in (attn.to_q, attn.to_k, attn.to_v))
        out = torch.cat([self.sharing.of_half(*part, attn.heads) for part in zip(q, k, v, strict=True)])
        for module in attn.to_out:
            out = module(out)
        return out
