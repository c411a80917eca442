"""What must be the same before and after a run."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Mapping

import torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_KEPT = ("attachments", "object_patches", "patches", "wrappers", "callbacks", "injections", "additional_models")


def network(patcher) -> dict:
    """Hooks, overridden forwards and a checksum of the weights of the shared network."""
    modules = dict(patcher.model.named_modules())
    return {
        "hooks": [name for name, one in modules.items() if any(len(getattr(one, kind)) for kind in _HOOKS)],
        "forwards": [name for name, one in modules.items() if "forward" in vars(one)],
        "weights": {key: _checksum(value) for key, value in patcher.model.state_dict().items()},
    }


def patcher_state(patcher) -> dict:
    """Options, attachments and the like of a MODEL; leaves by identity."""
    kept = {name: _tree(getattr(patcher, name)) for name in _KEPT}
    return {"model_options": _tree(patcher.model_options), **kept}


def state(patcher) -> dict:
    return {**network(patcher), **patcher_state(patcher)}


def tensors() -> int:
    """How many tensors are alive."""
    gc.collect()
    return sum(torch.is_tensor(one) for one in gc.get_objects())


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())


def _tree(value):
    if isinstance(value, Mapping):
        return {key: _tree(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tree(one) for one in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)
