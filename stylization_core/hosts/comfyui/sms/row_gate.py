"""Add a style branch's deltas to the rows of one prediction, for the length of one model call.

Hooks are put on the target modules before the call and taken off in ``finally``; weights are never written. Modules
may see other row counts than the model (HyperTile hands a projection 256 rows where the batch has 4), so row ranges
are scaled per module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import comfy.lora
import torch
from torch import Tensor

from ....errors import StylizationError
from ....low_rank import NORMS, ConvGeometry, dense, gain, low_rank, per_channel
from ..model import BATCH, CHUNKS, options_of, rows_of, uncompiled
from .style_branch import Delta, StyleBranch, dora_scale


@dataclass
class RowGate:
    """A style branch in use by one sampling run; holds the deltas in the dtype and on the device of the run.

    Args:
        branch: what to add.
        name: name of the :class:`Branch` whose rows get it.
    """

    branch: StyleBranch
    name: str = "style"
    _actions: dict = field(default_factory=dict, repr=False)

    def __call__(self, executor, *args, **kwargs):
        """APPLY_MODEL wrapper: run the model with the deltas on this gate's rows."""
        options, rows = options_of(args, kwargs), args[0].shape[0]
        chunks = options.get(CHUNKS)
        parts = rows_of(self.name, chunks, rows, options.get(BATCH)) if chunks else []
        if not parts:
            return executor(*args, **kwargs)
        handles = []
        try:
            for module_name, deltas in self._by_module.items():
                module = executor.class_obj.get_submodule(module_name)
                handles.append(module.register_forward_hook(self._hook(module_name, deltas, parts, rows)))
            return uncompiled(executor, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    @cached_property
    def _by_module(self) -> dict[str, list[tuple[str, Delta]]]:
        modules: dict[str, list[tuple[str, Delta]]] = {}
        for key, deltas in self.branch.deltas.items():
            module_name, _, parameter = key.rpartition(".")
            modules.setdefault(module_name, []).extend((parameter, delta) for delta in deltas)
        for deltas in modules.values():
            # a DoRA scales what the layer itself has made
            deltas.sort(key=lambda entry: dora_scale(entry[1]) is None)
        return modules

    def _hook(self, name: str, deltas: list[tuple[str, Delta]], parts: list[slice], rows: int) -> Callable:
        def add_deltas(module, inputs, output):
            x = inputs[0]
            scaled = scale_rows(parts, rows, output.shape[0], name)
            for index, (parameter, delta) in enumerate(deltas):
                act = self._action((name, index), parameter, delta, module, output)
                for part in scaled:
                    act(x[part], output[part])
            return output

        return add_deltas

    def _action(self, key, parameter: str, delta: Delta, module, output: Tensor) -> Callable:
        """The delta ready to act on (input rows, output rows); made once per run, device and dtype."""
        key = (key, output.device, output.dtype)
        if key not in self._actions:
            make = bias_delta if parameter == "bias" else weight_delta
            self._actions[key] = make(delta, module, output.device, output.dtype)
        return self._actions[key]


def scale_rows(parts: list[slice], rows: int, seen: int, module: str) -> list[slice]:
    """Row ranges of the model's batch in a module that sees ``seen`` rows for the model's ``rows``.

    Raises:
        StylizationError: the module's rows are no whole multiple of the model's.
    """
    ratio, rest = divmod(seen, rows)
    if rest or not ratio:
        raise StylizationError(
            "model",
            f"its module {module} sees {seen} rows where the batch has {rows}, so the style cannot be added to its own "
            "rows alone: a node on it regroups the batch inside the network",
            "Remove that node, or put it on another MODEL",
        )
    return [slice(part.start * ratio, part.stop * ratio) for part in parts]


def weight_delta(delta: Delta, module, device, dtype) -> Callable[[Tensor, Tensor], None]:
    """In-place action of a weight delta on output rows, ``act(x, y)`` with ``y += delta(x)``."""
    if isinstance(module, NORMS):
        value = full_delta(delta, module, device).to(dtype)

        def act_on_gain(x, y):
            y += gain(x, value, module)

        return act_on_gain
    conv = _geometry(module)
    dimension, start, length = delta.offset or (0, 0, module.weight.shape[0])

    def narrowed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        channels = 1 if conv else -1
        if dimension == 1:
            return x.narrow(channels, start, length), y
        return x, y.narrow(channels, start, length)

    if dora_scale(delta) is not None:
        return dora_delta(delta, module, device, dtype)
    if delta.kind == "lora" and delta.function is None:
        up, down, alpha, mid = delta.value.weights[:4]
        scale = delta.strength * (1.0 if alpha is None else float(alpha) / down.shape[0])
        up, down, mid = (None if w is None else w.to(device=device, dtype=dtype) for w in (up, down, mid))

        def act(x, y):
            x, y = narrowed(x, y)
            y += low_rank(x, up, down, mid, scale, conv)

        return act

    def act_dense(x, y):
        x, y = narrowed(x, y)
        y += dense(x, full_delta(delta, module, device).to(dtype), conv)

    return act_dense


def dora_delta(delta: Delta, module, device, dtype) -> Callable[[Tensor, Tensor], None]:
    """In-place action of a DoRA on output rows that no other delta has changed yet.

    DoRA makes of the weight W and the low-rank delta D the weight g * (W + D) with a factor g for each output, so that
    the outputs are g * (W x + D x): only g has to be computed from W, once per run.
    """
    conv = _geometry(module)
    _, start, length = delta.offset or (0, 0, module.weight.shape[0])
    up, down, alpha, mid = delta.value.weights[:4]
    scale = 1.0 if alpha is None else float(alpha) / down.shape[0]
    # one column for each output, whether of a linear layer or of a convolution
    shape = (-1, 1, 1) if conv else (-1,)
    factor = _dora_factor(delta, module, device).to(dtype).view(shape)
    up, down, mid = (None if w is None else w.to(device=device, dtype=dtype) for w in (up, down, mid))

    def act(x, y):
        y = y.narrow(1 if conv else -1, start, length)
        own = y
        if module.bias is not None:
            own = y - module.bias.narrow(0, start, length).to(device=device, dtype=dtype).view(shape)
        y += delta.strength * ((factor - 1) * own + factor * low_rank(x, up, down, mid, scale, conv))

    return act


def _dora_factor(delta: Delta, module, device) -> Tensor:
    """g of each output, (out,) float32: its magnitude by the length of its weights.

    peft takes the length of W + D; of files in LyCORIS's spelling ComfyUI's own loader takes that of W, and so do we.
    """
    weight = module.weight.detach().to(device=device, dtype=torch.float32)
    # patches that ComfyUI puts on partly loaded weights at use
    for function in getattr(module, "weight_function", ()):
        weight = function(weight)
    if delta.offset is not None:
        weight = weight.narrow(*delta.offset)
    if delta.magnitude is not None:
        plain = delta._replace(strength=1.0, magnitude=None)
        weight = weight + full_delta(plain, module, device)
    lengths = weight.flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps
    return dora_scale(delta).to(device=device, dtype=torch.float32).flatten() / lengths


def bias_delta(delta: Delta, module, device, dtype) -> Callable[[Tensor, Tensor], None]:
    """In-place action of a bias delta on output rows."""
    value = full_delta(delta, module, device, parameter="bias").to(dtype)
    if isinstance(module, NORMS):
        shaped = per_channel(value, module)
    else:
        shaped = value.view(-1, *([1] * (2 if _geometry(module) else 0)))

    def act(x, y):
        y += shaped

    return act


def full_delta(delta: Delta, module, device, parameter: str = "weight") -> Tensor:
    """The delta as a full tensor in the parameter's shape (or its offset part), float32, by ComfyUI's own adapters.

    Computed when needed and not kept: LoHa and LoKr factors are small, their product is as large as the weight.
    """
    shape = list(getattr(module, parameter).shape)
    if delta.offset is not None:
        shape[delta.offset[0]] = delta.offset[2]
    zeros = torch.zeros(shape, device=device, dtype=torch.float32)
    patch = (delta.strength, delta.value, 1.0, None, delta.function)
    return comfy.lora.calculate_weight([patch], zeros, "stylization delta")


def _geometry(module) -> ConvGeometry | None:
    if module.weight.ndim == 2:
        return None
    return ConvGeometry(module.stride, module.padding, module.dilation, module.groups)
