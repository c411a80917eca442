"""Looks at what a node is given before the node does: by its own schema, for all nodes of the pack alike.

ComfyUI checks widgets when a prompt is queued, but lets NaN through every range and does not look at linked values. A
``validate_inputs`` of ours would switch its checks off, so values are looked at when the node is executed, in one place
that wraps every ``execute``: numbers are finite and in their range, choices are among those offered (files: at this
moment), pictures, masks and latents are such. What comes out wrong is an error with the names of node and input.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable

import torch
from comfy_api.latest import io

from ..stylization_core.errors import StylizationError, naming
from ..stylization_core.finite import check_finite, check_finite_number
from .inputs import VAE_HALF

SHOWN = 160
"""Choices of a combo stand in a message, in so many characters."""

BLANK = (64, 64)
"""Size of the mask that Load Image gives with a picture without transparency."""

MAY_BE_EMPTY = {("StylizeRegion", "mask")}
"""Masks in which nothing may be marked, by node and input: a graph that finds regions may find none of a kind."""

FAINTEST, BRIGHTEST = -1.0, 2.0
"""Pictures may leave 0 to 1 so far, as sharpening does; what leaves these is not in that scale at all."""


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself, its ``execute`` behind :func:`check_inputs` and under its display name."""
    execute = node.execute.__func__
    signature = inspect.signature(execute)
    # a node may take the inputs that it hands on together: **settings
    gathered = [one.name for one in signature.parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(execute)
    def checked(cls, *given, **inputs) -> io.NodeOutput:
        schema = node.GET_SCHEMA()
        with naming(schema.display_name):
            values = dict(signature.bind(cls, *given, **inputs).arguments)
            for name in gathered:
                values |= values.pop(name, {})
            check_inputs(schema, values)
            return execute(cls, *given, **inputs)

    node.execute = classmethod(checked)
    return node


def check_inputs(schema: io.Schema, given: dict) -> None:
    """Refuse values that do not fit the schema.

    Raises:
        StylizationError: the subject is the input's id.
    """
    for one in schema.inputs:
        if given.get(one.id) is not None:
            check = next((check for kind, check in CHECKS.items() if isinstance(one, kind)), None)
            if check is not None:
                check(one, given[one.id])
            if isinstance(one, io.Mask.Input):
                check_marked(given[one.id], one.id, may_be_empty=(schema.node_id, one.id) in MAY_BE_EMPTY)
        elif one.id in given and not one.optional:
            raise StylizationError(
                one.id,
                "what is connected gives nothing",
                "Look at the node before it; a checkpoint without CLIP or VAE gives none, load those by themselves",
            )


def _number(one, value) -> None:
    check_finite_number(value, one.id)
    if isinstance(one, io.Int.Input) and not isinstance(value, numbers.Integral):
        raise StylizationError(one.id, f"it is {value!r}", "Give a whole number")
    low, high = (-math.inf if one.min is None else one.min), (math.inf if one.max is None else one.max)
    if not low <= value <= high:
        raise StylizationError(one.id, f"it is {value!r}", f"Give a number from {low} to {high}")


def _switch(one, value) -> None:
    if not isinstance(value, numbers.Number) or value not in (0, 1):
        raise StylizationError(one.id, f"it is {value!r}", "Give true or false")


def _choice(one, value) -> None:
    offered = [*one.options]
    if value in offered:
        return
    if not offered:
        raise StylizationError(one.id, f"{value!r} is not among its choices, it has none", "Put one into its folder")
    shown: list[str] = []
    while len(shown) < len(offered) and len(", ".join([*shown, offered[len(shown)]])) <= SHOWN:
        shown.append(offered[len(shown)])
    more = f" and {len(offered) - len(shown)} more" if len(shown) < len(offered) else ""
    raise StylizationError(
        one.id, f"{value!r} is not among its choices", f"Choose one of: {', '.join(shown) or offered[0]}{more}"
    )


def _text(one, value) -> None:
    if not isinstance(value, str):
        raise StylizationError(one.id, f"it is {value!r}", "Give a text")
    broken = next((sign for sign in value if "\ud800" <= sign <= "\udfff" or sign == "\0"), None)
    if broken is not None:
        raise StylizationError(
            one.id, f"it holds {broken!r}, a sign that is none, such as half an emoji", "Type the text anew"
        )


def _tensor(one, value, kind: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise StylizationError(one.id, f"it is a {type(value).__name__}, no {kind}", f"Connect {kind}")
    return value


def _picture(one, value) -> None:
    value = _tensor(one, value, "pictures")
    if value.ndim != 4 or value.shape[-1] not in (3, 4):
        raise StylizationError(
            one.id, f"its shape is {tuple(value.shape)}, not (B, H, W, 3)", "Connect colour pictures, as Load Image"
        )
    _filled(one, value, "picture")
    if not value.is_floating_point():
        raise StylizationError(one.id, f"its values are {value.dtype}", "Connect pictures of floats from 0 to 1")
    check_finite(value, one.id, VAE_HALF)
    _scaled(one, value, "pictures")


def _mask(one, value) -> None:
    value = _tensor(one, value, "a mask")
    if not (value.ndim in (2, 3) or (value.ndim == 4 and value.shape[1] == 1)):
        raise StylizationError(one.id, f"its shape is {tuple(value.shape)}, not (B, H, W)", "Connect a mask")
    _filled(one, value, "mask")
    check_finite(value, one.id)
    _scaled(one, value, "masks")


def check_marked(mask: torch.Tensor, subject: str, may_be_empty: bool = False) -> None:
    """Refuse a mask in which nothing is marked: the node would run in full and change nothing.

    Args:
        may_be_empty: let an empty one pass that is not Load Image's.

    Raises:
        StylizationError: says where such a mask comes from, if it is Load Image's of a picture without transparency.
    """
    if (mask > 0).any():
        return
    if tuple(mask.shape[-2:]) == BLANK:
        found = "it is empty, 64x64 zeros, as Load Image gives for a picture without transparency"
        raise StylizationError(subject, found, "Paint one in the mask editor, or take it off")
    if may_be_empty:
        return
    raise StylizationError(subject, "it is empty, nothing is marked", "Paint in white what is meant, or take it off")


def _filled(one, value: torch.Tensor, what: str) -> None:
    if not value.numel():
        raise StylizationError(one.id, f"there is no {what} in it (shape {tuple(value.shape)})", "Connect at least one")


def _scaled(one, value: torch.Tensor, what: str) -> None:
    low, high = (float(end) for end in value.aminmax())
    if low < FAINTEST or high > BRIGHTEST:
        found = f"its values go from {low:g} to {high:g}"
        raise StylizationError(one.id, found, f"Bring them to the scale of {what}, 0 to 1")


def _latent(one, value) -> None:
    samples = value.get("samples") if isinstance(value, dict) else None
    if samples is None:
        raise StylizationError(one.id, "it holds no samples", "Connect a latent")
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        shape = "several streams" if getattr(samples, "is_nested", False) else tuple(samples.shape)
        raise StylizationError(one.id, f"it holds {shape}, not pictures (B, C, H, W)", "Connect an image's latent")
    _filled(one, samples, "latent")
    if not samples.is_floating_point():
        raise StylizationError(one.id, f"its values are {samples.dtype}", "Connect VAE Encode")
    check_finite(samples, one.id, VAE_HALF)
    if value.get("noise_mask") is not None:
        check_finite(value["noise_mask"], one.id, "Look at the mask that was set on it")


def _levels(one, value) -> None:
    value = _tensor(one, value, "sigmas")
    if value.ndim != 1:
        raise StylizationError(one.id, f"their shape is {tuple(value.shape)}, not a row", "Connect Basic Scheduler")
    check_finite(value, one.id, "Look at the scheduler that made them")
    if (value < 0).any():
        raise StylizationError(one.id, f"{float(value.min()):g} is among them", "Give levels of 0 and more")


def _prompt(one, value) -> None:
    good = isinstance(value, (list, tuple)) and value and all(len(entry) == 2 for entry in value)
    if not good:
        raise StylizationError(one.id, "there is no prompt in it", "Connect CLIP Text Encode")
    for tokens, options in value:
        for part in (tokens, options.get("pooled_output")):
            if isinstance(part, torch.Tensor):
                check_finite(part, one.id, "Look at the text encoder; in half precision it may overflow")


CHECKS: dict[type, Callable] = {
    io.Float.Input: _number,
    io.Int.Input: _number,
    io.Boolean.Input: _switch,
    io.Combo.Input: _choice,
    io.String.Input: _text,
    io.Image.Input: _picture,
    io.Mask.Input: _mask,
    io.Latent.Input: _latent,
    io.Sigmas.Input: _levels,
    io.Conditioning.Input: _prompt,
}
"""By kind of input; sockets that are not named are looked at by the nodes."""
