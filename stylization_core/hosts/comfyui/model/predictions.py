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

BATCH = "stylization.batch"
"""Key of the number of pictures that a question to the model is about: rows of a chunk in ComfyUI's own calls."""


@dataclass(frozen=True)
class Branch:
    """A named prediction. ``polarity`` is what other patches take it for: 0 positive, 1 negative."""

    name: str
    polarity: int


def chunk_rows(chunks: int, rows: int, batch: int | None = None) -> list[list[slice]]:
    """Rows of a model call that belong to each of its chunks, as row ranges.

    ComfyUI puts a chunk of ``batch`` rows after the other. Tiled diffusion puts several tiles into one call, each with
    all chunks, tile after tile; then a chunk has one range per tile.

    Args:
        chunks: predictions of the call.
        rows: of its batch.
        batch: pictures of the question, see :data:`BATCH`; None takes the call for one tile.

    Raises:
        RuntimeError: the rows are no whole number of tiles (a node on the model splits or repacks the batch).
    """
    size = batch or rows // chunks
    tiles, rest = divmod(rows, chunks * size) if size else (0, rows)
    if rest or not tiles:
        pictures = "" if batch is None else f" of {batch} pictures"
        raise RuntimeError(
            f"Stylization: a model call has {rows} rows for {chunks} predictions{pictures}, which does not divide. "
            "A node on this model splits or repacks the batch; remove it from the graph or put it on another model."
        )
    firsts = range(0, rows, chunks * size)
    return [[slice(first + i * size, first + (i + 1) * size) for first in firsts] for i in range(chunks)]


def rows_of(name: str, chunks: Sequence[Branch], rows: int, batch: int | None = None) -> list[slice]:
    """Row ranges of the branch ``name`` in rising order, adjacent ranges joined; arguments as of :func:`chunk_rows`."""
    ranges = chunk_rows(len(chunks), rows, batch)
    parts = [part for branch, found in zip(chunks, ranges, strict=True) if branch.name == name for part in found]
    joined: list[slice] = []
    for part in sorted(parts, key=lambda part: part.start):
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined


def with_batch(options: dict, batch: int) -> dict:
    """Copy of model options in which a model call finds how many pictures the question is about (:data:`BATCH`)."""
    return {**options, "transformer_options": {**options.get("transformer_options", {}), BATCH: batch}}


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
    options = with_batch(comfy.model_patcher.create_model_options_clone(model_options), x.shape[0])
    transformer_options = options["transformer_options"]
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
