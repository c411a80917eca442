"""What a reference gave in earlier runs, so that the same run with other pictures need not ask the model again.

A cache belongs to one reference and goes with it. Records are found by everything that could change them: the model
with its patches, the attention backend, the processed conditioning, the schedule, what was wanted, level and polarity.
What cannot be told apart is not kept.
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass, replace

import comfy.conds
import numpy as np
import torch
from torch import Tensor


class Same:
    """An object as part of a key, by identity: equal only while it lives."""

    def __init__(self, held: object):
        self._hash = id(held)
        try:
            self._found = weakref.ref(held)
        except TypeError:
            self._found = lambda: held

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same):
            return NotImplemented
        held = self._found()
        return held is not None and held is other._found()


class Unkeyed(Exception):
    """A value by whose content nothing can be found again."""


def digest(value: object) -> str:
    """SHA-256 of nested dicts, lists, tensors, arrays, plain values and ComfyUI's processed conditionings.

    Entries named ``uuid`` do not count: they are drawn anew for each run.

    Raises:
        Unkeyed: it holds an object of another kind, such as a ControlNet or a hook.
    """
    state = hashlib.sha256()
    _feed(state, value)
    return state.hexdigest()


def _feed(state, value: object) -> None:
    def note(*parts: object) -> None:
        state.update(repr(parts).encode())

    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        note(type(value).__name__, value)
    elif isinstance(value, dict):
        note("dict", len(value))
        for name in sorted(value, key=repr):
            if name != "uuid":
                _feed(state, name)
                _feed(state, value[name])
    elif isinstance(value, (list, tuple)):
        note("list", len(value))
        for one in value:
            _feed(state, one)
    elif isinstance(value, Tensor):
        note("tensor", value.dtype, tuple(value.shape))
        state.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        note("array", value.dtype.str, value.shape)
        state.update(np.ascontiguousarray(value))
    elif isinstance(value, comfy.conds.CONDRegular):
        note(type(value).__module__, type(value).__qualname__)
        _feed(state, value.cond)
    else:
        raise Unkeyed(type(value).__name__)


class RecordCache:
    """Records of one reference, in main memory.

    Args:
        limit: bytes. When they are used up, records of other runs make room; those of the present run stay.
    """

    def __init__(self, limit: int):
        self.limit, self.used = limit, 0
        self._runs: dict[Hashable, dict[tuple[float, int], tuple[object, int]]] = {}
        self._full: set[Hashable] = set()

    def get(self, run: Hashable, level: float, polarity: int, device) -> object | None:
        """A record on ``device``, or None."""
        found = self._runs.get(run, {}).get((level, polarity))
        return None if found is None else _mapped(found[0], lambda tensor: tensor.to(device))

    def keep(self, run: Hashable, level: float, polarity: int, record: object) -> None:
        """Keep a copy, if there is room for it."""
        size = _size(record)
        others = [key for key in self._runs if key != run]
        while self.used + size > self.limit and others:
            self.used -= sum(bytes_of for _, bytes_of in self._runs.pop(others.pop(0)).values())
        if self.used + size > self.limit:
            if run not in self._full:
                logging.info(
                    "[Stylization] reference: %.0f MiB of records are kept, the limit; the rest is made each run",
                    self.used / 2**20,
                )
                self._full = {run}
            return
        # ordinary tensors: a later run may need gradients through what it computes with them
        with torch.inference_mode(False):
            copy = _mapped(record, lambda tensor: tensor.detach().to("cpu", copy=True))
        self._runs.setdefault(run, {})[level, polarity] = copy, size
        self.used += size


def _size(record: object) -> int:
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    _mapped(record, count)
    return total


def _mapped(value: object, act: Callable[[Tensor], Tensor]) -> object:
    """A copy of nested dicts, sequences and dataclasses whose tensors went through ``act``."""
    if isinstance(value, Tensor):
        return act(value)
    if isinstance(value, dict):
        return {key: _mapped(one, act) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_mapped(one, act) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value):
        return replace(value, **{field.name: _mapped(getattr(value, field.name), act) for field in fields(value)})
    return value


def run_key(guider, conds: dict, options: dict, wanted: Hashable, device) -> Hashable | None:
    """What records of a run depend on besides level and polarity; None where that cannot be told.

    Args:
        guider: of the run.
        conds: processed conditionings of the reference.
        options: transformer_options of its passes.
        wanted: what is kept.
        device: of the passes.
    """
    patcher, model = guider.model_patcher, guider.inner_model
    try:
        plain = {key: value for key, value in options.items() if not callable(value)}
        contents = digest([conds, plain])
    except Unkeyed:
        return None
    owned = [model, *(options[key] for key in sorted(options) if callable(options[key]))]
    patched = getattr(patcher, "object_patches", {})
    owned += [patched[name] for name in sorted(patched)]
    injections = getattr(patcher, "injections", {})
    owned += [one for name in sorted(injections) for one in injections[name]]
    names = (*sorted(patched), *sorted(injections))
    return patcher.patches_uuid, tuple(Same(one) for one in owned), names, contents, wanted, str(device)
