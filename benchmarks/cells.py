"""Cells of an evidence: one case by one method, made once, kept as pictures and a record, and made into tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from intervals import interval
from PIL import Image, ImageDraw, ImageFont
from pocket_host import say

Record = dict[str, float]
Kept = Mapping[tuple[int, str], Record]


@dataclass(frozen=True)
class Cells:
    """Where cells are kept; that folder is to be removed after the weights changed.

    Attributes:
        folder: of all of them.
        methods: names.
        cases: how many.
    """

    folder: Path
    methods: tuple[str, ...]
    cases: int

    def path_of(self, number: int, method: str) -> Path:
        """The strip of a cell; its record lies beside it."""
        name = method.replace(",", "").replace(" + ", "_with_").replace(" ", "_")
        return self.folder / name / f"{number:02d}.png"

    def make(self, methods: Iterable[str], run: Callable[[int, str], tuple[list[Image.Image], Record]]) -> None:
        """Make the cells that are not kept yet."""
        missing = [
            (number, method)
            for method in methods
            for number in range(self.cases)
            if not self.path_of(number, method).with_suffix(".json").is_file()
        ]
        for count, (number, method) in enumerate(missing, 1):
            path = self.path_of(number, method)
            if path.with_suffix(".json").is_file():
                continue  # another process has made it meanwhile
            pictures, record = run(number, method)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures], 1)).save(path)
            path.with_suffix(".json").write_text(json.dumps(record) + "\n", encoding="utf-8")
            say(f"{count}/{len(missing)} {method} {number}")

    def measure(
        self, measured: Callable[[int, list[Image.Image]], Record], width: int, only: Container | None = None
    ) -> None:
        """Take rulers anew on what is kept, after they changed.

        Args:
            width: of one picture of a strip.
            only: these (case, method); None is all.
        """
        for number, method in self.records():
            if only is not None and (number, method) not in only:
                continue
            path = self.path_of(number, method)
            with Image.open(path) as strip:
                whole = strip.convert("RGB")
            parts = [whole.crop((left, 0, left + width, whole.height)) for left in range(0, whole.width, width)]
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) | measured(number, parts)
            path.with_suffix(".json").write_text(json.dumps(record) + "\n", encoding="utf-8")

    def records(self) -> dict[tuple[int, str], Record]:
        """What is kept, by (case, method)."""
        found = {}
        for method in self.methods:
            for number in range(self.cases):
                path = self.path_of(number, method).with_suffix(".json")
                if path.is_file():
                    found[number, method] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def sheet(self, methods: Sequence[str], numbers: Sequence[int], path: Path, larger: int = 1) -> bool:
        """Strips of some cases, a line for each method; False where one is not kept yet."""
        cells = {(number, method): self.path_of(number, method) for number in numbers for method in methods}
        if not all(cell.is_file() for cell in cells.values()):
            return False
        strips = {}
        for key, cell in cells.items():
            with Image.open(cell) as one:
                strips[key] = one.convert("RGB").resize((one.width * larger, one.height * larger), Image.LANCZOS)
        widths = [max(strips[number, method].width for method in methods) for number in numbers]
        height = next(iter(strips.values())).height
        line, gap = 20, 12
        canvas = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), len(methods) * (height + line)), "white")
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
        for place, method in enumerate(methods):
            draw.text((4, place * (height + line) + 3), method, fill="black", font=font)
            left = 0
            for number, width in zip(numbers, widths, strict=True):
                canvas.paste(strips[number, method], (left, place * (height + line) + line))
                left += width + gap
        canvas.save(path, quality=85)
        return True


def means(kept: Kept, methods: Iterable[str], rulers: Sequence[str]) -> dict[str, Record]:
    """By method, over its cases; the number of those as ``cases``."""
    found = {}
    for method in methods:
        rows = [row for (_, name), row in kept.items() if name == method]
        if rows:
            found[method] = {key: float(np.mean([row[key] for row in rows])) for key in rulers} | {"cases": len(rows)}
    return found


def table(rows: Mapping[str, Record], rulers: Sequence[str]) -> str:
    """Means as Markdown."""
    lines = ["| " + " | ".join(["method", "cases", *rulers]) + " |", "|" + "---|" * (len(rulers) + 2)]
    for method, row in rows.items():
        values = [f"{row[key]:.2f}" if abs(row[key]) < 100 else f"{row[key]:.0f}" for key in rulers]
        lines.append(f"| {method} | {row['cases']:.0f} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def paired(kept: Kept, pairs: Iterable[tuple[str, str, Sequence[str]]]) -> str:
    """Differences of two methods over their common cases, with bootstrap intervals, as Markdown."""
    lines = ["| first | second | ruler | mean difference | 95 % interval | cases |", "|---|---|---|---|---|---|"]
    for first, second, rulers in pairs:
        numbers = [number for number, method in kept if method == first and (number, second) in kept]
        for ruler in rulers if len(numbers) > 1 else ():
            differences = np.array([kept[n, first][ruler] - kept[n, second][ruler] for n in numbers])
            low, high = interval(differences)
            cells = f"{differences.mean():+.3f} | {low:+.3f} to {high:+.3f} | {len(numbers)}"
            lines.append(f"| {first} | {second} | {ruler} | {cells} |")
    return "Paired differences, first minus second:\n\n" + "\n".join(lines)


def command(doc: str, methods: Sequence[str], make: Callable[[list[str]], None], report: Callable[[], None]) -> None:
    """The command line of a script that makes cells and then reports on what is kept."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(methods), choices=list(methods))
    parser.add_argument("--only", choices=("cells", "report"), help="one half of the work; default both")
    chosen = parser.parse_args()
    if chosen.only != "report":
        make(chosen.methods)
    if chosen.only != "cells":
        report()
