"""Charts of a report: bars between anchors, and a radar of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..charts import COLORS, FAINT, INK, as_picture, chart
from .scores import CONTENT, EXEMPLAR, IDENTITY, STYLE, STYLE_COPY, TURNED, UNITS, Report, Row, Scores, counted, shown

BARS, RADAR = "bars", "radar"
KINDS = (BARS, RADAR)
WIDTH, HEIGHT = 760, 520
RESULT, REGION = COLORS[0], COLORS[3]
MARKS = {
    IDENTITY: ("o", COLORS[2]),
    STYLE_COPY: ("D", COLORS[1]),
    TURNED: ("s", COLORS[5]),
    EXEMPLAR: ("^", COLORS[1]),
}
"""Form and colour of each anchor; told apart by form alone too."""
HIDDEN = ("progress_color", "progress_texture")
"""Rulers that say what others in the chart say already."""
TITLES = {CONTENT: "Content kept", STYLE: "Style reached"}
SHORT = {"self_similarity": "self-similarity", "legibility": "legibility"}
_TRACK = 284, 556
_OVER = 0.09
_LABEL, _SMALL, _HEAD = 13.0, 11.0, 14.0
_TOP, _TITLE, _LINE, _END = 78, 40, 24, 14


def drawn(report: Report, kind: str, theme: str) -> np.ndarray:
    """A chart as an IMAGE, float32 (1, H, W, 3).

    Args:
        kind: one of :data:`KINDS`.
        theme: one of :data:`.charts.THEMES`.
    """
    return (radar if kind == RADAR else bars)(report, theme)


def shown_rows(report: Report) -> list[Row]:
    """Those that charts have."""
    return [row for row in report.rows if row.key not in HIDDEN]


def _short(row: Row) -> str:
    return SHORT.get(row.key, row.label.removesuffix(" to the style"))


def bars(report: Report, theme: str) -> np.ndarray:
    """A bar for each ruler from its worst anchor at the left to its best at the right, its number beside it."""
    rows = shown_rows(report)
    groups = [name for name in (CONTENT, STYLE) if any(row.group == name for row in rows)]
    footer = _footer(report)
    fixed = _TOP + _TITLE * len(groups) + _LINE * len(footer) + _END + (12 if footer else 0)
    least = 34 if report.region is None else 46
    # few rulers fill the picture, many make it higher
    pitch = float(np.clip((HEIGHT - fixed) / len(rows), least, 1.25 * least))
    height = max(HEIGHT, round(fixed + pitch * len(rows)))
    with chart(theme, WIDTH, height) as figure:
        axes = _pixels(figure, height)
        _header(axes, report, "mean; line from smallest to largest")
        y, used = float(_TOP), []
        for name in groups:
            axes.text(24, y + 0.55 * _TITLE, TITLES[name], fontsize=_HEAD, weight="bold", va="center")
            y += _TITLE
            for row in (row for row in rows if row.group == name):
                used += _bar(axes, row, y + pitch / 2, theme)
                y += pitch
        _legend(axes, used, report, y=54)
        for number, line in enumerate(footer):
            axes.text(24, y + 12 + _LINE * (number + 0.5), line, fontsize=_SMALL, va="center")
        return as_picture(figure)


def _pixels(figure, height: int):
    """Axes over the whole figure that count pixels from the upper left."""
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return axes


def _header(axes, report: Report, note: str) -> None:
    said = note if report.results > 1 else ""
    title = f"{counted(report.results, 'result')}, {report.size[0]}×{report.size[1]}"
    axes.text(24, 24, title, fontsize=_HEAD, weight="bold", va="center")
    axes.text(WIDTH - 24, 24, said, fontsize=_SMALL, va="center", ha="right")


def _legend(axes, used: list[str], report: Report, y: float) -> None:
    x = 24.0
    entries = [("bar", RESULT, "result")]
    if report.region is not None:
        entries.append(("bar", REGION, f"in the region ({100 * report.region:.0f} %)"))
    entries += [(*MARKS[name], name) for name in MARKS if name in used]
    for form, color, label in entries:
        if form == "bar":
            axes.barh(y, 18, left=x, height=10, color=color)
        else:
            axes.plot([x + 9], [y], form, color=color, markersize=8)
        text = axes.text(x + 24, y, label, fontsize=_SMALL + 0.5, va="center")
        x += 24 + text.get_window_extent().width + 20


def _bar(axes, row: Row, y: float, theme: str) -> list[str]:
    """One ruler's line of the chart; returns the anchors that it shows."""
    axes.text(24, y, _short(row), fontsize=_LABEL, va="center")
    areas = [(scores, color) for scores, color in ((row.whole, RESULT), (row.region, REGION)) if scores is not None]
    lines = [y] if len(areas) == 1 else [y - 9, y + 9]
    thick, used = (15 if len(areas) == 1 else 11), []
    for (scores, color), line in zip(areas, lines, strict=True):
        unit = UNITS.get(row.unit, row.unit)
        number = f"{shown(scores.mean)} {unit}".strip()
        size = _LABEL if len(areas) == 1 else _SMALL
        axes.text(WIDTH - 24, line, number, fontsize=size, weight="bold", va="center", ha="right")
        used += _span(axes, row, scores, color, line, thick, theme)
    return used


def _span(axes, row: Row, scores: Scores, color: str, y: float, thick: float, theme: str) -> list[str]:
    left, right = _TRACK
    scale = row.scale(scores)
    if scale is None:
        why = "the photo is as near already" if row.group == STYLE else "no scale"
        axes.text((left + right) / 2, y, why, fontsize=_SMALL, va="center", ha="center", style="italic", alpha=0.8)
        return []
    at = lambda share: left + (right - left) * share  # noqa: E731
    axes.barh(y, right - left, left=left, height=thick, color=FAINT[theme], alpha=0.45)
    end = float(np.clip(scale.place(scores.mean), -_OVER, 1 + _OVER))
    axes.barh(y, at(end) - left, left=left, height=thick, color=color)
    if end in (-_OVER, 1 + _OVER):
        # further out than there is room
        axes.plot([at(end)], [y], "<" if end < 0 else ">", color=color, markersize=thick * 0.8)
    if len(scores.values) > 1:
        ends = np.clip(scale.place(np.array([scores.values.min(), scores.values.max()])), -_OVER, 1 + _OVER)
        axes.plot(at(ends), [y, y], "-", color=INK[theme], linewidth=1.5, marker="|", markersize=thick * 0.6)
    for place, name in ((left, scale.at_worst), (right, scale.at_best)):
        form, mark = MARKS[name]
        axes.plot([place], [y], form, color=mark, markersize=7, markeredgecolor=INK[theme], markeredgewidth=0.8)
    axes.text(left - 36, y, shown(scale.worst), fontsize=_SMALL, va="center", ha="right", alpha=0.75)
    axes.text(right + 38, y, shown(scale.best), fontsize=_SMALL, va="center", ha="left", alpha=0.75)
    return [scale.at_worst, scale.at_best]


def _footer(report: Report) -> list[str]:
    lines = []
    if "results" in report.sets:
        sets = [
            f"{name} {shown(distance.color)} ΔE, {shown(distance.texture)} oct"
            for name, distance in report.sets.items()
        ]
        lines.append(f"Unlike each other:  {';  '.join(sets)}")
    if report.flicker is not None:
        values = [
            "-" if distance is None else f"{distance:.4f}"
            for distance in (report.flicker.mean, report.flicker.identity)
        ]
        lines.append(f"Flicker:  {values[0]};  source {values[1]}")
    return lines


@dataclass(frozen=True)
class _Spoke:
    """One axis of the radar: where it points, what it is called, and the places on it, 0 to 1."""

    angle: float
    label: str
    result: float
    region: float | None
    anchors: dict[str, float]


def radar(report: Report, theme: str) -> np.ndarray:
    """A spoke for each ruler that has a scale, better outside; result, photo and style copy as outlines."""
    spokes = list(_spokes(report))
    with chart(theme, WIDTH, HEIGHT) as figure:
        axes = _pixels(figure, HEIGHT)
        _header(axes, report, "mean; better is further out")
        center, radius = (WIDTH / 2, 298), 165
        _web(axes, spokes, center, radius, theme)
        for name in (TURNED, STYLE_COPY, IDENTITY):
            shares = [spoke.anchors.get(name) for spoke in spokes]
            if spokes and None not in shares:
                form, color = MARKS[name]
                _outline(axes, spokes, shares, center, radius, color=color, marker=form, linestyle="--")
        if report.region is not None:
            # NaN leaves a gap
            inside = [np.nan if spoke.region is None else spoke.region for spoke in spokes]
            _outline(axes, spokes, inside, center, radius, color=REGION, marker=".")
        _outline(axes, spokes, [spoke.result for spoke in spokes], center, radius, color=RESULT, fill=0.25)
        used = [name for name in MARKS if spokes and all(name in spoke.anchors for spoke in spokes)]
        _legend(axes, used, report, y=54)
        return as_picture(figure)


def _spokes(report: Report) -> Iterator[_Spoke]:
    """Rulers of content on one side, of style on the other."""
    rows = [(row, row.scale(row.whole)) for row in shown_rows(report) if row.whole is not None]
    rows = [(row, scale) for row, scale in rows if scale is not None]
    for number, (row, scale) in enumerate(rows):
        region = row.region and row.scale(row.region)
        yield _Spoke(
            angle=2 * np.pi * (number + 0.5) / len(rows),
            label=f"{_short(row)}\n{shown(row.whole.mean)} {UNITS.get(row.unit, row.unit)}",
            result=float(scale.place(row.whole.mean)),
            region=float(region.place(row.region.mean)) if region else None,
            # one exemplar stands for its style
            anchors={scale.at_worst: 0.0, STYLE_COPY if scale.at_best == EXEMPLAR else scale.at_best: 1.0},
        )


def _at(spokes: list[_Spoke], shares, center, radius) -> np.ndarray:
    """Pixels (2, spokes); share 0 stands a little off the centre, so that nothing falls into one point."""
    lengths = radius * (0.12 + 0.88 * np.clip(shares, 0, 1 + _OVER))
    angles = np.array([spoke.angle for spoke in spokes])
    return np.stack([center[0] + lengths * np.sin(angles), center[1] - lengths * np.cos(angles)])


def _web(axes, spokes: list[_Spoke], center, radius, theme: str) -> None:
    if not spokes:
        axes.text(*center, "no ruler has a scale: see the text", ha="center", va="center")
        return
    for share in (0.0, 0.5, 1.0):
        x, y = _at(spokes, [share] * len(spokes), center, radius)
        axes.plot([*x, x[0]], [*y, y[0]], "-", color=FAINT[theme], linewidth=1)
    ends = _at(spokes, [1.0] * len(spokes), center, radius)
    for spoke, (x, y) in zip(spokes, ends.T, strict=True):
        axes.plot([center[0], x], [center[1], y], "-", color=FAINT[theme], linewidth=1)
        side = np.sin(spoke.angle)
        away = 14 * np.sin(spoke.angle), -27 * np.cos(spoke.angle)
        align = "center" if abs(side) < 0.2 else ("left" if side > 0 else "right")
        axes.text(x + away[0], y + away[1], spoke.label, fontsize=12, ha=align, va="center", linespacing=1.15)


def _outline(axes, spokes, shares, center, radius, *, color, marker="", linestyle="-", fill=0.0) -> None:
    if not spokes:
        return
    x, y = _at(spokes, shares, center, radius)
    if fill:
        axes.fill(x, y, color=color, alpha=fill)
    axes.plot(
        [*x, x[0]],
        [*y, y[0]],
        color=color,
        marker=marker,
        markersize=6,
        linestyle=linestyle,
        linewidth=2,
        clip_on=False,
    )
