"""The page of Style Matching Score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ..common.cells import Cells, Kept
from ..common.report import Claim, Figures, bounds, grid, joined, means, paired, pairs, reading, spread

STEM = "sms_evidence"
STYLES, PHOTOS = 3, 12
CASES = STYLES * PHOTOS
"""Style by style, each with all photographs."""

RULERS = ("structure", "edges", "low band", "shift", "color", "texture", "style")
SHOWN_PHOTOS = (9, 7, 3)
SHOWN = ("img2img 0.3", "img2img 0.5", "score alone", "score + spectrum", "full", "guidance 1")
PUBLISHED, FULL, PLAIN, COPY, PHOTO = "published loop", "full", "VAE only", "style copy", "photo itself"
PAIRS = (
    ("full", "score alone", ("structure",)),
    ("full", "score alone", ("style",)),
    ("score + spectrum", "score alone", ("structure",)),
    ("score + refiner", "score alone", ("structure",)),
    ("full", "img2img 0.4", ("structure",)),
    ("full", "img2img 0.4", ("style",)),
    ("guidance 1", "full", ("structure",)),
    ("guidance 1", "full", ("style",)),
    ("full, trained fake", "full", ("style",)),
    ("published loop", "full", ("style",)),
    ("published loop", "full", ("structure",)),
)
INTRODUCTION = """# Style Matching Score: evidence on the pocket model

Made by `benchmarks/evidence/run.py sms` from the shipped weights; the same command makes the same table. Twelve
photographs that no training saw, in three styles that the base model has never seen; 384x256, CPU. Content rulers
compare
with the photograph (structure, edges: 1 keeps all; low band, shift in pixels: 0 keeps all). Style progress is 0 for the
photograph through the VAE and 1 at the centre of the style's exemplars; *style* is the mean of colour and texture.
Read every row between *VAE only* (identity) and *style copy* (other pictures in the style). The score itself is not a
ruler here, since it is what SMS optimises. No ruler is a network.
"""


def summary(kept: Mapping[str, Kept]) -> dict:
    """Means, the copies of the style, paired differences, and what the published loop is reached with."""
    (cells,) = kept.values()
    methods = [name for name in dict.fromkeys(name for _, name in cells) if name not in (COPY, PHOTO)]
    rows = {name: _counted(row) for name, row in means(cells, methods, (*RULERS, "model rows")).items()}
    copies = means(cells, [COPY], RULERS)
    return {
        "style copy": {ruler: copies[COPY][ruler] for ruler in RULERS} if copies else {},
        "means": rows,
        "pairs": pairs(cells, PAIRS),
        "published loop": _loop(cells, methods),
        "at equal structure": _at_equal_structure(cells),
    }


def _counted(row: dict) -> dict:
    return {"cells" if key == "cases" else key: value for key, value in row.items()}


def _loop(cells: Kept, methods: Sequence[str]) -> dict:
    """The published loop on its photographs, and what has its style and structure for fewer rows.

    Of those the cheapest, and what comes further for more rows: what is dearer and no better goes without saying.
    """
    numbers = [number for number, method in cells if method == PUBLISHED]
    if not numbers:
        return {}
    same = {(number, name): row for (number, name), row in cells.items() if number in numbers}
    complete = [name for name in methods if all((number, name) in same for number in numbers)]
    rows = means(same, complete, ("style", "structure", "model rows"))
    goal, steps = rows.pop(PUBLISHED), []
    enough = (name for name, row in rows.items() if all(row[key] >= goal[key] for key in ("style", "structure")))
    for name in sorted((name for name in enough if rows[name]["model rows"]), key=lambda n: (rows[n]["model rows"], n)):
        if not steps or rows[name]["style"] > steps[-1]["style"]:
            steps.append({"method": name, **rows[name]})
    return {"goal": goal, "reached": steps}


def _at_equal_structure(cells: Kept) -> dict:
    """Style of guidance where it has the structure of the full form, along its curve of strengths."""
    pairs_of = []
    for number in (number for number, method in cells if method == FULL):
        named = [name for case, name in cells if case == number and (name.startswith("guidance") or name == PLAIN)]
        points = sorted((cells[number, name]["structure"], cells[number, name]["style"]) for name in named)
        places, styles = zip(*points, strict=True)
        full = cells[number, FULL]
        if places[0] <= full["structure"] <= places[-1]:
            pairs_of.append((full["style"], float(np.interp(full["structure"], places, styles))))
    if not pairs_of:
        return {}
    full, guided = np.array(pairs_of).T
    return {"guidance": float(guided.mean()), "full": float(full.mean()), **spread(guided - full)}


def text(record: Mapping) -> str:
    """The page."""
    return joined(
        INTRODUCTION,
        _table(record["means"], record["style copy"]),
        paired(record["pairs"], PAIRED, (*HEAD, "cells")),
        _reached(record["published loop"]),
        _equal(record["at equal structure"]),
        "![Curves](images/sms_curves.png)",
        "![Pictures](images/sms_sheet.jpg)",
        reading(READING, Figures(record), "## Reading it"),
    )


PAIRED = "Paired differences, first minus second, over photographs and styles:"
HEAD = ("first", "second", "ruler", "mean difference", "95 % interval")


def _table(rows: Mapping, copy: Mapping) -> str:
    body = [
        [method, f"{row['cells']}", *(f"{row[key]:.2f}" for key in RULERS), f"{row['model rows']:.0f}"]
        for method, row in rows.items()
    ]
    lines = grid(("method", "cells", *RULERS, "model rows"), body)
    return f"{lines}\n| {COPY} | | " + " | ".join(f"{copy[key]:.2f}" for key in RULERS) + " | |" if copy else lines


def _reached(loop: Mapping) -> str:
    if not loop:
        return ""
    goal = loop["goal"]
    head = (
        f"Published loop on {goal['cases']} photographs: style {goal['style']:.2f}, structure {goal['structure']:.2f}, "
        f"{goal['model rows']:.0f} model rows. Of what has at least its style and structure, the cheapest, and what "
        "comes further for more rows:\n\n"
    )
    lines = [
        f"- {row['method']}: style {row['style']:.2f}, structure {row['structure']:.2f}, {row['model rows']:.0f} rows, "
        f"1/{goal['model rows'] / row['model rows']:.0f} of the loop's"
        for row in loop["reached"]
    ]
    return head + "\n".join(lines or ["- nothing"])


def _equal(row: Mapping) -> str:
    if not row:
        return ""
    return (
        f"Guidance at the structure of the full form (interpolated along its curve, {row['cases']} cells in whose "
        f"range that lies): style {row['guidance']:.3f} against {row['full']:.3f}, difference {row['mean']:+.3f} "
        f"({bounds(row)})."
    )


def pictures(record: Mapping, cells: Mapping[str, Cells], folder: Path) -> None:
    """Curves and sheet."""
    curves(record["means"], record["style copy"], folder / "sms_curves.png")
    sheet(cells["sms"], folder / "sms_sheet.jpg")


def curves(means: Mapping, copy: Mapping, path: Path) -> None:
    """Style against content, by the dials of image to image and of guidance."""
    figure = Figure(figsize=(11, 5.8), layout="constrained")
    for axes, ruler in zip(figure.subplots(1, 2), ("structure", "edges"), strict=True):
        for prefix, color in (("img2img", "tab:gray"), ("guidance", "tab:blue")):
            names = [name for name in means if name.startswith(prefix)]
            axes.plot(
                [means[name][ruler] for name in names],
                [means[name]["style"] for name in names],
                "o-",
                color=color,
                label=prefix,
            )
            for name in names:
                axes.annotate(name.split()[-1], (means[name][ruler], means[name]["style"]), fontsize=7)
        others = [name for name in means if not name.startswith(("img2img", "guidance"))]
        for name in others:
            axes.plot(means[name][ruler], means[name]["style"], "s", label=name)
        axes.plot(copy[ruler], copy["style"], "k*", label="style copy")
        axes.set_xlabel(f"content kept: {ruler}")
        axes.set_ylabel("style progress")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=110)


def sheet(cells: Cells, path: Path) -> bool:
    """A line for each photograph in each style, a column for each method; False where one is not kept yet."""
    numbers = [style * PHOTOS + photo for style in range(STYLES) for photo in SHOWN_PHOTOS]
    columns = {"photograph": PHOTO, **dict(zip(SHOWN, SHOWN, strict=True))}
    if not all(cells.path_of(number, method).is_file() for number in numbers for method in columns.values()):
        return False
    width, height, line = 288, 192, 20
    canvas = Image.new("RGB", (len(columns) * width, line + len(numbers) * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for column, (title, method) in enumerate(columns.items()):
        draw.text((column * width + 4, 3), title, fill="black", font=font)
        for place, number in enumerate(numbers):
            picture = cells.pictures_of(number, method)[0].resize((width, height))
            canvas.paste(picture, (column * width, line + place * height))
    canvas.save(path, quality=85)
    return True


ALONE, SPECTRUM, REFINER, FITTED = "score alone", "score + spectrum", "score + refiner", "full, trained fake"
WEAK = ("guidance 0.5", "guidance 1")


def _beside(f: Figures, ruler: str) -> float:
    """The full form on the photographs of the published loop."""
    return f(PUBLISHED, ruler) - f.change(PUBLISHED, FULL, ruler)


READING = (
    Claim(
        """
- **Against image to image**, at any denoise, guidance up to 1 and the forms with the spectrum term keep more of the
  structure and come further in style. Stronger guidance comes further still up to 2, where it keeps less than the
  weakest denoise. The score alone keeps more of the structure and comes less far.
""",
        {
            "guidance up to 1 and the forms with the spectrum term keep more of the\n  structure": lambda f: (
                min(f(name, "structure") for name in (*WEAK, SPECTRUM, FULL, FITTED))
                > max(f.all("structure", "img2img"))
            ),
            "come further in style": lambda f: (
                min(f(name, "style") for name in (*WEAK, SPECTRUM, FULL, FITTED)) > max(f.all("style", "img2img"))
            ),
            "Stronger guidance comes further still up to 2": lambda f: (
                min(f(f"guidance {strength}", "style") for strength in ("1.5", "2"))
                > max(f("guidance 1", "style"), f("guidance 3", "style"))
            ),
            "it keeps less than the\n  weakest denoise": lambda f: (
                f("guidance 2", "structure") < max(f.all("structure", "img2img")) <= f("guidance 1.5", "structure")
            ),
            "The score alone keeps more of the structure": lambda f: (
                f(ALONE, "structure") > max(f.all("structure", "img2img"))
            ),
            "comes less far": lambda f: f(ALONE, "style") < min(f.all("style", "img2img")),
        },
    ),
    Claim(
        """
- **Spectrum** is what keeps content, and it adds to the measured style too: without it the frozen fake score
  overshoots, which costs texture first. **The refiner** places the change and costs structure where it acts: with one
  step length per picture, what the map takes from dark places goes to the bright ones. The full form lies between. With
  a weak model that changes everything alike there is little to place; leave the refiner out there, or give it a mask.
""",
        {
            "is what keeps content": lambda f: f.sign(SPECTRUM, ALONE, "structure") > 0,
            "it adds to the measured style too": lambda f: f(SPECTRUM, "style") > f(ALONE, "style"),
            "costs texture first": lambda f: (
                f(SPECTRUM, "texture") - f(ALONE, "texture") > f(SPECTRUM, "color") - f(ALONE, "color")
            ),
            "costs structure where it acts": lambda f: f.sign(REFINER, ALONE, "structure") < 0,
            "The full form lies between": lambda f: all(
                f(REFINER, ruler) < f(FULL, ruler) < f(SPECTRUM, ruler) for ruler in ("structure", "style")
            ),
        },
    ),
    Claim(
        """
- **The trained fake** settles instead of overshooting: the best style of the optimised forms, for half as many rows
  again.
""",
        {
            "the best style of the optimised forms": lambda f: (
                f(FITTED, "style") == max(f.all("style", "score", "full", PUBLISHED))
            ),
            "for half as many rows\n  again": lambda f: 1.4 < f(FITTED, "model rows") / f(FULL, "model rows") < 1.6,
        },
    ),
    Claim(
        "- **Guidance** beats the optimised form on both rulers at well under half of its rows.",
        {
            "beats the optimised form on both rulers": lambda f: (
                f.sign("guidance 1", FULL, "structure") > 0 and f.sign("guidance 1", FULL, "style") > 0
            ),
            "well under half of its rows": lambda f: f("guidance 1", "model rows") < 0.45 * f(FULL, "model rows"),
        },
    ),
    Claim(
        "- **Fewer iterations are better** than the 60 of the full form on this model: 20 keep more and give more.",
        {
            "20 keep more and give more": lambda f: all(
                f("full, 20 steps", ruler) > _beside(f, ruler) for ruler in ("structure", "style")
            ),
        },
    ),
    Claim(
        """
- **The published loop** (500 steps of Adam per element, CFG 4.5, as for SD 1.5) runs far past the style here. Its own
  settings do not suit a model this small, so the rows needed to reach it say little: nearly everything reaches it.
""",
        {
            "runs far past the style": lambda f: f(PUBLISHED, "style") < 0,
            "nearly everything reaches it": lambda f: (
                np.mean([value > f(PUBLISHED, "style") for value in f.all("style") if value != f(PUBLISHED, "style")])
                > 0.9
            ),
        },
    ),
    Claim(
        """
- Texture stays near 0 in most rows or falls below: the model's predictions are soft, and the palette is most of what it
  can give.
""",
        {
            "near 0 in most rows or falls below": lambda f: np.mean([value < 0.1 for value in f.all("texture")]) > 0.7,
            "the palette is most of what it\n  can give": lambda f: (
                np.mean([row["color"] > row["texture"] for name, row in f.record["means"].items() if name != PLAIN])
                > 0.9
            ),
        },
    ),
)
