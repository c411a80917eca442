"""Which prompt describes a reference: one of its own, or the run's, as a prompt for the whole reference."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence

import comfy.sampler_helpers
import torch

from ....errors import StylizationError
from ..model import POLARITIES
from .reference import Reference

PLACES = ("area", "mask", "mask_strength", "set_area_to_bounds", "default")
"""Where in a picture a prompt acts; of a reference it describes everything."""

RUNS_OWN = (*PLACES, "gligen", "start_percent", "end_percent", "hooks")
"""What says where, when and with which weights the run's prompt acts on the run's pictures."""

SHOWN = ("concat_latent_image", "concat_mask")
"""The picture that inpainting and editing networks see beside the noise, and its mask."""

FOREIGN = ("noise_concat", "concat_image")
"""Pictures beside the noise for which nobody knows what stands for the reference."""


def descriptions(guider, reference: Reference) -> dict[str, list[dict]]:
    """Unprocessed entries of both polarities, of which :func:`open_at` chooses one at a level.

    Raises:
        StylizationError: a prompt brings hooks or pictures that cannot act on the reference.
    """
    given = zip(POLARITIES.values(), (reference.positive, reference.negative), strict=True)
    return {name: _of_run(guider, reference, name) if own is None else _own(guider, own, name) for name, own in given}


def open_at(entries: Sequence[dict], sigma: float) -> dict:
    """The first processed entry whose window is open at a level, or the first of all, without its window."""

    def is_open(entry: dict) -> bool:
        return entry.get("timestep_start", math.inf) >= sigma >= entry.get("timestep_end", -math.inf)

    chosen = next(filter(is_open, entries), entries[0])
    return {key: value for key, value in chosen.items() if key not in ("timestep_start", "timestep_end")}


def _own(guider, conditioning: list, name: str) -> list[dict]:
    """A reference's own prompts. Hooks act where they are registered, which ComfyUI does for those of the run."""
    entries = comfy.sampler_helpers.convert_cond(conditioning)
    registered = guider.model_options.get("registered_hooks")
    for entry in entries:
        hooks = entry.get("hooks")
        if hooks is not None and (registered is None or not hooks.is_subset_of(registered)):
            raise StylizationError(
                "reference",
                f"its {name} prompt has hooks (a LoRA, say) that no prompt of the run has",
                "Put the same hooks on the prompts of the sampler, or take them off the reference's",
            )
    windows = [(entry.get("start_percent", 0.0), entry.get("end_percent", 1.0)) for entry in entries]
    pairs = itertools.combinations(windows, 2)
    if any(start < other_end and other_start < end for (start, end), (other_start, other_end) in pairs):
        text = "[Stylization] reference: its %s combines %d prompts at a time; the first describes all of it"
        logging.warning(text, name, len(entries))
    return [{key: value for key, value in entry.items() if key not in PLACES} for entry in entries]


def _of_run(guider, reference: Reference, name: str) -> list[dict]:
    """The run's first prompt, with the hooks that ComfyUI has registered for it."""
    conds = guider.original_conds
    run = (conds.get(name) or conds.get("positive") or next(iter(conds.values())))[0]
    entry = {key: value for key, value in run.items() if key not in RUNS_OWN}
    hooks = {one.get("uuid"): one.get("hooks") for entries in guider.conds.values() for one in entries}
    if hooks.get(run["uuid"]) is not None:
        entry["hooks"] = hooks[run["uuid"]]
    foreign = [key for key in FOREIGN if key in entry]
    if foreign:
        raise StylizationError(
            "reference",
            f"the run's {name} prompt shows the network a picture of its own ('{foreign[0]}')",
            "Connect prompts to the reference that show it one",
        )
    if any(key in entry for key in SHOWN) or getattr(guider.inner_model, "concat_keys", ()):
        # as the network sees a picture in which nothing is to be painted
        blank = torch.zeros_like(reference.samples[:, :1])
        entry.update(zip(SHOWN, (reference.samples, blank), strict=True))
    return [entry]
