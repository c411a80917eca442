"""The page of protected regions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..common.cells import Cells, Kept
from ..common.report import Claim, Figures, joined, means, paired, pairs, reading, table

STEM = "protection_evidence"
SIZE = (384, 256)
SAMPLING = {"steps": 20, "cfg": 2.0, "denoise": 0.6}
GUIDED = {"steps": 24, "cfg": 1.0, "denoise": 0.6}
GUIDANCE, BANDS = 2.0, (0.0, 0.1, 0.25)
PHOTOS, STYLES_EACH = 6, 2
CASES = PHOTOS * STYLES_EACH
WIDER = 8
"""Pixels, a cell of the latent."""

FAR = 48
"""Pixels from a sign beyond which the wavelets of the texture ruler hardly see it."""

LEGIBLE = 0.5
"""Legibility below which a sign cannot be read."""

INSIDE = ("structure", "edges", "legibility", "color change", "tone")
OUTSIDE = ("color far", "texture far", "style far", "change outside")
RULERS = (*INSIDE, *OUTSIDE)
SHOWN = (
    *("photo itself", "without protection", "noise mask", "band 0", "band 0.1", "band 0.1 + composite"),
    *("SMS guidance", "SMS guidance, band 0.1"),
)
SHOWN_CASES = (0, 3, 8)
ALL = ("structure", "edges", "legibility", "color change", "tone", "style far", "change outside")
PAIRS = (
    ("band 0.1", "without protection", ALL),
    ("band 0", "band 0.1", ALL),
    ("band 0.25", "band 0.1", ALL),
    ("band 0", "noise mask", ALL),
    ("band 0.1", "noise mask", ALL),
    ("noise mask, wider", "noise mask", ALL),
    ("band 0.1, wider", "band 0.1", ALL),
    ("band 0, wider", "noise mask, wider", ALL),
    ("band 0.1, wider", "noise mask, wider", ALL),
    ("band 0.1", "VAE only", ("structure", "edges", "legibility")),
    ("SMS guidance, band 0.1", "SMS guidance", ALL),
    ("band 0.1 + composite", "without protection + composite", ("seam",)),
    ("band 0 + composite", "without protection + composite", ("seam",)),
    ("band 0.1 + composite", "noise mask + composite", ("seam",)),
    ("band 0 + composite", "noise mask + composite", ("seam",)),
    ("band 0, wider + composite", "noise mask, wider + composite", ("seam",)),
    ("band 0.1, wider + composite", "band 0.1 + composite", ("seam",)),
    ("band 0.1 + composite, feather 4", "band 0.1 + composite", ("seam",)),
    ("SMS guidance, band 0.1 + composite", "SMS guidance + composite", ("seam",)),
)
N = PHOTOS
INTRODUCTION = f"""# Protected regions: evidence on the pocket model

Made by `benchmarks/evidence/run.py protection` from the shipped weights; the same command makes the same table. {N}
photographs that no training saw, each with a drawn sign of its own words, colours, size and place, each in
{STYLES_EACH} of three styles; {SIZE[0]}x{SIZE[1]}, CPU. The mask is the sign, off the latent's cells.
Image to image with the style's LoRA at denoise {SAMPLING["denoise"]:g}, {SAMPLING["steps"]} steps, CFG
{SAMPLING["cfg"]:g}; *SMS guidance* with strength {GUIDANCE:g}, {GUIDED["steps"]} steps, CFG {GUIDED["cfg"]:g}, at the
same denoise. *noise mask* is the stock *Set Latent Noise Mask* with the sign kept. *wider*: the mask is drawn
{WIDER} pixels larger than the sign on each side. A *composite* is of the sign alone, with feather 0 unless it is named.

- Inside the sign, against the photograph: **structure**, **edges**, **legibility**, higher keeps more, 1 is the photo
  itself; **color change** in Delta E, lower keeps more. **tone**: how far the sign's mean colour is from what the style
  makes of it without protection, CIELAB units; lower follows the style.
- More than {FAR} pixels from the sign, where the texture ruler hardly sees it: progress towards the exemplars in
  **color far**, **texture far** and their mean, **style far**; 0 is the photograph through the VAE, 1 the style.
- **change outside**: Delta E between this and the run without protection, everywhere outside the sign.
- **seam** of a composite: the step across its border over the mean of those that photograph and styled picture have
  there; 1 shows no more than they do.
- *photo itself* and *VAE only* are the anchors. No ruler is a network, and none reads: legibility compares strokes.
"""


def summary(kept: Mapping[str, Kept]) -> dict:
    """Means, seams of composites, paired differences, and how many signs cannot be read."""
    (cells,) = kept.values()
    methods = dict.fromkeys(method for _, method in cells)
    seams = means(cells, [method for method in methods if "composite" in method], ("seam",))
    rows = {method: row | seams.get(method, {}) for method, row in means(cells, methods, RULERS).items()}
    illegible = {
        method: sum(row["legibility"] < LEGIBLE for (_, name), row in cells.items() if name == method)
        for method in GUIDED_METHODS
    }
    return {"means": rows, "pairs": pairs(cells, PAIRS), "illegible": illegible}


def text(record: Mapping) -> str:
    """The page."""
    rows = record["means"]
    return joined(
        INTRODUCTION,
        table(rows, RULERS),
        table({method: row for method, row in rows.items() if "seam" in row}, ("seam",)),
        paired(record["pairs"]),
        "![Sheet](images/protection_sheet.jpg)",
        reading(READING, Figures(record)),
    )


def pictures(record: Mapping, cells: Mapping[str, Cells], folder: Path) -> None:
    """The sheet."""
    cells["protection"].sheet(SHOWN, SHOWN_CASES, folder / "protection_sheet.jpg")


GUIDED_METHODS = ("SMS guidance", "SMS guidance, band 0.1")
FREE, BAND, STOCK = "without protection", "band 0.1", "noise mask"
COMPOSITE = " + composite"
COUNTS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "all")


def _sampled(f: Figures) -> list[str]:
    """Methods of image to image, without the composites of them."""
    beside = ("photo itself", "VAE only", *GUIDED_METHODS)
    return [name for name in f.record["means"] if COMPOSITE not in name and name not in beside]


def _outside(f: Figures, wider: bool) -> list[float]:
    held = [name for name in _sampled(f) if name != FREE and ("wider" in name) == wider]
    return [f(name, "change outside") for name in held]


READING = (
    Claim(
        """
- Without protection signs are gone after image to image at this denoise; the best of twelve can be guessed. With *band*
  0.1 all can be read, nearly as well as after the VAE alone, and their tone goes three quarters of the way to what the
  style makes of the place.
""",
        {
            "signs are gone": lambda f: f(FREE, "legibility") < LEGIBLE,
            "nearly as well as after the VAE alone": lambda f: abs(f.change(BAND, "VAE only", "legibility")) < 0.05,
            "three quarters of the way": lambda f: abs(1 - f(BAND, "tone") / f("VAE only", "tone") - 0.75) < 0.05,
        },
    ),
    Claim(
        """
- *band* is the knob that it should be: 0 leaves the sign as it was; 0.25 is nearer to the style's tone than 0.1 and
  costs structure, but hardly legibility, on letters of 22 to 42 pixels. Smaller ones were not tried.
""",
        {
            "0 leaves the sign as it was": lambda f: (
                abs(f("band 0", "tone") - f("VAE only", "tone")) < 1
                and abs(f("band 0", "legibility") - f("VAE only", "legibility")) < 0.01
            ),
            "0.25 is nearer to the style's tone than 0.1": lambda f: f.sign("band 0.25", BAND, "tone") < 0,
            "costs structure": lambda f: f.sign("band 0.25", BAND, "structure") < 0,
            "hardly legibility": lambda f: abs(f.change("band 0.25", BAND, "legibility")) < 0.05,
        },
    ),
    Claim(
        """
- The stock *Set Latent Noise Mask* does what *band* 0 does: with a mask a cell wider than the sign the two are equal
  within 0.001 in structure, edges, legibility and seam. With the sign itself as mask it loses rims, since a cell counts
  by the mask at its centre alone. What the node adds is the tone; to hold all, the stock one with a wider mask will do.
""",
        {
            "within 0.001 in structure, edges, legibility and seam": lambda f: all(
                abs(round(change, 3)) <= 0.001
                for change in (
                    *(
                        f.change("band 0, wider", "noise mask, wider", ruler)
                        for ruler in ("structure", "edges", "legibility")
                    ),
                    f.change(f"band 0, wider{COMPOSITE}", f"noise mask, wider{COMPOSITE}", "seam"),
                )
            ),
            "it loses rims": lambda f: f.sign("band 0", STOCK, "edges") > 0,
            "What the node adds is the tone": lambda f: f.sign(BAND, STOCK, "tone") < 0,
        },
    ),
    Claim(
        """
- None of them takes style from the rest: far from the sign progress is the same within 0.01, and outside as a whole the
  change is about 1 Delta E, just visible, and about 2 with wider masks.
""",
        {
            "far from the sign progress is the same within 0.01": lambda f: (
                max(abs(f(name, "style far") - f(FREE, "style far")) for name in _sampled(f)) <= 0.01
            ),
            "about 1 Delta E": lambda f: all(0.5 < value < 1.5 for value in _outside(f, wider=False)),
            "about 2 with wider masks": lambda f: all(1.5 < value < 2.5 for value in _outside(f, wider=True)),
        },
    ),
    Claim(
        """
- Wider masks keep the sign's rim better, and more of its own tone, since the tone that is free is then that of the sign
  and of what surrounds it together.
""",
        {
            "keep the sign's rim better": lambda f: f.sign("band 0.1, wider", BAND, "edges") > 0,
            "more of its own tone": lambda f: f.sign("band 0.1, wider", BAND, "tone") > 0,
        },
    ),
    Claim(
        """
- *SMS guidance* leaves most signs readable by itself ({n} of twelve are below 0.5); with *band* 0.1 all are. The seam
  of the composite is not clearly smaller for it there.
""",
        {
            "leaves most signs readable": lambda f: f.record["illegible"]["SMS guidance"] < CASES / 2,
            "with *band* 0.1 all are": lambda f: f.record["illegible"]["SMS guidance, band 0.1"] == 0,
            "The seam\n  of the composite is not clearly smaller": lambda f: (
                f.sign(f"SMS guidance, band 0.1{COMPOSITE}", f"SMS guidance{COMPOSITE}", "seam") >= 0
            ),
        },
        {"n": lambda f: COUNTS[f.record["illegible"]["SMS guidance"]]},
    ),
    Claim(
        """
- For the exact composite *band* 0 fits best (or a wider noise mask): no step beyond those that were there. After *band*
  0.1 the surroundings were made for a sign of another tone; its seam lies between that and no protection.
""",
        {
            "*band* 0 fits best (or a wider noise mask)": lambda f: (
                f.sign(f"band 0{COMPOSITE}", f"{FREE}{COMPOSITE}", "seam") < 0
                and f.sign(f"band 0{COMPOSITE}", f"{STOCK}{COMPOSITE}", "seam") < 0
            ),
            "no step beyond those that were there": lambda f: (
                max(f(f"band 0{COMPOSITE}", "seam"), f(f"noise mask, wider{COMPOSITE}", "seam")) <= 1
            ),
            "its seam lies between that and no protection": lambda f: (
                f(f"band 0{COMPOSITE}", "seam") < f(f"{BAND}{COMPOSITE}", "seam") < f(f"{FREE}{COMPOSITE}", "seam")
            ),
        },
    ),
    Claim(
        """
- *feather* 4 is wrong for signs with an edge of their own: it shows a rim of the photograph's ground around them. The
  higher seam is the sign's own edge, which the styled picture has less of.
""",
        {"The\n  higher seam": lambda f: f.sign(f"{BAND}{COMPOSITE}, feather 4", f"{BAND}{COMPOSITE}", "seam") > 0},
    ),
    Claim(
        """
- Composites are exact inside; structure and edges below 1 there come from windows that reach over the border.
""",
        {
            "exact inside": lambda f: all(
                row["color change"] < 0.005 for name, row in f.record["means"].items() if name.endswith(COMPOSITE)
            )
        },
    ),
    Claim(
        """
- Texture goes away from the style in image to image, with and without protection: photographs come out coarse in this
  small model. The signs are drawn, flat and frontal; faces and lettering in perspective were not tried.
""",
        {
            "goes away from the style in image to image, with and without protection": lambda f: (
                max(f(name, "texture far") for name in _sampled(f)) < 0
            )
        },
    ),
)
