"""Conditionings made ready for a loaded model, by polarity and by progress."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor


def process(inner_model, source: Tensor, conditionings: dict[str, list], seed: int) -> dict[str, list]:
    """Conditionings (unprocessed entries) made ready for the loaded model, without ControlNets.

    The map asks where a prompt acts; a ControlNet would have to be loaded for it and adds the same to both answers.
    """
    plain = {
        key: [{k: v for k, v in entry.items() if k not in ("control", "control_apply_to_uncond")} for entry in entries]
        for key, entries in conditionings.items()
    }
    shapes = [source.shape]
    return comfy.samplers.process_conds(
        inner_model, torch.zeros_like(source), plain, source.device, source, seed=seed, latent_shapes=shapes
    )


WINDOW = "stylization.window"
ALWAYS = (float("inf"), float("-inf"))
NEVER = (float("-inf"), float("inf"))


@dataclass(frozen=True)
class ProgressWindows:
    """Copies of a run's ControlNets with the percent window that each had.

    Attributes:
        conditionings: the conditionings to use instead of the originals, same keys.
        controls: (copy, (start, end)) pairs.
    """

    conditionings: dict[str, list]
    controls: tuple

    def at(self, progress: float) -> None:
        """Open or close the copied ControlNets for a progress in [0, 1]."""
        for control, (start, end) in self.controls:
            control.timestep_range = ALWAYS if start <= progress <= end else NEVER


def by_progress(conditionings: dict[str, list]) -> ProgressWindows:
    """Prepare unprocessed conditionings (lists of dictionaries) for a run that reads percents as progress."""
    copies: dict[int, object] = {}
    windows: list = []
    prepared = {}
    for key, entries in conditionings.items():
        prepared[key] = []
        for entry in entries:
            entry = dict(entry)
            if "start_percent" in entry or "end_percent" in entry:
                entry[WINDOW] = (entry.pop("start_percent", 0.0), entry.pop("end_percent", 1.0))
            if entry.get("control") is not None:
                entry["control"] = _copy_chain(entry["control"], copies, windows)
            prepared[key].append(entry)
    return ProgressWindows(prepared, tuple(windows))


def _copy_chain(control, copies: dict[int, object], windows: list):
    """Copy of a control and of those stacked behind it; one copy per original, so that chunks still batch."""
    if id(control) not in copies:
        copy = control.copy()
        if control.previous_controlnet is not None:
            copy.set_previous_controlnet(_copy_chain(control.previous_controlnet, copies, windows))
        copies[id(control)] = copy
        windows.append((copy, tuple(control.timestep_percent_range)))
    return copies[id(control)]


def active(conditioning: list, progress: float | None) -> list:
    """The entries of a processed conditioning whose window is open; all of them if none would be left.

    Without a progress (an ordinary sampling run) ComfyUI reads the windows itself and nothing is taken out.
    """
    if progress is None:
        return conditioning
    kept = [c for c in conditioning if WINDOW not in c or c[WINDOW][0] <= progress <= c[WINDOW][1]]
    return kept or conditioning


POSITIVE, NEGATIVE = 0, 1
POLARITIES = {POSITIVE: "positive", NEGATIVE: "negative"}
"""Names under which guiders keep the conditionings of each polarity."""
