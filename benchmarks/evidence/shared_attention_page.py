"""The page of shared attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ..common.cells import Cells, Kept
from ..common.report import Claim, Figures, grid, joined, means, paired, pairs, reading, table

STEM = "shared_attention_evidence"
RULERS = (
    "set color",
    "set texture",
    "prompt",
    "painting color",
    "painting texture",
    "copied layout",
    "edges",
    "model rows",
)
SHOWN_SETS = (0, 1)
LARGER = 2  # than the pictures themselves
SERIES = ("no sharing", "shared", "shared, no AdaIN", "full sharing", "ControlNet", "ControlNet, shared")
PAINTED = (
    "no sharing",
    "painting, noised",
    "painting, noised, weight 2",
    "painting, inverted, weight 2",
    "ControlNet, painting, inverted",
)
PAIRS = (
    ("shared", "no sharing", ("set color", "set texture", "prompt")),
    ("shared", "shared, no AdaIN", ("set color", "set texture", "prompt")),
    ("full sharing", "shared", ("set color", "set texture", "prompt")),
    ("shared + norms", "shared", ("set color", "set texture", "prompt")),
    ("painting, noised", "no sharing", ("painting color", "painting texture", "prompt")),
    ("painting, noised, weight 2", "no sharing", ("painting color", "painting texture", "prompt")),
    ("painting, inverted", "painting, noised", ("painting color", "painting texture", "prompt")),
    ("ControlNet, shared", "ControlNet", ("set color", "set texture", "prompt", "edges")),
    ("ControlNet, shared", "ControlNet, shared, no AdaIN", ("set color", "set texture", "prompt", "edges")),
    ("ControlNet, full sharing", "ControlNet, shared", ("set color", "set texture", "prompt", "edges")),
    ("ControlNet, painting, noised", "ControlNet", ("painting color", "painting texture", "prompt", "edges")),
)
SHEETS = {
    "series": ("Series from prompts", SERIES),
    "painting": ("In the style of a painting", PAINTED),
}
INTRODUCTION = """# Shared attention: evidence on the pocket model of drawings

Made by `benchmarks/evidence/run.py shared_attention` from the shipped weights; the same command makes the same table.
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


def summary(kept: Mapping[str, Kept]) -> dict:
    """Means and paired differences; the errors of inversion, by refinements and steps, are added by the runs."""
    (cells,) = kept.values()
    methods = dict.fromkeys(method for _, method in cells)
    return {"means": means(cells, methods, RULERS), "pairs": pairs(cells, PAIRS)}


def text(record: Mapping) -> str:
    """The page."""
    sheets = (f"{title}:\n\n![{title}](images/shared_attention_{name}.jpg)" for name, (title, _) in SHEETS.items())
    return joined(
        INTRODUCTION,
        table(record["means"], RULERS),
        paired(record["pairs"]),
        "![Curve](images/shared_attention_curve.png)",
        *sheets,
        _inversion(record.get("inversion", {})),
        reading(READING, Figures(record)),
    )


def pictures(record: Mapping, cells: Mapping[str, Cells], folder: Path) -> None:
    """Curve and sheets."""
    curve(record["means"], folder / "shared_attention_curve.png")
    for name, (_, methods) in SHEETS.items():
        cells["shared_attention"].sheet(methods, SHOWN_SETS, folder / f"shared_attention_{name}.jpg", LARGER)


def _inversion(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    if not errors:
        return ""
    steps = list(next(iter(errors.values())))
    body = (
        [refinements, *(f"{row[n]['error']:.3f} ({row[n]['psnr']:.0f} dB)" for n in steps)]
        for refinements, row in errors.items()
    )
    return f"{INVERSION}\n\n{grid(['refinements', *(f'{n} steps' for n in steps)], body)}"


INVERSION = (
    "Inversion of the paintings and the way back with Euler over the same levels, CFG 1: root mean square error of the "
    "latent in units of its deviation, and PSNR of the picture. 0 refinements is DDIM inversion as published."
)


def curve(means: dict, path: Path) -> None:
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


SHARED, ALONE = "shared", "no sharing"
READING = (
    Claim(
        """
- Sharing more than halves the distance of colours within a set, below that of drawings in one look, and every other
  form of it moves along the same line. AdaIN brings almost half of it.
""",
        {
            "more than halves the distance of colours": lambda f: f(SHARED, "set color") < f(ALONE, "set color") / 2,
            "below that of drawings in one look": lambda f: (
                f(SHARED, "set color") < f("drawn in one look", "set color")
            ),
            "every other\n  form of it moves along the same line": lambda f: (
                max(f.all("set color", "shared", "swap", "full")) < f(ALONE, "set color")
                and max(f.all("set texture", "shared", "swap", "full")) < f(ALONE, "set texture")
            ),
            "AdaIN brings almost half of it": lambda f: (
                0.4 < f.change(SHARED, "shared, no AdaIN", "set color") / f.change(SHARED, ALONE, "set color") < 0.5
            ),
        },
    ),
    Claim(
        """
- Under the ControlNet, where things are recognised in four pictures of five, sharing keeps almost all of them; AdaIN
  costs {edges} of the edges. Without the ControlNet the model draws three words of fourteen, so the prompt column is
  coarse there, and its intervals are wide.
""",
        {
            "things are recognised in four pictures of five": lambda f: abs(f("ControlNet", "prompt") - 0.8) < 0.05,
            "sharing keeps almost all of them": lambda f: (
                f("ControlNet, shared", "prompt") > 0.9 * f("ControlNet", "prompt")
            ),
            "draws three words of fourteen": lambda f: round(14 * f(ALONE, "prompt")) == 3,
        },
        {"edges": lambda f: f"{-f.change('ControlNet, shared', 'ControlNet, shared, no AdaIN', 'edges'):.3f}"},
    ),
    Claim(
        """
- A painting brings its palette, and a little of its texture. By inversion it comes closer than by noise, for {n} model
  rows more. Things suffer: paintings are far from what the model was trained on, and noise of its own shows.
""",
        {
            "brings its palette, and a little of its texture": lambda f: (
                f.sign("painting, noised", ALONE, "painting color") < 0
                and f.sign("painting, noised", ALONE, "painting texture") < 0
            ),
            "By inversion it comes closer than by noise": lambda f: (
                f.sign("painting, inverted", "painting, noised", "painting color") < 0
            ),
            "Things suffer": lambda f: f.sign("ControlNet, painting, noised", "ControlNet", "prompt") < 0,
        },
        {"n": lambda f: f"{f('painting, inverted', 'model rows') - f('painting, noised', 'model rows'):.0f}"},
    ),
    Claim(
        "- *shared + norms* and *swap* are the most consistent, and copy no more of the layout than the others.",
        {
            "are the most consistent": lambda f: (
                max(f("shared + norms", "set color"), f("swap", "set color"))
                < min(f.all("set color", "shared, ", "full", "no sharing"))
            ),
            "copy no more of the layout than the others": lambda f: (
                max(f("shared + norms", "copied layout"), f("swap", "copied layout"))
                < max(f.all("copied layout", "shared, ", "full", "no sharing")) + 0.01
            ),
        },
    ),
    Claim(
        "- The bound *first repeated* is far below everything in consistency, and shows one thing for four prompts.",
        {
            "far below everything in consistency": lambda f: f("first repeated", "set color") < 1,
            "shows one thing for four prompts": lambda f: f("first repeated", "prompt") < f(ALONE, "prompt") / 2,
        },
    ),
    Claim(
        """
- This model was trained for drawn scenes of 96 pixels in an hour on a CPU. What is shown is that the operator has its
  effect and what it costs in prompts; how pictures look with SD 1.5 or SDXL is not shown.
""",
    ),
)
