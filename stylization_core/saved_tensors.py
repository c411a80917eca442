"""Autograd through code that writes into tensors which the backward pass still needs.

A tensor that autograd has saved is copied at the moment something is about to write into its memory. PyTorch's own
``allow_mutation_on_saved_tensors`` does the same but knows saved tensors by Python id and address; both are used again
once a copy has set the original free, so that a gradient can meet another tensor's values. Here they are known by
storages that stay alive as long as they are looked up.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode


class _Saved:
    """A saved tensor: an alias of it, and from the first write on a copy. Lives as long as the graph."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Tensor):
        self.value = value


@contextmanager
def copied_before_writing() -> Iterator[None]:
    """Copy each tensor that autograd saves in the block, before an operation of the block writes into its memory.

    Forward and backward pass both belong inside the block.
    """
    # by storage; an entry's alias keeps its storage, and so the key, from being used again
    saved: dict[int, weakref.WeakSet[_Saved]] = {}

    def pack(tensor: Tensor) -> _Saved:
        # an alias without history, or the graph would hold itself
        entry = _Saved(tensor.detach())
        saved.setdefault(_storage(tensor), weakref.WeakSet()).add(entry)
        return entry

    class CopyBeforeWriting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            for target in _written(func, args, kwargs):
                for entry in saved.pop(_storage(target), ()):
                    entry.value = entry.value.clone()
            return func(*args, **kwargs)

    with saved_tensors_hooks(pack, lambda entry: entry.value), CopyBeforeWriting():
        yield


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func, args: tuple, kwargs: dict) -> Iterator[Tensor]:
    """The tensors that an operation writes into, by its schema."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        yield from (value,) if isinstance(value, Tensor) else value or ()
