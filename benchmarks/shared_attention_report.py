"""The report of shared_attention_evidence.py: tables, curve and picture sheets, from the kept records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pocket_host as pocket
from intervals import interval
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from pocket_host import ROOT

DOCS = ROOT / "docs"
RULERS = ("set color", "set texture", "prompt", "painting color", "painting texture", "copied layout", "edges")
SHEET_SETS = (0, 1)
LARGER = 2  # than the pictures themselves
SERIES = ("no sharing", "shared", "shared, no AdaIN", "full sharing", "ControlNet, shared")
PAINTED = (
    "no sharing",
    "painting, noised",
    "painting, noised, weight 2",
    "painting, inverted, weight 2",
    "ControlNet, painting, inverted",
)
PAIRS = tuple(
    (first, second, ruler)
    for first, second, rulers in (
        ("shared", "no sharing", ("set color", "set texture", "prompt")),
        ("shared", "shared, no AdaIN", ("set color", "set texture", "prompt")),
        ("full sharing", "shared", ("set color", "set texture", "prompt")),
        ("shared + norms", "shared", ("set color", "set texture", "prompt")),
        ("painting, noised", "no sharing", ("painting color", "painting texture", "prompt")),
        ("painting, noised, weight 2", "no sharing", ("painting color", "painting texture", "prompt")),
        ("painting, inverted", "painting, noised", ("painting color", "painting texture", "prompt")),
        ("ControlNet, shared", "ControlNet", ("set color", "set texture", "prompt", "edges")),
        ("ControlNet, painting, noised", "ControlNet", ("painting color", "painting texture", "prompt", "edges")),
    )
    for ruler in rulers
)
INTRODUCTION = """# Shared attention: evidence on the pocket model of drawings

Made by `benchmarks/shared_attention_evidence.py` from the shipped weights; the same command makes the same table.
24 sets of four pictures, 96x96 (shown larger), 20 steps of euler, CFG 5. A set asks for four of fourteen things
("a castle"), and nothing in the prompts says in what look: palette, patterns and outline are left to chance, or to
sharing. The model has never been trained to share.

- **set color** (CIELAB) and **set texture** (octaves): mean distance between the pictures of a set; lower is more
  consistent. *drawn in one look* is the true answer: four things, one look. *first repeated* is the bound that shows
  nothing but the first picture.
- **prompt**: share of the pictures in which the thing asked for is recognised, by the shape of gradients (chance 0.07).
- **painting color**, **painting texture**: distance to the painting of the set's number, of eight.
- **copied layout**: structure similarity with the set's first picture. **edges**: F1 with the drawing whose edges are
  the ControlNet's hint.

No ruler is a network, and none is what the operator works with.
"""


def write_inversion(path: Path, errors: dict) -> None:
    """Keep the errors of inversion."""
    path.write_text(json.dumps(errors, indent=1) + "\n", encoding="utf-8")


def write_report(kept: dict, methods: list[str], inversion: Path, path_of: Callable) -> None:
    """Write docs/shared_attention_evidence.md and .json, the curve and the sheets."""
    images = DOCS / "images"
    images.mkdir(parents=True, exist_ok=True)
    means = {method: _mean(rows) for method in methods if (rows := _rows(kept, method))}
    parts = [INTRODUCTION, _table(means), _pairs(kept)]
    if {"no sharing", "shared", "drawn in one look"} <= set(means):
        _curve(means, images / "shared_attention_curve.png")
        parts.append("![Curve](images/shared_attention_curve.png)")
    for name, title, shown in (
        ("series", "Series from prompts", SERIES),
        ("painting", "In the style of a painting", PAINTED),
    ):
        if _sheet(path_of, shown, images / f"shared_attention_{name}.jpg"):
            parts.append(f"{title}:\n\n![{title}](images/shared_attention_{name}.jpg)")
    errors = json.loads(inversion.read_text(encoding="utf-8")) if inversion.is_file() else {}
    if errors:
        parts.append(_inversion(errors))
    reading = DOCS / "shared_attention_reading.md"
    if reading.is_file():
        parts.append(reading.read_text(encoding="utf-8"))
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    (DOCS / "shared_attention_evidence.md").write_text(text, encoding="utf-8")
    record = {"means": means, "inversion": errors}
    (DOCS / "shared_attention_evidence.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    pocket.say("\n\n".join(parts[1:3]))


def _rows(kept: dict, method: str) -> list[dict]:
    return [row for (_, found), row in kept.items() if found == method]


def _mean(rows: list[dict]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in (*RULERS, "rows")} | {"sets": len(rows)}


def _table(means: dict) -> str:
    head = ["method", "sets", *RULERS, "model rows"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, row in means.items():
        values = [f"{row[key]:.2f}" for key in RULERS]
        lines.append(f"| {method} | {row['sets']} | " + " | ".join(values) + f" | {row['rows']:.0f} |")
    return "\n".join(lines)


def _pairs(kept: dict) -> str:
    lines = ["| first | second | ruler | mean difference | 95 % interval | sets |", "|---|---|---|---|---|---|"]
    for first, second, ruler in PAIRS:
        sets = [number for number, method in kept if method == first and (number, second) in kept]
        if len(sets) < 2:
            continue
        differences = np.array([kept[number, first][ruler] - kept[number, second][ruler] for number in sets])
        low, high = interval(differences)
        lines.append(
            f"| {first} | {second} | {ruler} | {differences.mean():+.3f} | {low:+.3f} to {high:+.3f} | {len(sets)} |"
        )
    return "Paired differences, first minus second, over the sets:\n\n" + "\n".join(lines)


def _inversion(errors: dict) -> str:
    steps = list(next(iter(errors.values())))
    lines = ["| refinements | " + " | ".join(f"{n} steps" for n in steps) + " |", "|---|" + "---|" * len(steps)]
    for refinements, row in errors.items():
        cells = [f"{row[n]['error']:.3f} ({row[n]['psnr']:.0f} dB)" for n in steps]
        lines.append(f"| {refinements} | " + " | ".join(cells) + " |")
    head = (
        "Inversion of the paintings and the way back with Euler over the same levels, CFG 1: root mean square error of "
        "the latent in units of its deviation, and PSNR of the picture. 0 refinements is DDIM inversion as "
        "published.\n\n"
    )
    return head + "\n".join(lines)


def _curve(means: dict, path: Path) -> None:
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for axes, ruler in zip(figure.subplots(1, 2), ("set color", "set texture"), strict=True):
        weights = {
            "no sharing": 0,
            "shared, weight 0.5": 0.5,
            "shared": 1,
            "shared, weight 2": 2,
            "shared, weight 4": 4,
        }
        names = [name for name in weights if name in means]
        axes.plot(
            [means[n]["prompt"] for n in names], [means[n][ruler] for n in names], "o-", label="shared, by weight"
        )
        for name in names:
            axes.annotate(f"{weights[name]:g}", (means[name]["prompt"], means[name][ruler]), fontsize=8)
        for name in (
            "shared, no AdaIN",
            "shared + norms",
            "swap",
            "full sharing",
            "drawn in one look",
            "first repeated",
        ):
            if name in means:
                axes.plot(means[name]["prompt"], means[name][ruler], "s", label=name)
        axes.set_xlabel("prompt: share of things recognised")
        axes.set_ylabel(f"{ruler} distance (lower is more consistent)")
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def _sheet(path_of: Callable, methods: tuple[str, ...], path: Path) -> bool:
    cells = {(number, method): path_of(number, method) for number in SHEET_SETS for method in methods}
    if not all(cell.is_file() for cell in cells.values()):
        return False
    with Image.open(next(iter(cells.values()))) as one:
        width, height = one.width * LARGER, one.height * LARGER
    line, gap = 20, 12
    canvas = Image.new("RGB", (len(SHEET_SETS) * (width + gap) - gap, len(methods) * (height + line)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for place, method in enumerate(methods):
        draw.text((4, place * (height + line) + 3), method, fill="black", font=font)
        for column, number in enumerate(SHEET_SETS):
            with Image.open(cells[number, method]) as one:
                larger = one.convert("RGB").resize((width, height), Image.LANCZOS)
                canvas.paste(larger, (column * (width + gap), place * (height + line) + line))
    canvas.save(path, quality=85)
    return True
