"""Style against content as a curve: what a method reaches within a budget of content, per case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BUDGETS = np.linspace(0.3, 0.95, 14)
"""Least content that may be asked for; an area is the mean over these."""

Point = tuple[float, float]
"""(content, style)."""


def style_within(curve: Sequence[Point], content: float) -> float:
    """The most style on a line through points in the order of a dial, where at least that much content is kept.

    Never below 0: the photograph itself is always at hand.
    """
    best = [style for kept, style in curve if kept >= content]
    best += [style for style in _crossings(curve, content)]
    return max(0.0, *best) if best else 0.0


def content_at(curve: Sequence[Point], style: float) -> float | None:
    """The most content on such a line where at least that much style is reached; None where it never is."""
    best = [content for content, style_there in curve if style_there >= style]
    best += _crossings([(style_there, content) for content, style_there in curve], style)
    return max(best) if best else None


def _crossings(curve: Sequence[Point], level: float) -> list[float]:
    """Second coordinates where the first one crosses a level."""
    seconds = []
    for (x, y), (next_x, next_y) in zip(curve, curve[1:], strict=False):
        if (x - level) * (next_x - level) < 0:
            seconds.append(y + (next_y - y) * (level - x) / (next_x - x))
    return seconds


def area(curve: Sequence[Point]) -> float:
    """Mean over :data:`BUDGETS` of the style reached: the area under the best that a dial gives."""
    return float(np.mean([style_within(curve, content) for content in BUDGETS]))
