"""Several predictions per step in as few model calls as memory allows, each under its own name (see ``rows``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .controls import showing
from .rows import (
    BATCH,
    BRANCHES,
    PROMPTS,
    ROWS,
    Branch,
    show_polarities,
    uuid_for,
    with_labels,
    with_wrapper,
)
from .step_caches import refuse_mixing

BASE = "base"


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
        apply_model: wrapper ``(executor, x, t, *args, **kwargs)`` around each model call, see :func:`options_of`. It
            is the innermost: it sees the rows that the network will see.
        calculate: what to call instead of ``comfy.samplers.calc_cond_batch``; a CALC_COND_BATCH wrapper passes its
            executor, so that other wrappers of that kind run once.

    Returns:
        One (B, C, H, W) denoised tensor per request, in order.

    Raises:
        StylizationError: a step cache on the model would take two of the predictions for one.
            A node on the model splits or repacks the batch in an order that cannot be known.
    """
    options = comfy.model_patcher.create_model_options_clone(model_options)
    prompts, controls = {}, {}
    asked = [[_told_apart(entry, branch, prompts, controls) for entry in entries] for branch, entries in requests]
    if len({branch.name for branch, _ in requests}) > 1:
        refuse_mixing(model_options, [entry["uuid"] for entries in asked for entry in entries if "uuid" in entry])
    asked, options = with_labels(asked, options, x)
    options = with_wrapper(options, WrappersMP.CALC_COND_BATCH, BATCH, _count_pictures)
    if apply_model is not None:
        options = with_wrapper(options, WrappersMP.APPLY_MODEL, ROWS, apply_model)
    transformer_options = options["transformer_options"]
    transformer_options[BRANCHES] = tuple(branch for branch, _ in requests)
    transformer_options[PROMPTS] = prompts
    calculate = calculate or comfy.samplers.calc_cond_batch
    return calculate(inner_model, asked, x, sigma, options)


def _told_apart(entry: dict, branch: Branch, prompts: dict, controls: dict) -> dict:
    """Copy of a conditioning entry that others can tell from the same entry of another branch.

    Caches that go by the uuid of a prompt find another one for the style than for the base, noted in ``prompts``. Its
    ControlNets see polarities, one object for each (``controls``), since ComfyUI asks only those in one call that have
    the same.
    """
    entry = dict(entry)
    if branch.name != BASE and "uuid" in entry:
        prompts[uuid_for(branch, entry["uuid"])] = entry["uuid"]
        entry["uuid"] = uuid_for(branch, entry["uuid"])
    control = entry.get("control")
    if control is not None:
        if id(control) not in controls:
            controls[id(control)] = showing(control, show_polarities)
        entry["control"] = controls[id(control)]
    return entry


def _count_pictures(executor, model, conds, x, sigma, options):
    """CALC_COND_BATCH wrapper, the innermost: a context window asks about some pictures of the question."""
    options = {**options, "transformer_options": {**options["transformer_options"], BATCH: x.shape[0]}}
    return executor(model, conds, x, sigma, options)
