"""Nodes that reuse the model's answers of earlier steps: what they can be trusted with, and what not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from uuid import UUID

from comfy.patcher_extension import WrappersMP

from ....errors import StylizationError
from .cfg_functions import name_of

KNOWN = re.compile(r"(?P<name>(easy|lazy|tea|mag|fb|db|first_?block_?)cache|wavespeed|taylorseer)", re.IGNORECASE)
"""Names that step caches carry in their keys, functions or modules."""

BY_PROMPT = "easycache"
"""ComfyUI's own, which keeps what it reuses by the prompt's uuid; see ``predictions`` for the uuids of branches."""

PLACES = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
"""Where a cache can answer for the network. One around PREDICT_NOISE answers for a whole step, guidance included."""


def step_caches(model_options: dict, patcher=None) -> list[str]:
    """Names of the step caches around the network.

    Args:
        model_options: of a run.
        patcher: MODEL whose wrappers ComfyUI has not yet put into the options.
    """
    places = [model_options["model_function_wrapper"]] if model_options.get("model_function_wrapper") else []
    held = [model_options.get("transformer_options", {}).get("wrappers", {}), *([patcher.wrappers] if patcher else [])]
    for wrappers, kind in product(held, PLACES):
        for key, functions in wrappers.get(kind, {}).items():
            places += [key, *functions]
    matches = (KNOWN.search(place if isinstance(place, str) else name_of(place)) for place in places)
    return sorted({match["name"].lower() for match in matches if match})


def refuse_step_caches(model_options: dict, patcher=None, subject: str = "model") -> None:
    """Refuse a MODEL with a step cache, for questions that each have noise of their own.

    Args:
        model_options, patcher: see :func:`step_caches`.
        subject: the node's input that the MODEL came by.

    Raises:
        StylizationError: names the caches.
    """
    caches = step_caches(model_options, patcher)
    if caches:
        raise StylizationError(
            subject,
            f"it carries a step cache ({', '.join(caches)}), which answers with what the network said at the step "
            "before; here every question has noise of its own, so there is nothing to reuse",
            f"Take {subject} from before the step cache",
        )


def refuse_mixing(model_options: dict, uuids: Iterable[UUID]) -> None:
    """Refuse a step cache that would take two predictions of one polarity for one.

    Args:
        uuids: of the conditioning entries of the question.

    Raises:
        StylizationError: names the caches.
    """
    caches = step_caches(model_options)
    others = [name for name in caches if name != BY_PROMPT]
    if others:
        raise StylizationError(
            "model",
            f"it carries a step cache ({', '.join(others)}) that keeps one answer for all positive predictions, and "
            "this node asks for two, with the style and without it",
            "Take model from before the step cache, or use EasyCache, which keeps them apart",
        )
    holder = model_options.get("transformer_options", {}).get(BY_PROMPT)
    kept = getattr(holder, "uuid_cache_diffs", None)
    if caches and kept and not kept.keys() >= set(uuids) and not hasattr(holder, "can_apply_cache_diff"):
        raise StylizationError(
            "model",
            "it carries EasyCache, which in this version of ComfyUI cannot take up a prediction that joins in the "
            "middle of a run",
            "Let the window of this node begin at 0, take model from before EasyCache, or update ComfyUI",
        )
