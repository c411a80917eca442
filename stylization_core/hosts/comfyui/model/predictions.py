"""Several predictions per step in as few model calls as memory allows, each under its own name.

ComfyUI names the chunks of a batch by their index in the list of conditionings (``cond_or_uncond``), and many packs
take 0 for "positive" and 1 for "negative" and index a pair with it. A third prediction would crash them. So extra
predictions carry a :class:`Branch` under ``transformer_options["stylization.branch"]``, and everyone else sees a copy
of the options whose ``cond_or_uncond`` holds only the polarities 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

BASE = "base"

BRANCHES = "stylization.branch"
"""Key of the list of branches, in the order of the conditionings of the call."""

CHUNKS = "stylization.chunks"
"""Key of the branches of the present model call, one per chunk of the batch."""


@dataclass(frozen=True)
class Branch:
    """A named prediction. ``polarity`` is what other patches take it for: 0 positive, 1 negative."""

    name: str
    polarity: int


def chunk_rows(chunks: Sequence[Branch], rows: int) -> list[slice]:
    """Rows of the batch that belong to each chunk; chunk i has rows ``[i * B, (i + 1) * B)``.

    Raises:
        RuntimeError: the batch does not divide into the chunks (a node before ours repacked it).
    """
    size, rest = divmod(rows, len(chunks))
    if rest:
        raise RuntimeError(
            f"Stylization: a model call has {rows} rows for {len(chunks)} predictions, which does not divide. "
            "A node on this model repacks the batch; remove it from the graph or put it on another model."
        )
    return [slice(i * size, (i + 1) * size) for i in range(len(chunks))]


def rows_of(name: str, chunks: Sequence[Branch], rows: int) -> list[slice]:
    """Row ranges of the branch ``name``, adjacent ranges joined."""
    joined: list[slice] = []
    for branch, part in zip(chunks, chunk_rows(chunks, rows), strict=True):
        if branch.name != name:
            continue
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined


def with_polarities(transformer_options: dict) -> dict:
    """Copy of the options of one model call in which other patches see polarities; unchanged if already done."""
    branches = transformer_options.get(BRANCHES)
    if branches is None or CHUNKS in transformer_options:
        return transformer_options
    chunks = [branches[index] for index in transformer_options["cond_or_uncond"]]
    return {**transformer_options, CHUNKS: chunks, "cond_or_uncond": [branch.polarity for branch in chunks]}


def predict(
    inner_model,
    requests: Sequence[tuple[Branch, list]],
    x: Tensor,
    sigma: Tensor,
    model_options: dict,
    apply_model: Callable | None = None,
    calculate: Callable | None = None,
) -> list[Tensor]:
    """Denoised predictions for several branches at one noise level.

    Args:
        inner_model: the loaded ``BaseModel``; its ``current_patcher`` must be set (inside a sampling run it is).
        requests: (branch, processed conditioning) pairs.
        x: (B, C, H, W), noised, in model scale.
        sigma: (B,).
        apply_model: wrapper ``(executor, x, t, *args, **kwargs)`` around each model call, see :func:`options_of`.

        calculate: what to call instead of ``comfy.samplers.calc_cond_batch``; a CALC_COND_BATCH wrapper passes its
            executor, so that other wrappers of that kind run once.

    Returns:
        One (B, C, H, W) denoised tensor per request, in order.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    transformer_options = options.setdefault("transformer_options", {})
    transformer_options[BRANCHES] = tuple(branch for branch, _ in requests)

    def show_polarities(executor, *args, **kwargs):
        args, kwargs = replace_options(args, kwargs, with_polarities(options_of(args, kwargs)))
        return executor(*args, **kwargs) if apply_model is None else apply_model(executor, *args, **kwargs)

    wrappers = transformer_options.setdefault("wrappers", {})
    # first in the dictionary is outermost: every other APPLY_MODEL wrapper already sees polarities
    wrappers[WrappersMP.APPLY_MODEL] = {BRANCHES: [show_polarities], **wrappers.get(WrappersMP.APPLY_MODEL, {})}
    if "model_function_wrapper" in options:
        options["model_function_wrapper"] = _polarities_for(options["model_function_wrapper"])
    calculate = calculate or comfy.samplers.calc_cond_batch
    return calculate(inner_model, [cond for _, cond in requests], x, sigma, options)


def _polarities_for(function_wrapper: Callable) -> Callable:
    """The old single-slot wrapper around the model call, shown polarities too."""

    def wrapped(apply_model, call):
        shown = with_polarities(call["c"]["transformer_options"])
        conditioning = {**call["c"], "transformer_options": shown}
        return function_wrapper(apply_model, {**call, "c": conditioning, "cond_or_uncond": shown["cond_or_uncond"]})

    return wrapped


def options_of(args: Sequence, kwargs: dict) -> dict:
    """``transformer_options`` of an APPLY_MODEL call (x, t, c_concat, c_crossattn, control, transformer_options)."""
    return kwargs["transformer_options"] if "transformer_options" in kwargs else args[5]


def replace_options(args: Sequence, kwargs: dict, options: dict) -> tuple[list, dict]:
    """The call's arguments with other ``transformer_options``."""
    if "transformer_options" in kwargs:
        return list(args), {**kwargs, "transformer_options": options}
    return [*args[:5], options, *args[6:]], kwargs


def with_wrapper(options: dict, kind: str, key: str, wrapper: Callable) -> dict:
    """Copy of model options with one more wrapper of a kind, innermost; a key can hold several."""
    transformer_options = dict(options.get("transformer_options", {}))
    wrappers = dict(transformer_options.get("wrappers", {}))
    others = wrappers.get(kind, {})
    wrappers[kind] = {**others, key: [*others.get(key, []), wrapper]}
    transformer_options["wrappers"] = wrappers
    return {**options, "transformer_options": transformer_options}
