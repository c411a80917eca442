"""Model calls with something of ours inside the network run it as it was before ``torch.compile``.

Compiled code does not look at the hooks of modules again, and newer versions of ComfyUI let it pass over what nodes
put into ``transformer_options``: what is added to single rows, or done to attention, would be left out without a word,
or compiled anew at every call.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from comfy.patcher_extension import WrappersMP

from ....errors import StylizationError
from .rows import with_wrapper

KEY = "stylization.uncompiled"
INNER = "_orig_mod."
"""What a compiled module puts before the names of the modules in it."""

_TOLD: weakref.WeakSet = weakref.WeakSet()


class _Uncompiled:
    """Counts who wants networks uncompiled, on whatever thread; the switch is one of the process."""

    def __init__(self):
        self._lock, self._depth, self._stance = threading.Lock(), 0, None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._depth == 0:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._stance.__exit__(None, None, None)
                    self._stance = None


_uncompiled = _Uncompiled()


def uncompiled(executor, *args, **kwargs):
    """APPLY_MODEL wrapper: nothing in this model call runs as compiled code.

    Raises:
        StylizationError: the network is compiled, and this version of PyTorch cannot pass over it.
    """
    # whatever is compiled has imported this
    if "torch._dynamo" not in sys.modules:
        return executor(*args, **kwargs)
    network = executor.class_obj.diffusion_model
    if not hasattr(torch.compiler, "set_stance"):
        if any(hasattr(module, "_orig_mod") for module in network.modules()):
            raise StylizationError(
                "model",
                "its network is compiled (torch.compile), and what this node does inside would be left out",
                "Take model from before the node that compiles it, or update PyTorch to 2.6",
            )
        return executor(*args, **kwargs)
    if hasattr(network, "_orig_mod") and executor.class_obj not in _TOLD:
        _TOLD.add(executor.class_obj)
        text = "[Stylization] the network is compiled (torch.compile); calls with a style inside run it uncompiled"
        logging.warning(text)
    with _uncompiled():
        return executor(*args, **kwargs)


def with_uncompiled(options: dict) -> dict:
    """Copy of model options whose model calls go through :func:`uncompiled`."""
    return with_wrapper(options, WrappersMP.APPLY_MODEL, KEY, uncompiled, alone=True)
