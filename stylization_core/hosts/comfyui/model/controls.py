"""ControlNets are asked before any wrapper around the model; here they see the same options as those wrappers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

Show = Callable[[dict], None]
"""Changes the ``transformer_options`` of one model call in place."""


def showing(control, show: Show):
    """A ControlNet for one question, which has ``show`` applied to the options before it is asked.

    It is of a subclass of the control's class and has the control's attributes: what is set on one is set on both.
    The control itself is left alone.

    Args:
        control: head of a chain; the ControlNets behind it get the options that it hands on.
        show: what to do; a function of a module, since a class is kept for it.
    """
    twin = object.__new__(_kind(type(control), show))
    object.__setattr__(twin, "__dict__", vars(control))
    return twin


@lru_cache(maxsize=64)
def _kind(kind: type, show: Show) -> type:
    class Showing(kind):
        @property
        def get_control(self):
            # packs put a method of their own on the object, which would go before one of this class
            ask = vars(self).get("get_control") or super().get_control

            def get_control(x, t, cond, batched_number, transformer_options, *args, **kwargs):
                show(transformer_options)
                return ask(x, t, cond, batched_number, transformer_options, *args, **kwargs)

            return get_control

        @get_control.setter
        def get_control(self, method) -> None:
            vars(self)["get_control"] = method

        def get_instance_for_device(self, device):
            """The clone that ComfyUI asks on another device (newer versions only)."""
            instance = super().get_instance_for_device(device)
            return instance if instance is self else showing(instance, show)

    Showing.__name__, Showing.__qualname__, Showing.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Showing
