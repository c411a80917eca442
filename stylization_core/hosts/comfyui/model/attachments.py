"""What the pack's nodes leave on a MODEL: immutable settings, one key each, and the common strength factor."""

from __future__ import annotations

from ....errors import StylizationError


def attach_more(patcher, key: str, settings: object):
    """A clone of ``patcher`` that carries ``settings`` after those of the same kind that it has already."""
    clone = patcher.clone()
    clone.set_attachments(key, (*(patcher.get_attachment(key) or ()), settings))
    return clone


def attach_once(patcher, key: str, settings: object, node: str):
    """A clone of ``patcher`` that carries ``settings``.

    Raises:
        StylizationError: the MODEL carries settings of that kind already.
    """
    if patcher.get_attachment(key) is not None:
        raise StylizationError(
            "model", f"it has gone through a '{node}' already", f"Keep one '{node}' on the way to the sampler"
        )
    clone = patcher.clone()
    clone.set_attachments(key, settings)
    return clone


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
