"""Hands the self-attention of chosen UNet layers to an operator, for the length of one model call.

ComfyUI's attention override sees projected queries, keys and values of self- and cross-attention alike and has one
slot; its patches before and after self-attention know the layer. So a patch before arms the override, a patch after
disarms it, and the override calls whoever held the slot. Owners of a self-attention replacement (PAG) pass by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor

from .compiled import with_uncompiled
from .layers import Layer

OVERRIDE = "optimized_attention_override"


@dataclass(frozen=True)
class Call:
    """One self-attention.

    Attributes:
        layer: which.
        q, k, v: (rows, N, C), projected. Queries can have more rows than keys, as tiles of the same pictures.
        heads: number of heads.
        options: transformer_options of the model call.
    """

    layer: Layer
    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    options: dict


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
Act = Callable[[Call, Attend], Tensor]
"""Called with a self-attention and the attention that comes next; returns the output before ``to_out``."""


def with_self_attention(options: dict, layers: Collection[Layer], act: Act) -> dict:
    """Copy of the model options of one call whose self-attention in ``layers`` goes through ``act``."""
    transformer_options = dict(options.get("transformer_options", {}))
    previous = transformer_options.get(OVERRIDE)
    # by device, since calls for several devices can share the options
    armed: dict[object, Layer] = {}

    def arm(n, context, value, extra_options):
        stage, number = extra_options.get("block", ("", -1))
        layer = Layer(stage, number, extra_options.get("block_index", 0))
        if layer in layers:
            armed[n.device] = layer
        else:
            armed.pop(n.device, None)
        return n, context, value

    def disarm(out, extra_options):
        armed.pop(out.device, None)
        return out

    def override(func, q, k, v, *args, **kwargs):
        def attend(q, k, v):
            if previous is None:
                return func(q, k, v, *args, **kwargs)
            return previous(func, q, k, v, *args, **kwargs)

        layer = armed.pop(q.device, None)
        if layer is None:
            return attend(q, k, v)
        heads = kwargs["heads"] if "heads" in kwargs else args[0]
        return act(Call(layer, q, k, v, heads, kwargs.get("transformer_options", {})), attend)

    patches = dict(transformer_options.get("patches", {}))
    patches["attn1_patch"] = [*patches.get("attn1_patch", []), arm]
    patches["attn1_output_patch"] = [disarm, *patches.get("attn1_output_patch", [])]
    transformer_options["patches"] = patches
    transformer_options[OVERRIDE] = override
    return with_uncompiled({**options, "transformer_options": transformer_options})
