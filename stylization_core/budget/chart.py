"""The curve of a search for the strongest setting, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..charts import COLORS, INK, as_picture, chart
from .report import value
from .search import Found, Limit

WIDTH, PANEL, FRAME = 760, 190, 150
"""In pixels: of the picture, of a panel, and of what stands around all panels."""

FAIL = "#e04f4f"
BIG, SMALL = 20, 17
HELD, FAILED, WHOLE = "o", "X", "D"


def drawn(found: Found, theme: str) -> np.ndarray:
    """A panel for each limit over the strength, and one for the style where it was measured.

    Returns:
        float32 (1, H, W, 3) in [0, 1].
    """
    styled = found.tried[0].reading.style is not None
    panels = len(found.limits) + styled
    with chart(theme, WIDTH, FRAME + PANEL * max(panels, 2)) as figure:
        axes = np.atleast_1d(figure.subplots(panels, 1, sharex=True))
        figure.suptitle(_title(found), fontsize=BIG, fontweight="bold")
        for place, limit in enumerate(found.limits):
            _limited(axes[place], found, place, limit)
        if styled:
            _styled(axes[-1], found, INK[theme])
        _common(axes, found, INK[theme])
        return as_picture(figure)


def _title(found: Found) -> str:
    title = "No setting holds" if found.chosen is None else f"Strongest that holds: {found.chosen.factor:.3g}"
    return title if found.monotone else f"{title}, not monotone"


def _limited(axes, found: Found, place: int, limit: Limit) -> None:
    color = COLORS[place % len(COLORS)]
    _line(axes, found, lambda one: one.reading.values[place], color)
    for settings, shape in ((found.tried, HELD), (found.checked, WHOLE)):
        for one in settings:
            measured = one.reading.values[place]
            held = limit.holds(measured)
            look = {"color": color, "markersize": 9} if held else {"color": FAIL, "markersize": 11}
            axes.plot(one.factor, measured, shape if held else FAILED, zorder=3, **look)
    _bounds(axes, limit, [one.reading.values[place] for one in (*found.tried, *found.checked)])
    label = limit.ruler.label + (" in mask" if limit.inside else "")
    sign = {"<=": "≤", ">=": "≥"}.get(limit.sign, limit.sign)
    axes.set_title(f"{label[0].upper()}{label[1:]} {sign} {limit.bound:g}{_unit(limit)}", loc="left", fontsize=SMALL)
    if found.chosen is not None:
        shown = value(limit, found.chosen.reading.values[place]) + _unit(limit)
        axes.set_title(shown, loc="right", fontsize=SMALL, fontweight="bold")


def _unit(limit: Limit) -> str:
    return f" {limit.ruler.unit}".replace("Delta E", "ΔE").rstrip()


def _line(axes, found: Found, measured, color: str) -> None:
    """Through the runs of the search; faint where whole runs decide, and not from a strength 0 of another kind."""
    alpha = 0.4 if found.checked else 1.0
    points = [(one.factor, measured(one)) for one in found.tried[found.off_is_worse :]]
    axes.plot(*zip(*points, strict=True), "-", color=color, linewidth=2.5, alpha=alpha)


def _bounds(axes, limit: Limit, values: Sequence[float]) -> None:
    """Show the curve and the bound with some air around, and shade where the limit fails."""
    shown = [one for one in values if np.isfinite(one)] + [limit.bound]
    air = 0.18 * max(max(shown) - min(shown), 1e-3)
    low, high = min(shown) - air, max(shown) + air
    axes.axhline(limit.bound, color=FAIL, linewidth=2, linestyle="--")
    axes.axhspan(*((low, limit.bound) if limit.ruler.higher else (limit.bound, high)), color=FAIL, alpha=0.16, zorder=0)
    axes.set_ylim(low, high)


def _styled(axes, found: Found, color: str) -> None:
    percent = lambda one: 100 * one.reading.style  # noqa: E731
    _line(axes, found, percent, color)
    for settings, shape in ((found.tried, HELD), (found.checked, WHOLE)):
        alpha = 0.4 if found.checked and settings is found.tried else 1.0
        axes.plot([one.factor for one in settings], list(map(percent, settings)), shape, color=color, alpha=alpha)
    axes.margins(y=0.18)
    axes.set_title("Way to the style, % (higher is nearer)", loc="left", fontsize=SMALL)
    if found.chosen is not None:
        axes.set_title(f"{percent(found.chosen):.0f} %", loc="right", fontsize=SMALL, fontweight="bold")


def _common(axes: np.ndarray, found: Found, ink: str) -> None:
    top = found.tried[-1].factor
    for one in axes:
        one.grid(alpha=0.5)
        one.tick_params(labelsize=SMALL)
        one.locator_params(axis="y", nbins=4)
        if found.chosen is not None:
            one.axvline(found.chosen.factor, color=ink, linewidth=2.5, zorder=1)
    axes[-1].set_xlim(-0.03 * top, 1.03 * top)
    axes[-1].locator_params(axis="x", nbins=6)
    label = "strength (factor on the strength of the nodes)"
    if found.checked:
        label += "\ncircles: short runs; diamonds: whole runs"
    axes[-1].set_xlabel(label, fontsize=SMALL)
