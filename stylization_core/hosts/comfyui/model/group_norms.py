"""Group norms of a UNet during one model call: record their moments, or pool them with a reference's.

Hooks are put on the modules before the call and taken off in ``finally``. A norm's own weights are not read, which
some memory managers forbid: a probe with values of plus and minus one shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ....shared_attention import GroupMoments, group_moments, pooled_group_norm
from .compiled import INNER, with_uncompiled
from .rows import options_of, with_wrapper

KEY = "stylization.group_norms"

Pooled = Iterator[tuple[GroupMoments, Tensor | None]]
"""References of all rows in turn, each with where it counts, (B, 1, h, w) in [0, 1] or None for everywhere."""

Reference = Callable[[str, GroupMoments, Tensor, dict], Pooled]
"""(module name, own moments of all rows, input, transformer_options) -> what to pool with."""


Keep = Callable[[str, GroupMoments, dict], None]
"""(module name, moments of all rows, transformer_options): takes what is to be kept."""


def recording(options: dict, keep: Keep) -> dict:
    """Copy of the model options of one call that shows every group norm's moments to ``keep``."""

    def show(name: str, module, x: Tensor, out: Tensor, transformer_options: dict) -> Tensor:
        keep(name, group_moments(x, module.num_groups), transformer_options)
        return out

    return _hooked(options, show)


def pooling(options: dict, reference: Reference, strength: float = 1.0) -> dict:
    """Copy of the model options of one call whose group norms take their statistics over picture and reference."""

    def pool(name: str, module, x: Tensor, out: Tensor, transformer_options: dict) -> Tensor:
        own, normed = group_moments(x, module.num_groups), out.float()
        weight, bias = _affine(module, x)
        found = normed
        for other, where in reference(name, own, x, transformer_options):
            gain, shift = pooled_group_norm(own, other, module.eps)
            gain, shift = (each.repeat_interleave(x.shape[1] // module.num_groups, 1) for each in (gain, shift))
            gain, shift = (each[..., None, None] for each in (gain - 1, shift))
            # as a change, so that rows that meet themselves stay as they are bit for bit
            pooled = normed + strength * (gain * (normed - bias) + shift * weight)
            found = pooled if where is None else torch.lerp(found, pooled, where.to(found))
        return found.to(out.dtype)

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
                    handles.append(module.register_forward_hook(hook_of(name.replace(INNER, ""))))
            return executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    return with_uncompiled(with_wrapper(options, WrappersMP.APPLY_MODEL, KEY, around))
