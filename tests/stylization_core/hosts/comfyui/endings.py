"""The ways in which a run may end: a success, an exception inside the model, an interrupt."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import pytest

from . import runs


def failing_after(patcher, blocks: int):
    """A clone whose network, of seven attention blocks a call, raises after so many of them."""
    clone, seen = patcher.clone(), []

    def fail(q, k, v, options):
        seen.append(1)
        if len(seen) > blocks:
            raise ZeroDivisionError("inside the model")
        return q, k, v

    clone.set_model_attn1_patch(fail)
    return clone


def interrupting_at(last: int) -> Callable:
    """A callback that interrupts at a step."""

    def callback(step, x0, x, total):
        if step == last:
            comfy.model_management.interrupt_current_processing(True)

    return callback


def interrupt(model, source, last: int = 2, **settings) -> None:
    """An SMS run of nine steps that is interrupted."""
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        runs.sms(model, source, steps=9, callback=interrupting_at(last), **settings)


def run_to(ending: str, model, source, style=None) -> None:
    """An SMS run that ends in ``success``, ``exception`` or ``interrupt``."""
    if ending == "success":
        runs.sms(model, source, style, relevance_floor=0.1)
    elif ending == "exception":
        with pytest.raises(ZeroDivisionError):
            runs.sms(failing_after(model, 10), source, style)
    else:
        interrupt(model, source)
