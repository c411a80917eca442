"""Group norms of a UNet during one model call: record their moments, or pool them with a reference's.

Hooks are put on the modules before the call and taken off in ``finally``. A norm's own weights are not read, which
some memory managers forbid: a probe with values of plus and minus one shows them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...shared_attention import GroupMoments, group_moments, pooled_group_norm
from .branches import options_of, with_wrapper

KEY = "stylization.group_norms"

Reference = Callable[[str, GroupMoments, dict], GroupMoments | None]
"""(module name, own moments of all rows, transformer_options) -> the reference's for all rows, None for no change."""


def recording(options: dict, into: dict[str, GroupMoments]) -> dict:
    """Copy of the model options of one call that keeps every group norm's moments in ``into``."""

    def keep(name: str, module, x: Tensor, out: Tensor, transformer_options: dict) -> Tensor:
        into[name] = group_moments(x, module.num_groups)
        return out

    return _hooked(options, keep)


def pooling(options: dict, reference: Reference, strength: float = 1.0) -> dict:
    """Copy of the model options of one call whose group norms take their statistics over picture and reference."""

    def pool(name: str, module, x: Tensor, out: Tensor, transformer_options: dict) -> Tensor:
        own = group_moments(x, module.num_groups)
        other = reference(name, own, transformer_options)
        if other is None:
            return out
        gain, shift = pooled_group_norm(own, other, module.eps)
        weight, bias = _affine(module, x)
        gain, shift = (each.repeat_interleave(x.shape[1] // module.num_groups, 1) for each in (gain, shift))
        gain, shift = (each[..., None, None] for each in (1 + strength * (gain - 1), strength * shift))
        return (gain * (out.float() - bias) + shift * weight + bias).to(out.dtype)

    return _hooked(options, pool)


def _affine(module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a group norm, (C, 1, 1), from what it makes of plus and minus one."""
    channels = x.shape[1]
    probe = torch.ones(1, channels, 1, 2, device=x.device, dtype=x.dtype)
    probe[..., 1] = -1
    # past the hooks of the module; its variance is 1
    plus, minus = module.forward(probe).float().mul((1 + module.eps) ** 0.5)[0].unbind(-1)
    weight = (plus - minus) / 2
    bias = (plus + minus) / 2 / (1 + module.eps) ** 0.5
    return weight[..., None], bias[..., None]


def _hooked(options: dict, act: Callable) -> dict:
    def around(executor, *args, **kwargs):
        seen = options_of(args, kwargs)

        def hook_of(name: str) -> Callable:
            return lambda module, inputs, out: act(name, module, inputs[0], out, seen)

        handles = []
        try:
            for name, module in executor.class_obj.diffusion_model.named_modules():
                if isinstance(module, nn.GroupNorm):
                    handles.append(module.register_forward_hook(hook_of(name)))
            return executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    return with_wrapper(options, WrappersMP.APPLY_MODEL, KEY, around)
