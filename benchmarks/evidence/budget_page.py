"""The page of the content budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..common.cells import Cells, Kept
from ..common.intervals import interval
from ..common.report import Claim, Figures, grid, joined, reading

STEM = "budget_evidence"
CASES, GRID, BISECTIONS = 12, 5, 3
LIMITS = {
    "guidance": "structure >= 0.7",
    "SMS, 10 iterations": "structure >= 0.7",
    "injector": "edges >= 0.7",
    "shared attention": "edges >= 0.7",
    "injector and shared attention": "edges >= 0.7, shift < 0.5 px",
}
"""By form; chosen before anything was run."""

COMMON = "at one strength for all"
INTRODUCTION = f"""# Content budget: evidence on the pocket model

Made by `benchmarks/evidence/run.py budget` from the shipped weights; the same command makes the same table. The twelve
photographs of samples/photos, one style or painting each, searched as the node does with a grid of {GRID} and
{BISECTIONS} bisections. Limits were chosen before anything was run, on none of these photographs; the photograph itself
is the content.

- **found**: photographs with a setting above 0 that holds; the other numbers are of those. **kept**: share whose limit
  still holds when the result is made again without the dial, by nodes of that strength, and measured again from 8-bit
  pictures.
- **strength**: the factor found, mean and range.
- **style**: mean of the ways to the style in colour and in texture, 0 the photograph, 1 the style's centre; at the
  budget's own strengths, at strength 1 with the share of photographs that keep the limit there, and at the strongest
  strength that keeps it on all of them (*one for all*; it is known only after every photograph was searched).
- **monotone**: share of curves without a turn. **runs**: mean number a photograph.
"""


def summary(kept: Mapping[str, Kept]) -> dict:
    """The numbers of every form whose cells are all kept."""
    cells = {key: row for records in kept.values() for key, row in records.items()}
    return {name: row for name in LIMITS if (row := _row(name, cells)) is not None}


def common_strength(kept: Kept, name: str) -> float | None:
    """The strongest one that keeps the limit wherever any above 0 does; None until all photographs are kept."""
    rows = [kept[number, name] for number in range(CASES) if (number, name) in kept]
    strengths = [row["strength"] for row in rows if row["strength"] > 0]
    return min(strengths) if len(rows) == CASES and strengths else None


def _row(name: str, kept: Kept) -> dict | None:
    """The numbers of a form, over the photographs that can be stylized; None until all cells are kept."""
    if common_strength(kept, name) is None:
        return None
    common, searched = f"{name} {COMMON}", [kept[number, name] for number in range(CASES)]
    numbers = [number for number, row in enumerate(searched) if row["strength"] > 0]
    if any((number, common) not in kept for number in numbers):
        return None
    own, fixed = [searched[number] for number in numbers], [kept[number, common] for number in numbers]
    strengths = [row["strength"] for row in own]
    gain = np.array([row["style"] - same["style"] for row, same in zip(own, fixed, strict=True)])
    return {
        "limits": LIMITS[name],
        "found": len(own),
        "only at 0": sum(row["found"] == 1 and row["strength"] == 0 for row in searched),
        "kept": _mean(own, "holds"),
        "strength": float(np.mean(strengths)),
        "range": [min(strengths), max(strengths)],
        "style": _mean(own, "style"),
        "style at 1": _mean(own, "style at 1"),
        "kept at 1": _mean(own, "holds at 1"),
        "one for all": fixed[0]["strength"],
        "style, one for all": _mean(fixed, "style"),
        "kept, one for all": _mean(fixed, "holds"),
        "gain": float(gain.mean()),
        "interval": list(interval(gain)),
        "monotone": _mean(searched, "monotone"),
        "runs": _mean(searched, "runs"),
    }


def _mean(rows: list[dict], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def tables(rows: Mapping[str, Mapping]) -> list[str]:
    """What was found, and what it is worth, as Markdown."""
    settings, worth = [], []
    for name, row in rows.items():
        (low, high), (least, most) = row["range"], row["interval"]
        settings.append(
            [
                *(name, row["limits"], f"{row['found']} of {CASES}", f"{row['kept']:.0%}"),
                *(f"{row['strength']:.2f} ({low:.2f} to {high:.2f})", f"{row['monotone']:.0%}", f"{row['runs']:.1f}"),
            ]
        )
        worth.append(
            [
                *(name, f"{row['style']:.3f}", f"{row['style at 1']:.3f} ({row['kept at 1']:.0%})"),
                f"{row['style, one for all']:.3f} ({row['one for all']:.2f})",
                *(f"{row['gain']:+.3f}", f"{least:+.3f} to {most:+.3f}"),
            ]
        )
    heads = (
        ("form", "limits", "found", "kept", "strength", "monotone", "runs"),
        ("form", "style, budget", "at strength 1 (kept)", "one for all (strength)", "budget - one for all", "95 %"),
    )
    return [grid(head, rows) for head, rows in zip(heads, (settings, worth), strict=True)]


def text(record: Mapping) -> str:
    """The page."""
    words = "Photograph and result; at the budget, that strength again without the dial"
    return joined(
        INTRODUCTION,
        *tables(record),
        f"{words}:\n\n![Sheet](images/budget_sheet.jpg)",
        reading(READING, Figures(record)),
    )


def pictures(record: Mapping, cells: Mapping[str, Cells], folder: Path) -> None:
    """The sheet."""
    methods = [method for method in cells["photographs"].methods if method.removesuffix(f" {COMMON}") in record]
    if methods:
        cells["photographs"].sheet(methods, (2, 8), folder / "budget_sheet.jpg")


BOTH = "injector and shared attention"
READING = (
    Claim(
        """
- **The limit is kept**: at every setting found, also when the result is made again without the dial. At strength 1
  guidance keeps it on {kept} % of the photographs only.
""",
        {"at every setting found": lambda f: all(row["kept"] == 1 for row in f.record.values())},
        {"kept": lambda f: f"{100 * f.record['guidance']['kept at 1']:.0f}"},
    ),
    Claim(
        """
- **A strength for each photograph gives more style at the same guarantee** where style grows with strength: guidance,
  shared attention, and the injector. The gains of guidance and of shared attention alone are small, and the interval of
  guidance nearly reaches 0.
""",
        {
            "guidance,\n  shared attention, and the injector": lambda f: all(
                f.record[name]["interval"][0] > 0 for name in ("guidance", "shared attention", "injector")
            ),
            "The gains of guidance and of shared attention alone are small": lambda f: (
                max(f.record[name]["gain"] for name in ("guidance", "shared attention"))
                < 0.05
                < f.record["injector"]["gain"]
            ),
            "the interval of\n  guidance nearly reaches 0": lambda f: f.record["guidance"]["interval"][0] < 0.01,
        },
    ),
    Claim(
        """
- **It does not for Style Matching Score**: on this model its style is less at the strengths found than at {one}, while
  structure still holds. The node looks for the strongest setting, not for the one nearest to the style; the second
  curve shows where it stops being worth it.
""",
        {
            "its style is less at the strengths found": lambda f: f.record["SMS, 10 iterations"]["interval"][1] < 0,
            "structure still holds": lambda f: f.record["SMS, 10 iterations"]["kept"] == 1,
        },
        {"one": lambda f: f"{f.record['SMS, 10 iterations']['one for all']:g}"},
    ),
    Claim(
        """
- On some photographs nothing holds under the ControlNet: the run itself loses their edges before any style. {alone}
  photograph holds both limits of the combination at strength 0 alone.
""",
        {
            "On some photographs nothing holds under the ControlNet": lambda f: (
                max(f.record[name]["found"] for name in ("injector", "shared attention", BOTH)) < CASES
            ),
            "holds both limits of the combination at strength 0 alone": lambda f: f.record[BOTH]["only at 0"] == 1,
        },
        {"alone": lambda f: {1: "One"}.get(f.record[BOTH]["only at 0"], str(f.record[BOTH]["only at 0"]))},
    ),
    Claim(
        """
- The curves of guidance and of Style Matching Score are monotone. Those of the combination, which has
  two limits, often turn. *One for all* is known with hindsight only.
""",
        {
            "The curves of guidance and of Style Matching Score are monotone": lambda f: (
                f.record["guidance"]["monotone"] == f.record["SMS, 10 iterations"]["monotone"] == 1
            ),
            "often turn": lambda f: f.record[BOTH]["monotone"] <= 0.75,
        },
    ),
    Claim(
        """
- Style below 0: the autoencoder and the denoiser of drawings alone take photographs away from the textures of their
  paintings; what counts are the differences.
""",
        {"Style below 0": lambda f: f.record["injector"]["style"] < 0 and f.record["shared attention"]["style"] < 0},
    ),
)
