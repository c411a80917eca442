"""Pages of evidence: records are summed up once, kept as JSON, and written out from that alone.

A page is a module with

- ``STEM``: of its files, ``docs/STEM.md`` and ``docs/STEM.json``,
- ``summary(kept)``: what is kept of the cells, in sums; ``kept`` has records by (case, method) for each comparison,
- ``text(record)``: the page of such a summary,
- ``pictures(record, cells, folder)``: curves and sheets.

Whatever a page's reading says of the figures is a :class:`Claim`: it names the phrase and when that holds, and a page
whose figures say otherwise says so itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from .cells import Cells, Kept, Record
from .intervals import interval

PAIRED = "Paired differences, first minus second:"
PAIR_HEAD = ("first", "second", "ruler", "mean difference", "95 % interval", "cases")


def write(page: ModuleType, record: Mapping, cells: Mapping[str, Cells], docs: Path) -> str:
    """Write a page, its record and its pictures; returns the text."""
    (docs / "images").mkdir(parents=True, exist_ok=True)
    page.pictures(record, cells, docs / "images")
    text = page.text(record)
    (docs / f"{page.STEM}.md").write_text(text, encoding="utf-8")
    (docs / f"{page.STEM}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return text


def joined(*parts: str) -> str:
    """Parts of a page as one text; empty ones are left out."""
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


# ------------------------------------------------------------------------------------------------------------ figures


def means(kept: Kept, methods: Iterable[str], rulers: Sequence[str]) -> dict[str, Record]:
    """By method, over its cases; the number of those as ``cases``."""
    by_method = {}
    for method in methods:
        rows = [row for (_, name), row in kept.items() if name == method]
        if rows:
            by_method[method] = {key: float(np.mean([row[key] for row in rows])) for key in rulers} | {
                "cases": len(rows)
            }
    return by_method


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean of paired differences, its interval, and how many they are."""
    values = np.asarray(values, dtype=float)
    low, high = interval(values)
    return {"mean": float(values.mean()), "low": low, "high": high, "cases": len(values)}


def pairs(kept: Kept, wanted: Iterable[tuple[str, str, Sequence[str]]]) -> list[dict]:
    """Differences of two methods over their common cases."""
    rows = []
    for first, second, rulers in wanted:
        numbers = [number for number, method in kept if method == first and (number, second) in kept]
        for ruler in rulers if len(numbers) > 1 else ():
            differences = [kept[n, first][ruler] - kept[n, second][ruler] for n in numbers]
            rows.append({"first": first, "second": second, "ruler": ruler, **spread(differences)})
    return rows


class Figures:
    """A summary as claims ask it.

    Args:
        record: with ``means`` and, where there are any, ``pairs``.
    """

    def __init__(self, record: Mapping):
        self.record = record
        self._pairs = {(row["first"], row["second"], row["ruler"]): row for row in record.get("pairs", ())}

    def __call__(self, method: str, ruler: str) -> float:
        """Mean of a method."""
        return self.record["means"][method][ruler]

    def all(self, ruler: str, *starts: str) -> list[float]:
        """Means of the methods whose names begin so; of all of them where nothing is named."""
        named = [name for name in self.record["means"] if not starts or name.startswith(starts)]
        return [self(name, ruler) for name in named]

    def change(self, first: str, second: str, ruler: str) -> float:
        """Mean paired difference, first minus second."""
        return self._pairs[first, second, ruler]["mean"]

    def sign(self, first: str, second: str, ruler: str) -> int:
        """1 where the first is clearly higher, -1 where it is clearly lower, 0 where the interval holds 0."""
        return sign(self._pairs[first, second, ruler])


def sign(row: Mapping[str, float]) -> int:
    """Of an interval: 1 or -1, 0 where it holds 0."""
    return (row["low"] > 0) - (row["high"] < 0)


# --------------------------------------------------------------------------------------------------------------- text


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float) -> str:
    """With as many digits as a column of a table takes."""
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def table(rows: Mapping[str, Record], rulers: Sequence[str]) -> str:
    """Means as Markdown."""
    body = ([method, f"{row['cases']:.0f}", *(number(row[key]) for key in rulers)] for method, row in rows.items())
    return grid(["method", "cases", *rulers], body)


def bounds(row: Mapping[str, float]) -> str:
    """An interval."""
    return f"{row['low']:+.3f} to {row['high']:+.3f}"


def difference(row: Mapping[str, float] | None) -> str:
    """Mean and interval; empty where there is none."""
    return f"{row['mean']:+.3f} ({bounds(row)})" if row else ""


def paired(rows: Iterable[Mapping], title: str = PAIRED, head: Sequence[str] = PAIR_HEAD) -> str:
    """Paired differences as Markdown."""
    body = (
        [row["first"], row["second"], row["ruler"], f"{row['mean']:+.3f}", bounds(row), f"{row['cases']}"]
        for row in rows
    )
    return f"{title}\n\n{grid(head, body)}"


Holds = Callable[[Figures], bool]


@dataclass(frozen=True)
class Claim:
    """A point of a reading.

    Attributes:
        text: as it stands on the page; ``{names}`` in it are filled with ``values``.
        phrases: each phrase of the text that compares figures, and when it holds.
        values: what is filled in, as text.
    """

    text: str
    phrases: Mapping[str, Holds] = field(default_factory=dict)
    values: Mapping[str, Callable[[Figures], str]] = field(default_factory=dict)

    def written(self, figures: Figures) -> str:
        """The point; what does not hold is named after it."""
        text = self.text.strip("\n")
        if self.values:
            text = text.format(**{name: value(figures) for name, value in self.values.items()})
        wrong = [phrase for phrase, holds in self.phrases.items() if not holds(figures)]
        return text + "".join(f'\n  {CONTRADICTION} "{phrase}".' for phrase in wrong)


CONTRADICTION = "**The figures on this page say otherwise:**"


def reading(claims: Iterable[Claim], figures: Figures, title: str = "## Reading") -> str:
    """The section that says what the figures mean."""
    return f"{title}\n\n" + "\n".join(claim.written(figures) for claim in claims)
