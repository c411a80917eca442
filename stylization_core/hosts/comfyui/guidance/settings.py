"""Settings of the style score inside ordinary sampling."""

from __future__ import annotations

from dataclasses import dataclass

from ..sms import StyleSource

GUIDANCE = "stylization.guidance"


@dataclass(frozen=True, eq=False)
class ScoreGuidance:
    """Settings of the style score inside ordinary sampling.

    Attributes:
        style: where the style's prediction comes from.
        strength: factor on the style score.
        edit: start from the run's own input and follow the score alone, instead of adding it to the prediction.
        start, end: percent window.
        node: display name of the node that made them, for messages.
    """

    style: StyleSource
    strength: float = 1.0
    edit: bool = True
    start: float = 0.0
    end: float = 1.0
    node: str = ""
