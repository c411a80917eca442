"""The pack's common strength factor, so that a run can be repeated at another strength without touching the graph."""

from __future__ import annotations

DIAL = "stylization.dial"


def dial(model_options: dict) -> float:
    """The factor on a MODEL's options; 1 when nobody set it, 0 switches every operator off."""
    return float(model_options.get("transformer_options", {}).get(DIAL, 1.0))
