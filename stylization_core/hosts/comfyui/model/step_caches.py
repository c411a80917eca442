"""Nodes that reuse the model's answers of earlier steps: what they can be trusted with, and what not."""

from __future__ import annotations

import re

from comfy.patcher_extension import WrappersMP

from ....errors import StylizationError
from .cfg_functions import name_of

KNOWN = re.compile(r"(?P<name>(easy|lazy|tea|mag|fb|db|first_?block_?)cache|wavespeed|taylorseer)", re.IGNORECASE)
"""Names that step caches carry in their keys, functions or modules."""

BY_PROMPT = "easycache"
"""ComfyUI's own, which keeps what it reuses by the prompt's uuid; see ``predictions`` for the uuids of branches."""

KINDS = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
"""Where a cache can answer for the network. One around PREDICT_NOISE answers for a whole step, guidance included."""


def step_caches(model_options: dict) -> list[str]:
    """Names of the step caches around the network."""
    places = [model_options["model_function_wrapper"]] if model_options.get("model_function_wrapper") else []
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    for kind in KINDS:
        for key, functions in wrappers.get(kind, {}).items():
            places += [key, *functions]
    matches = (KNOWN.search(place if isinstance(place, str) else name_of(place)) for place in places)
    return sorted({match["name"].lower() for match in matches if match})


def refuse_step_caches(model_options: dict) -> None:
    """Refuse a MODEL with a step cache, for questions that each have a noise of their own.

    Raises:
        StylizationError: names the caches.
    """
    found = step_caches(model_options)
    if found:
        raise StylizationError(
            "model",
            f"it carries a step cache ({', '.join(found)}), which answers with what the model said about the step "
            "before; here every question has noise of its own, so there is nothing to reuse",
            "Take model from before the step cache",
        )


def refuse_mixing(model_options: dict) -> None:
    """Refuse a step cache that would take two predictions of one polarity for one.

    Raises:
        StylizationError: names the caches.
    """
    found = [name for name in step_caches(model_options) if name != BY_PROMPT]
    if found:
        raise StylizationError(
            "model",
            f"it carries a step cache ({', '.join(found)}) that keeps one answer for all positive predictions, and "
            "this node asks for two, with the style and without it",
            "Take model from before the step cache, or use EasyCache, which keeps them apart",
        )
