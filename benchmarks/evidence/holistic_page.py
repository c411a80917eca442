"""The page of the holistic injector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..common.cells import Cells, Kept
from ..common.report import Claim, Figures, bounds, grid, joined, means, paired, pairs, reading, sign, spread, table
from ..common.training_sizes import PICTURES, STEPS

STEM = "holistic_evidence"
SIZE, DENOISE = (192, 128), 0.5
TONES, STRENGTHS, DENOISES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.5, 0.75, 1.5, 2.0), (0.3, 0.7, 0.9)
TRAINED = (0.5, 1.0, 2.0, 3.0)
FREE = (
    *("image to image", "moments, strength 0.5", "moments, strength 0.75", "moments, tone 0", "moments, strength 1.5"),
    "moments, strength 2",
)
RULERS = ("structure", "edges", "color", "texture", "model rows")
SHOWN = ("image to image", "AdaIN on the latent", "moments, tone 1", "moments, tone 0", "quantiles", "shared attention")
ALL = ("structure", "edges", "color", "texture")
PAIRS = (
    ("moments, tone 0", "image to image", ALL),
    ("quantiles", "moments, tone 0", ALL),
    ("moments, tone 0", "moments, tone 1", ALL),
    ("moments, tone 0", "AdaIN on the latent", ALL),
    ("moments, tone 0", "shared attention, weight 2", ALL),
    ("moments, card", "moments, tone 0", ALL),
    ("ControlNet, moments", "ControlNet", ALL),
    ("ControlNet, quantiles", "ControlNet", ALL),
    ("ControlNet, moments", "moments, tone 0", ALL),
)
INTRODUCTION = f"""# Holistic injection: evidence on the pocket model of drawings

Made by `benchmarks/evidence/run.py holistic` from the shipped weights; the same command makes the same table. Twelve
photographs, each with two of eight paintings, {SIZE[0]}x{SIZE[1]}; image to image at denoise {DENOISE:g}, 20 steps of
euler, CFG 3, on a model that was trained for drawn scenes of 96 pixels: photographs lose much in it before any style.

- **structure**, **edges**: similarity with the photograph, higher keeps more.
- **color** (CIELAB), **texture** (octaves): distance to the painting, lower is nearer.
- *photo itself* and *painting itself* are the anchors. No ruler is a network. The injector works on moments of features
  of the denoiser, the rulers on colours and wavelets of pixels.
"""


def summary(kept: Mapping[str, Kept]) -> dict:
    """Means, paired differences, and the trained form at equal content."""
    (cells,) = kept.values()
    return {
        "means": means(cells, dict.fromkeys(method for _, method in cells), RULERS),
        "pairs": pairs(cells, PAIRS),
        "trained at equal content": at_equal_content(cells),
    }


def at_equal_content(kept: Kept) -> list[dict]:
    """The trained form less the one without training at equal content, along the latter's curve of strengths."""
    rows = []
    for strength in TRAINED:
        method = f"trained, strength {strength:g}"
        numbers = [number for number, name in kept if name == method and all((number, free) in kept for free in FREE)]
        for content in ("structure", "edges"):
            for ruler in ("color", "texture") if len(numbers) > 1 else ():
                differences = []
                for number in numbers:
                    free = sorted((kept[number, name][content], kept[number, name][ruler]) for name in FREE)
                    place, value = kept[number, method][content], kept[number, method][ruler]
                    differences.append(value - np.interp(place, *zip(*free, strict=True)))
                rows.append({"strength": strength, "content": content, "ruler": ruler, **spread(differences)})
    return rows


def text(record: Mapping) -> str:
    """The page."""
    return joined(
        INTRODUCTION,
        table(record["means"], RULERS),
        paired(record["pairs"]),
        _at_equal_content(record["trained at equal content"]),
        "![Curve](images/holistic_curve.png)",
        "Photograph, painting, result:\n\n![Sheet](images/holistic_sheet.jpg)",
        reading(READING, Figures(record)),
    )


def _at_equal_content(rows: list[dict]) -> str:
    body = (
        [f"{row['strength']:g}", row["content"], row["ruler"], f"{row['mean']:+.3f}", bounds(row), f"{row['cases']}"]
        for row in rows
    )
    head = ("strength", "content", "ruler", "trained - without training", "95 % interval", "cases")
    made = f"{STEPS} steps on {PICTURES} drawings"
    title = f"The trained injector ({made}) beside moments at equal content (interpolated along strengths):"
    return f"{title}\n\n{grid(head, body)}"


def pictures(record: Mapping, cells: Mapping[str, Cells], folder: Path) -> None:
    """Curve and sheet."""
    curve(record["means"], folder / "holistic_curve.png")
    cells["holistic"].sheet(SHOWN, (0, 5, 19), folder / "holistic_sheet.jpg")


def curve(rows: Mapping, path: Path) -> None:
    """Distance to the painting against edges kept, by each method's own dial."""
    dials = {
        "moments, by strength": FREE,
        "trained, by strength": ["image to image", *(f"trained, strength {strength:g}" for strength in TRAINED)],
        "moments, tone 1 to 0": [f"moments, tone {tone:g}" for tone in reversed(TONES)],
        "shared attention, by weight": [
            *("image to image", "shared attention, weight 0.5", "shared attention"),
            *("shared attention, weight 2", "shared attention, weight 4"),
        ],
        "image to image, by denoise": [
            *("image to image, denoise 0.3", "image to image", "image to image, denoise 0.7"),
            "image to image, denoise 0.9",
        ],
        "quantiles": ["quantiles", "quantiles, strength 1.5"],
        "AdaIN on the latent": ["AdaIN on the latent"],
        "ControlNet, moments": ["ControlNet", "ControlNet, moments"],
    }
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for axes, ruler in zip(figure.subplots(1, 2), ("color", "texture"), strict=True):
        for label, names in dials.items():
            shown = [rows[name] for name in names if name in rows]
            axes.plot([row["edges"] for row in shown], [row[ruler] for row in shown], "o-", label=label, markersize=4)
        axes.set_xlabel("edges: agreement with the photograph (higher keeps more)")
        axes.set_ylabel(f"{ruler} distance to the painting (lower is nearer)")
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def _edges_by_strength(f: Figures) -> float:
    """Edges kept where moments are as near in colour as quantiles are."""
    points = sorted((f(name, "color"), f(name, "edges")) for name in FREE)
    return float(np.interp(f("quantiles", "color"), *zip(*points, strict=True)))


READING = (
    Claim(
        """
- Injection brings the palette and a little of the texture, and costs edges: at the content of shared attention with
  weight 2 it comes as near to the painting, keeps a little more of the edges, and needs no attention to a reference.
""",
        {
            "brings the palette and a little of the texture": lambda f: (
                f.sign("moments, tone 0", "image to image", "color") < 0
                and f.sign("moments, tone 0", "image to image", "texture") < 0
            ),
            "costs edges": lambda f: f.sign("moments, tone 0", "image to image", "edges") < 0,
            "comes as near to the painting": lambda f: all(
                f.sign("moments, tone 0", "shared attention, weight 2", ruler) == 0
                for ruler in ("structure", "color", "texture")
            ),
            "keeps a little more of the edges": lambda f: (
                f.sign("moments, tone 0", "shared attention, weight 2", "edges") > 0
            ),
        },
    ),
    Claim(
        """
- The slider: *tone* 1 keeps the most and moves colours, and texture a little with them (from {before} to {after});
  towards 0 more of both comes, and edges go. Quantiles are nearer in colour than moments and cost more edges than the
  same colour by *strength*.
""",
        {
            "*tone* 1 keeps the most": lambda f: (
                f("moments, tone 1", "edges") == max(f.all("edges", "moments, tone"))
                and f("moments, tone 1", "structure") == max(f.all("structure", "moments, tone"))
            ),
            "towards 0 more of both comes": lambda f: (
                f.sign("moments, tone 0", "moments, tone 1", "color") < 0
                and f.sign("moments, tone 0", "moments, tone 1", "texture") < 0
            ),
            "edges go": lambda f: f.sign("moments, tone 0", "moments, tone 1", "edges") < 0,
            "Quantiles are nearer in colour than moments": lambda f: (
                f.sign("quantiles", "moments, tone 0", "color") < 0
            ),
            "cost more edges": lambda f: f("quantiles", "edges") < _edges_by_strength(f),
        },
        {
            "before": lambda f: f"{f('image to image', 'texture'):.2f}",
            "after": lambda f: f"{f('moments, tone 1', 'texture'):.2f}",
        },
    ),
    Claim(
        "- A card of eight levels does what its reference does.",
        {
            "does what its reference does": lambda f: (
                abs(f.change("moments, card", "moments, tone 0", "color")) < 0.1
                and abs(f.change("moments, card", "moments, tone 0", "structure")) < 0.001
            )
        },
    ),
    Claim(
        "- Under the ControlNet edges stay as much above those without it as before the injection.",
        {
            "as much above those without it as before": lambda f: (
                f("ControlNet, moments", "edges") - f("moments, tone 0", "edges")
                >= 0.95 * (f("ControlNet", "edges") - f("image to image", "edges"))
            )
        },
    ),
    Claim(
        """
- The trained injector is nearer to the painting at equal content, in colour and in texture, at every strength. It was
  trained on moments of the denoiser's estimates, so that colour comes nearer is close to what it was trained for; the
  wavelets of *texture*, the photographs and the paintings were unknown to it.
""",
        {
            "in colour and in texture, at every strength": lambda f: all(
                sign(row) < 0 for row in f.record["trained at equal content"]
            )
        },
    ),
    Claim(
        """
- **AdaIN on the latent** is nearer in colour than any of them at little cost here, with the tiny autoencoder of the
  pocket model, whose channels are colours. It moves the whole picture alike, and knows no regions or layers.
""",
        {
            "nearer in colour than any of them": lambda f: (
                f("AdaIN on the latent", "color")
                < min(f.all("color", "moments", "trained", "quantiles", "shared", "ControlNet"))
            ),
            "at little cost": lambda f: f("image to image", "edges") - f("AdaIN on the latent", "edges") < 0.05,
        },
    ),
    Claim(
        """
- *moments, style block* does next to nothing here: that block of this network, one layer of the lowest resolution,
  hardly carries style. The preset was chosen for SDXL.
""",
        {
            "does next to nothing": lambda f: (
                abs(f("moments, style block", "color") - f("image to image", "color")) < 0.1
                and abs(f("moments, style block", "edges") - f("image to image", "edges")) < 0.01
            )
        },
    ),
    Claim("- The model was trained for drawn scenes; photographs come out coarse with and without any style."),
)
