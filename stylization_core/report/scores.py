"""A report on results: every ruler beside its anchors, as numbers, JSON and text."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from ..rulers.style import SetDistance

VERSION = 1
CONTENT, STYLE = "content", "style"
UP, DOWN = "↑", "↓"
IDENTITY, STYLE_COPY, TURNED, EXEMPLAR = "photo itself", "style copy", "photo turned round", "the exemplar"
"""Anchors as people read them."""
APART = 0.05
"""Anchors that differ by less than this share of the larger one make no scale."""
UNITS = {"Delta E": "ΔE", "CIELAB": "ΔE", "octaves": "oct"}
"""Shorter where there is little room."""


@dataclass(frozen=True)
class Scores:
    """One ruler on one area.

    Attributes:
        values: of each result, (B,).
        identity: with the photo itself as result.
        style_copy: with true pictures of the style as results: the exemplars, fitted to the photo's size (content), or
            each against the others (style). None without exemplars, and of style with a single one.
        unrelated: content without exemplars: with the photo turned upside down as result.
    """

    values: np.ndarray
    identity: float | None = None
    style_copy: float | None = None
    unrelated: float | None = None

    @property
    def mean(self) -> float | None:
        """Over the results."""
        return mean_of(self.values)

    def as_json(self) -> dict:
        """Plain numbers, None where there is none."""
        anchors = {"identity": self.identity, "style_copy": self.style_copy, "unrelated": self.unrelated}
        return {
            "mean": _number(self.mean),
            "values": [_number(value) for value in self.values],
            **{name: _number(value) for name, value in anchors.items()},
        }


@dataclass(frozen=True)
class Scale:
    """Two anchors that a ruler's numbers are read between.

    Attributes:
        worst, best: their numbers; best may be the smaller one.
        at_worst, at_best: which anchors they are.
    """

    worst: float
    at_worst: str
    best: float
    at_best: str

    def place(self, value):
        """0 at the worst anchor, 1 at the best; outside where the value is."""
        return (value - self.worst) / (self.best - self.worst)


@dataclass(frozen=True)
class Row:
    """One ruler of a report.

    Attributes:
        group: :data:`CONTENT` or :data:`STYLE`.
        whole, region: on the whole picture, and inside the region; None where it was not measured.
    """

    key: str
    label: str
    unit: str
    higher: bool
    group: str
    whole: Scores | None
    region: Scores | None = None

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return UP if self.higher else DOWN

    def scale(self, scores: Scores) -> Scale | None:
        """What the numbers lie between: nothing gained at one end, all that can be had at the other; None without."""
        if self.group == CONTENT:
            lost = (scores.unrelated, TURNED) if scores.style_copy is None else (scores.style_copy, STYLE_COPY)
            ends = lost, (scores.identity, IDENTITY)
        elif scores.style_copy is None:
            ends = (scores.identity, IDENTITY), (float(self.higher), EXEMPLAR)
        else:
            ends = (scores.identity, IDENTITY), (scores.style_copy, STYLE_COPY)
        (worst, _), (best, _) = ends
        if None in (worst, best):
            return None
        gained = (best - worst) * (1 if self.higher else -1)
        if gained <= APART * max(abs(worst), abs(best)):
            return None
        return Scale(*ends[0], *ends[1])

    def as_json(self) -> dict:
        """See :meth:`Report.as_json`."""
        nothing = dict.fromkeys(("mean", "values", "identity", "style_copy", "unrelated"))
        return {
            "label": self.label,
            "unit": self.unit,
            "higher": self.higher,
            "group": self.group,
            **(self.whole.as_json() if self.whole else nothing),
            "region": self.region.as_json() if self.region else None,
        }


@dataclass(frozen=True)
class Report:
    """All that was measured.

    Attributes:
        size: width and height of the results.
        results, contents, exemplars: how many of each.
        rows: the rulers.
        region: share of the picture that the region takes, 0 to 1; None without one.
        sets: how unlike the pictures of a set are, for "results", "contents" and "exemplars" with two or more.
        flicker: between frames, for a sequence: ``values`` (B - 1,), ``identity`` of the source.
        notes: what could not be measured, and why.
    """

    size: tuple[int, int]
    results: int
    contents: int
    exemplars: int
    rows: tuple[Row, ...]
    region: float | None = None
    sets: dict[str, SetDistance] = field(default_factory=dict)
    flicker: Scores | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> str:
        """JSON without NaN; ``version`` says which form, rulers stand below ``rulers`` by their keys."""
        numbers = {
            "version": VERSION,
            "size": list(self.size),
            "results": self.results,
            "contents": self.contents,
            "exemplars": self.exemplars,
            "region": _number(self.region),
            "rulers": {row.key: row.as_json() for row in self.rows},
            "set": {
                name: {"color": _number(distance.color), "texture": _number(distance.texture)}
                for name, distance in self.sets.items()
            },
            "flicker": self.flicker.as_json() if self.flicker else None,
            "notes": list(self.notes),
        }
        return json.dumps(numbers, allow_nan=False)

    def group(self, name: str) -> list[Row]:
        """Rows of one group."""
        return [row for row in self.rows if row.group == name]

    def as_text(self) -> str:
        """A table with its anchors, each result's numbers, and how to read them."""
        blocks = [self._head(), *self._tables(), self._sets(), self._frames(), self._each(), self._legend()]
        blocks.append("\n".join(f"Note: {note}." for note in (*self.notes, *self._mute())))
        return "\n\n".join(block for block in blocks if block) + "\n"

    def _head(self) -> str:
        parts = [f"{counted(self.results, 'result')}, {self.size[0]}x{self.size[1]} pixels"]
        parts.append(f"{counted(self.contents, 'photo')}, {counted(self.exemplars, 'style picture')}")
        if self.region is not None:
            parts.append(f"region: {100 * self.region:.0f} % of the picture")
        return "; ".join(parts)

    def _tables(self) -> list[str]:
        titles = [(CONTENT, "Content kept"), (STYLE, "Style reached")]
        tables = [self._table(title, [(row, row.whole) for row in self.group(group)]) for group, title in titles]
        if self.region is not None:
            inside = [(f"{title}, region", [(row, row.region) for row in self.group(group)]) for group, title in titles]
            tables += [self._table(*part) for part in inside]
        return tables

    def _table(self, title: str, rows: list[tuple[Row, Scores | None]]) -> str:
        measured = [(row, scores) for row, scores in rows if scores is not None]
        if not measured:
            return ""
        heads = ["result", IDENTITY, STYLE_COPY if self.exemplars else TURNED]
        lines = [_line(title, "", heads)]
        for row, scores in measured:
            lost = scores.unrelated if scores.style_copy is None else scores.style_copy
            cells = [shown(value) for value in (scores.mean, scores.identity, lost)]
            lines.append(_line(_named(row), row.arrow, cells, heads))
        return "\n".join(lines)

    def _sets(self) -> str:
        if not self.sets:
            return ""
        heads = list(self.sets)
        lines = [_line("How unlike each other", "", heads)]
        for label, key in (("colour (CIELAB)", "color"), ("texture (octaves)", "texture")):
            lines.append(_line(label, DOWN, [shown(getattr(distance, key)) for distance in self.sets.values()], heads))
        return "\n".join(lines)

    def _frames(self) -> str:
        if self.flicker is None:
            return ""
        heads = ["result", "source"]
        values = ["-" if value is None else f"{value:.4f}" for value in (self.flicker.mean, self.flicker.identity)]
        return "\n".join([_line("Sequence", "", heads), _line("flicker", DOWN, values, heads)])

    def _each(self) -> str:
        if self.results < 2:
            return ""
        heads = [f"{number + 1}" for number in range(self.results)]
        lines = [_line("Each result", "", heads, least=6)]
        for row in self.rows:
            scores = row.whole or row.region
            lines.append(_line(_named(row), row.arrow, [shown(value) for value in scores.values], heads, least=6))
        return "\n".join(lines)

    def _mute(self) -> list[str]:
        """Which rulers have anchors that make no scale."""
        mute = [row for row in self.group(STYLE) if row.whole and not row.scale(row.whole)]
        if not mute:
            return []
        said = f"{', '.join(_label(row) for row in mute)}: the photo is as near to the style as pictures of the style "
        return [said + "are to each other, so the number tells little here"]

    def _legend(self) -> str:
        lines = [
            "How to read it: ↑ higher is better, ↓ lower is better. A number means something between its anchors only.",
            f"{IDENTITY}: the photo as result. All content is there, none of the style.",
        ]
        if self.exemplars:
            lines.append(f"{STYLE_COPY}: pictures of the style as results. All of the style, none of the content.")
        else:
            lines.append(f"{TURNED}: the photo upside down as result. Nothing is in its place. Connect style for more.")
        lines.append("Texture and contrast that a style adds lower structure similarity although nothing was lost;")
        lines.append(
            "edge agreement minds that less. Style rulers see colours and strokes, not taste: look at the pictures."
        )
        if any(row.key == "legibility" for row in self.rows):
            lines.append("Legibility means something only where the mask marks text.")
        return "\n".join(lines)


def counted(number: int, what: str) -> str:
    """ "1 result", "2 results", "no result"."""
    return f"{number or 'no'} {what}{'s' if number > 1 else ''}"


def shown(value: float | None) -> str:
    """A number for people."""
    if value is None or not np.isfinite(value):
        return "-"
    size = abs(value)
    if size < 0.0005:
        return "0.00"
    return f"{value:.3f}" if size < 0.0995 else f"{value:.2f}" if size < 99.95 else f"{value:.1f}"


def _label(row: Row) -> str:
    return row.label.removesuffix(" to the style")


def _named(row: Row) -> str:
    return f"{_label(row)} ({row.unit})" if row.unit else _label(row)


def _line(label: str, arrow: str, cells: list[str], heads: list[str] | None = None, least: int = 8) -> str:
    widths = [max(least, len(head)) + 2 for head in heads or cells]
    return f"{label:<30} {arrow:1}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _number(value) -> float | None:
    """Seven digits, None for what is no number."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.7g}")


def mean_of(values: np.ndarray) -> float | None:
    """Over what could be measured."""
    counted = values[np.isfinite(values)]
    return float(counted.mean()) if len(counted) else None
