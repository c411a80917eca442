"""Percent windows of conditionings and ControlNets, read over the progress of an optimisation.

An ordinary sampler walks from high to low noise, so ComfyUI turns percents into noise levels. SMS draws levels at
random from the low-noise half: a ControlNet that ends at 0.5 would never act. Here the windows are taken off copies
of the conditionings and answered by the share of the run that is done. The shared control objects stay as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


class NoiseWindow:
    """A percent window of an ordinary sampling run, in noise levels of the model.

    Args:
        sampling: the model's ``model_sampling``.
        start, end: shares of the noise chain; 0 and 1 are its ends, whatever the run's levels.
    """

    def __init__(self, sampling, start: float, end: float):
        self.highest = math.inf if start <= 0 else float(sampling.percent_to_sigma(start))
        self.lowest = -math.inf if end >= 1 else float(sampling.percent_to_sigma(end))

    def open_at(self, sigma: float) -> bool:
        """Whether a level lies inside."""
        return self.lowest <= sigma <= self.highest

    def meets(self, lowest: float, highest: float) -> bool:
        """Whether any level of a range lies inside."""
        return max(self.lowest, lowest) <= min(self.highest, highest)
