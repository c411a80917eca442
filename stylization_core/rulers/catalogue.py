"""The rulers by their short names: what each is called, its unit, range, direction, and how it measures.

What reports print, what limits are put on, and what evidence tabulates is taken from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import StylizationError
from . import content, features, sequence, style


@dataclass(frozen=True)
class Ruler:
    """One ruler.

    Attributes:
        key: short name, as limits and JSON have it.
        label: as people read it.
        unit: of its numbers; empty for shares and similarities.
        higher: whether higher is better (keeps more, or is nearer to the style).
        span: smallest and largest value that it can have.
        measure: -> float64 (B,). Of content ``measure(photo, result, mask=None)`` with one photo or one per result; of
            style ``measure(result, exemplars, mask=None)``; of features the same with tokens and ``weights``; of a
            sequence ``measure(frames, source=None, mask=None)``, one number a pair of frames.
        needs_mask: whether it measures nothing without a mask.
    """

    key: str
    label: str
    unit: str
    higher: bool
    span: tuple[float, float]
    measure: Callable[..., np.ndarray]
    needs_mask: bool = False

    @property
    def about(self) -> str:
        """Range, direction, source and what fools it."""
        return self.measure.__doc__ or ""


def _keyed(*rulers: Ruler) -> dict[str, Ruler]:
    return {ruler.key: ruler for ruler in rulers}


CONTENT = _keyed(
    Ruler("structure", "structure similarity", "", True, (-1.0, 1.0), content.structure_similarity),
    Ruler("edges", "edge agreement", "", True, (-1.0, 1.0), content.edge_agreement),
    Ruler("low_band", "low-band distance", "", False, (0.0, 2.0), content.low_band_distance),
    Ruler("shift", "shift", "px", False, (0.0, np.inf), content.shift_pixels),
    Ruler("color_change", "colour change", "Delta E", False, (0.0, np.inf), content.color_change),
    Ruler("legibility", "legibility of a label", "", True, (0.0, 1.0), content.legibility, needs_mask=True),
)
"""Between a photograph and its result."""

STYLE = _keyed(
    Ruler("color", "colour distance to the style", "CIELAB", False, (0.0, np.inf), style.color_distance),
    Ruler("texture", "texture distance to the style", "octaves", False, (0.0, np.inf), style.texture_distance),
)
"""Between exemplars of a style and a result."""

CONTENT_FEATURES = _keyed(
    Ruler("self_similarity", "self-similarity distance", "", False, (0.0, 2.0), features.self_similarity_distance),
)
"""Between the patch tokens of a photograph and of its result, where a network is connected."""

STYLE_FEATURES = _keyed(
    Ruler("gram", "Gram distance to the style", "", False, (0.0, 2**0.5), features.gram_distance),
    Ruler("moments", "moment distance to the style", "", False, (0.0, np.inf), features.moment_distance),
)
"""Between the patch tokens of exemplars and of a result, where a network is connected."""

SEQUENCE = _keyed(
    Ruler("flicker", "flicker", "", False, (0.0, 1.0), sequence.flicker),
)
"""Between the frames of a sequence."""


def named(key: str, among: dict[str, Ruler]) -> Ruler:
    """A ruler by its key.

    Raises:
        StylizationError: there is none; names those there are.
    """
    if key not in among:
        raise StylizationError("ruler", f"there is none called '{key}'", f"Choose from {', '.join(among)}")
    return among[key]
