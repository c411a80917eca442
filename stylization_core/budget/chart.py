"""The curve of a search for the strongest setting, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..charts import COLORS, INK, as_picture, chart
from .report import value
from .search import Limit, Outcome

WIDTH, PANEL, FRAME = 760, 190, 150
"""In pixels: of the picture, of a panel, and of what stands around all panels."""

FAIL = "#e04f4f"
BIG, SMALL = 20, 17
HELD, FAILED, WHOLE = "o", "X", "D"


def drawn(outcome: Outcome, theme: str) -> np.ndarray:
    """A panel for each limit over the strength, and one for the style where it was measured.

    Returns:
        float32 (1, H, W, 3) in [0, 1].
    """
    styled = outcome.tried[0].reading.style is not None
    panels = len(outcome.limits) + styled
    with chart(theme, WIDTH, FRAME + PANEL * max(panels, 2)) as figure:
        axes = np.atleast_1d(figure.subplots(panels, 1, sharex=True))
        figure.suptitle(_title(outcome), fontsize=BIG, fontweight="bold")
        for place, limit in enumerate(outcome.limits):
            _limited(axes[place], outcome, place, limit)
        if styled:
            _styled(axes[-1], outcome, INK[theme])
        _common(axes, outcome, INK[theme])
        return as_picture(figure)


def _title(outcome: Outcome) -> str:
    title = "No setting holds" if outcome.chosen is None else f"Strongest that holds: {outcome.chosen.factor:.3g}"
    return title if outcome.monotone else f"{title}, not monotone"


def _limited(axes, outcome: Outcome, place: int, limit: Limit) -> None:
    color = COLORS[place % len(COLORS)]
    _line(axes, outcome, lambda setting: setting.reading.values[place], color)
    for settings, shape in ((outcome.tried, HELD), (outcome.checked, WHOLE)):
        for setting in settings:
            measured = setting.reading.values[place]
            held = limit.holds(measured)
            look = {"color": color, "markersize": 9} if held else {"color": FAIL, "markersize": 11}
            axes.plot(setting.factor, measured, shape if held else FAILED, zorder=3, **look)
    _bounds(axes, limit, [setting.reading.values[place] for setting in (*outcome.tried, *outcome.checked)])
    label = limit.ruler.label + (" in mask" if limit.inside else "")
    sign = {"<=": "≤", ">=": "≥"}.get(limit.sign, limit.sign)
    axes.set_title(f"{label[0].upper()}{label[1:]} {sign} {limit.bound:g}{_unit(limit)}", loc="left", fontsize=SMALL)
    if outcome.chosen is not None:
        shown = value(limit, outcome.chosen.reading.values[place]) + _unit(limit)
        axes.set_title(shown, loc="right", fontsize=SMALL, fontweight="bold")


def _unit(limit: Limit) -> str:
    return f" {limit.ruler.unit}".replace("Delta E", "ΔE").rstrip()


def _line(axes, outcome: Outcome, measured, color: str) -> None:
    """Through the runs of the search; faint where whole runs decide, and not from a strength 0 of another kind."""
    alpha = 0.4 if outcome.checked else 1.0
    points = [(setting.factor, measured(setting)) for setting in outcome.tried[outcome.off_is_worse :]]
    axes.plot(*zip(*points, strict=True), "-", color=color, linewidth=2.5, alpha=alpha)


def _bounds(axes, limit: Limit, values: Sequence[float]) -> None:
    """Show the curve and the bound with some air around, and shade where the limit fails."""
    shown = [*values, limit.bound]
    air = 0.18 * max(max(shown) - min(shown), 1e-3)
    low, high = min(shown) - air, max(shown) + air
    axes.axhline(limit.bound, color=FAIL, linewidth=2, linestyle="--")
    axes.axhspan(*((low, limit.bound) if limit.ruler.higher else (limit.bound, high)), color=FAIL, alpha=0.16, zorder=0)
    axes.set_ylim(low, high)


def _styled(axes, outcome: Outcome, color: str) -> None:
    percent = lambda setting: 100 * setting.reading.style  # noqa: E731
    _line(axes, outcome, percent, color)
    for settings, shape in ((outcome.tried, HELD), (outcome.checked, WHOLE)):
        alpha = 0.4 if outcome.checked and settings is outcome.tried else 1.0
        axes.plot(
            [setting.factor for setting in settings], list(map(percent, settings)), shape, color=color, alpha=alpha
        )
    axes.margins(y=0.18)
    axes.set_title("Way to the style, % (higher is nearer)", loc="left", fontsize=SMALL)
    if outcome.chosen is not None:
        axes.set_title(f"{percent(outcome.chosen):.0f} %", loc="right", fontsize=SMALL, fontweight="bold")


def _common(axes: np.ndarray, outcome: Outcome, ink: str) -> None:
    top = outcome.tried[-1].factor
    for panel in axes:
        panel.grid(alpha=0.5)
        panel.tick_params(labelsize=SMALL)
        panel.locator_params(axis="y", nbins=4)
        if outcome.chosen is not None:
            panel.axvline(outcome.chosen.factor, color=ink, linewidth=2.5, zorder=1)
    axes[-1].set_xlim(-0.03 * top, 1.03 * top)
    axes[-1].locator_params(axis="x", nbins=6)
    label = "strength (factor on the strength of the nodes)"
    if outcome.checked:
        label += "\ncircles: short runs; diamonds: whole runs"
    axes[-1].set_xlabel(label, fontsize=SMALL)
