"""Cells of an evidence: one case by one method, made once and kept as pictures and a record."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

Record = dict[str, float]
Kept = Mapping[tuple[int, str], Record]
"""Records by (case, method)."""

WIDTHS = "widths"
"""Of the pictures of a strip, in its file."""


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


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

    def record_of(self, number: int, method: str) -> Record | None:
        """The record of a cell; None where it is not kept yet."""
        path = self.path_of(number, method).with_suffix(".json")
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def pictures_of(self, number: int, method: str) -> list[Image.Image]:
        """The pictures of a kept cell."""
        with Image.open(self.path_of(number, method)) as file:
            widths, whole = json.loads(file.text[WIDTHS]), file.convert("RGB")
        ends = np.cumsum(widths).tolist()
        return [whole.crop((end - width, 0, end, whole.height)) for width, end in zip(widths, ends, strict=True)]

    def make(
        self, wanted: Iterable[tuple[int, str]], run: Callable[[int, str], tuple[list[Image.Image], Record]]
    ) -> None:
        """Make the cells that are not kept yet."""
        missing = [(number, method) for number, method in wanted if self.record_of(number, method) is None]
        for count, (number, method) in enumerate(missing, 1):
            if self.record_of(number, method) is not None:
                continue  # another process has made it meanwhile
            pictures, record = run(number, method)
            self._keep(number, method, pictures, record)
            say(f"{count}/{len(missing)} {method} {number}")

    def _keep(self, number: int, method: str, pictures: list[Image.Image], record: Record) -> None:
        path, widths = self.path_of(number, method), PngInfo()
        widths.add_text(WIDTHS, json.dumps([picture.width for picture in pictures]))
        path.parent.mkdir(parents=True, exist_ok=True)
        strip = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures], 1))
        strip.save(path, pnginfo=widths)
        self._write(path, record)

    @staticmethod
    def _write(path: Path, record: Record) -> None:
        """The record last and at once, since a cell with a record counts as made."""
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(record) + "\n", encoding="utf-8")
        draft.replace(path.with_suffix(".json"))

    def measure(self, measured: Callable[[int, str, list[Image.Image]], Record], only: Container | None = None) -> None:
        """Take rulers anew on what is kept, after they changed.

        Args:
            only: these (case, method); None is all.
        """
        for (number, method), record in self.records().items():
            if only is None or (number, method) in only:
                values = measured(number, method, self.pictures_of(number, method))
                self._write(self.path_of(number, method), record | values)

    def records(self) -> dict[tuple[int, str], Record]:
        """What is kept, by (case, method)."""
        return dict(self._records())

    def _records(self) -> Iterator[tuple[tuple[int, str], Record]]:
        for method in self.methods:
            for number in range(self.cases):
                record = self.record_of(number, method)
                if record is not None:
                    yield (number, method), record

    def sheet(self, methods: Sequence[str], numbers: Sequence[int], path: Path, larger: int = 1) -> bool:
        """Strips of some cases, a line for each method; False where one is not kept yet."""
        cells = {(number, method): self.path_of(number, method) for number in numbers for method in methods}
        if not all(cell.is_file() for cell in cells.values()):
            return False
        strips = {}
        for key, cell in cells.items():
            with Image.open(cell) as file:
                strip = file.convert("RGB")
            strips[key] = strip.resize((strip.width * larger, strip.height * larger), Image.LANCZOS)
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
