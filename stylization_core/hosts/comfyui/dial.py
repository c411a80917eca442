"""The pack's common strength factor, so that a run can be repeated at another strength without touching the graph."""

from __future__ import annotations

DIAL = "stylization.dial"


def dial(model_options: dict) -> float:
    """The factor on a MODEL's options; 1 when nobody set it, 0 switches every operator off."""
    return float(model_options.get("transformer_options", {}).get(DIAL, 1.0))


def at_dial(patcher, factor: float):
    """A clone of a MODEL whose operators act at a factor of their strength."""
    clone = patcher.clone()
    options = clone.model_options
    options["transformer_options"] = {**options.get("transformer_options", {}), DIAL: factor}
    return clone
