"""The page of regions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..common.cells import Cells, Kept
from ..common.report import Claim, Figures, joined, means, paired, pairs, reading, table

STEM = "regions_evidence"
CASES = 24
HEIGHT, WIDTH, PART = 96, 160, 64
"""Of the pictures, and of the two parts at their sides; a free one lies between them."""

RULERS = ("leakage", "own color", "outside / inside", "seam", "edges", "structure")
SHOWN = (
    *("no regions", "attention, adaptivity 0", "attention, adaptivity 5", "attention, noise mask"),
    *("holistic", "attention + holistic", "shared attention in masks"),
)
ALL = ("leakage", "own color", "outside / inside", "seam", "edges")
FREE, OURS = "no regions", "attention, adaptivity 5"
PAIRS = (
    (OURS, FREE, ("leakage", "own color", "seam", "edges")),
    (OURS, "attention, adaptivity 0", ALL),
    ("attention, adaptivity 20", OURS, ALL),
    ("holistic", OURS, ALL),
    ("attention, trained", OURS, ALL),
    ("attention + holistic", OURS, ALL),
    ("shared attention in masks", OURS, ALL),
    ("attention, noise mask", OURS, ALL),
)
INTRODUCTION = f"""# Regions: evidence on the pocket model of drawings

Made by `benchmarks/evidence/run.py regions` from the shipped weights; the same command makes the same table. {CASES}
pictures of {WIDTH}x{HEIGHT} from prompts under the edge ControlNet, 20 steps of euler, CFG 5. The left {PART} pixels
take the style of one painting, the right {PART} that of another, and what lies between belongs to no region.

- **leakage**: distance of colours of a region to its own painting over that to the other's, geometric mean of both; 1
  tells nothing apart, lower is better. **own color**: that distance, CIELAB.
- **outside / inside**: mean change against the picture without regions, in the free part (more than a cell of the
  latent away from borders) over that in the regions.
- **seam**: mean horizontal difference of pixels at the regions' borders over that everywhere; 1 is no seam.
- **edges**: F1 with the ControlNet's hint. **structure**: similarity with the picture without regions.
- *paintings pasted* is the bound that keeps nothing.
"""


def summary(kept: Mapping[str, Kept]) -> dict:
    """Means and paired differences."""
    (cells,) = kept.values()
    methods = dict.fromkeys(method for _, method in cells)
    return {"means": means(cells, methods, RULERS), "pairs": pairs(cells, PAIRS)}


def text(record: Mapping) -> str:
    """The page."""
    return joined(
        INTRODUCTION,
        table(record["means"], RULERS),
        paired(record["pairs"]),
        "Painting of the left, result, painting of the right:\n\n![Sheet](images/regions_sheet.jpg)",
        reading(READING, Figures(record)),
    )


def pictures(record: Mapping, cells: Mapping[str, Cells], folder: Path) -> None:
    """The sheet."""
    cells["regions"].sheet(SHOWN, (0, 1, 5), folder / "regions_sheet.jpg")


READING = (
    Claim(
        """
- Each region takes the style of its own painting, clearly, and *adaptivity* is the knob that it should be: at 0 one
  pool serves both, at 5 nearly all comes from the own painting, and 20 adds next to nothing.
""",
        {
            "takes the style of its own painting, clearly": lambda f: (
                f.sign(OURS, FREE, "leakage") < 0 and f.sign(OURS, FREE, "own color") < 0
            ),
            "at 0 one\n  pool serves both": lambda f: abs(f("attention, adaptivity 0", "leakage") - 1) < 0.05,
            "at 5 nearly all comes from the own painting": lambda f: (
                f.sign(OURS, "attention, adaptivity 0", "leakage") < 0
            ),
            "20 adds next to nothing": lambda f: (
                abs(f.change("attention, adaptivity 20", OURS, "leakage")) < 0.02
                and abs(f.change("attention, adaptivity 20", OURS, "own color")) < 0.2
            ),
        },
    ),
    Claim(
        """
- Attention mode and holistic mode tell regions apart alike; the latter brings more of the palette. Both in turn (two
  nodes, one after the other) tell them apart best, below 0.6.
""",
        {
            "tell regions apart alike": lambda f: f.sign("holistic", OURS, "leakage") == 0,
            "the latter brings more of the palette": lambda f: f.sign("holistic", OURS, "own color") < 0,
            "tell them apart best, below 0.6": lambda f: (
                f("attention + holistic", "leakage")
                == min(row["leakage"] for name, row in f.record["means"].items() if name != "paintings pasted")
                < 0.6
            ),
        },
    ),
    Claim(
        """
- The trained adapter (1000 steps on drawings) brings nothing over attention without training here, and tells regions
  apart a little less: its loss is that of denoising parts of a picture from other parts of it, in which all regions
  share one look. The trained injector had the same trouble until it was also shown styles of other pictures.
""",
        {
            "brings nothing over attention without training": lambda f: (
                f.sign("attention, trained", OURS, "own color") >= 0
            ),
            "tells regions\n  apart a little less": lambda f: f.sign("attention, trained", OURS, "leakage") > 0,
        },
    ),
    Claim(
        """
- From pure noise much of the change goes on outside, since convolutions, group norms and the prompt's guidance carry it
  through a picture of twelve cells' height. *Set Latent Noise Mask* over a finished latent keeps it to {at}, which is
  the autoencoder's own reach, with seams; the composite keeps it to nothing.
""",
        {
            "much of the change goes on outside": lambda f: f(OURS, "outside / inside") > 0.5,
            "with seams": lambda f: f.sign("attention, noise mask", OURS, "seam") > 0,
            "the composite keeps it to nothing": lambda f: f("attention, composite", "outside / inside") < 0.005,
        },
        {"at": lambda f: f"{f('attention, noise mask', 'outside / inside'):.2f}"},
    ),
    Claim(
        "- Seams are hardly above those of pictures without regions; sharing attention in two masks has stronger ones.",
        {
            "hardly above those of pictures without regions": lambda f: f.sign(OURS, FREE, "seam") <= 0,
            "sharing attention in two masks has stronger ones": lambda f: (
                f.sign("shared attention in masks", OURS, "seam") > 0
            ),
        },
    ),
    Claim(
        "- Edges of the ControlNet's hint stay but for {lost}.",
        {},
        {"lost": lambda f: f"{-f.change(OURS, FREE, 'edges'):.2f}"},
    ),
)
