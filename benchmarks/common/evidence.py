"""An evidence: cases by methods, made in one loop, and the page that is written of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from PIL import Image

from .case import Case
from .cells import Cells, Record
from .host import ROOT, comfy_tree, timed
from .report import write

KEPT = comfy_tree.HOST / "evidence"
CASES = 256
"""At most so many cases stay in memory."""

Method = Callable[[Case], Image.Image | list[Image.Image]]


class Comparison(ABC):
    """Cases by methods.

    Args:
        folder: below ``.host/evidence``, where the cells are kept.
        methods: by their names.
        cases: how many.
    """

    def __init__(self, folder: str, methods: Mapping[str, Method], cases: int):
        self.methods = methods
        self.cells = Cells(KEPT / folder, tuple(methods), cases)
        self.case_of = lru_cache(maxsize=CASES)(self.case)

    @abstractmethod
    def case(self, number: int) -> Case:
        """One of the cases."""

    @abstractmethod
    def measured(self, case: Case, method: str, pictures: list[Image.Image]) -> Record:
        """What the rulers say of the pictures of a cell."""

    def run(self, case: Case, method: str) -> tuple[list[Image.Image], Record]:
        """The pictures of a cell, and what is known of them but for the rulers."""
        made = self.methods[method](case)
        return self.strip(case, made if isinstance(made, list) else [made]), {}

    def strip(self, case: Case, made: list[Image.Image]) -> list[Image.Image]:
        """What is kept of a cell: the pictures that were made, and what stands beside them."""
        return made

    def wanted(self, methods: Iterable[str] = (), numbers: Sequence[int] = ()) -> Iterator[tuple[int, str]]:
        """(case, method) of the cells to make; all where nothing is named."""
        for method in methods or self.methods:
            yield from ((number, method) for number in numbers or range(self.cells.cases) if self.has(number, method))

    def has(self, number: int, method: str) -> bool:
        """Whether a cell is part of the evidence."""
        return True

    def missing(self) -> list[tuple[int, str]]:
        """Cells that are not kept yet."""
        return [(number, method) for number, method in self.wanted() if self.cells.record_of(number, method) is None]

    def make(self, methods: Iterable[str] = (), numbers: Sequence[int] = ()) -> None:
        """Make the cells that are not kept yet, method by method: what a method needs of those before it is there."""
        for method in methods or self.methods:
            self.cells.make(self.wanted([method], numbers), self._made)

    def _made(self, number: int, method: str) -> tuple[list[Image.Image], Record]:
        case = self.case_of(number)
        case.host.rows = 0
        (pictures, known), seconds = timed(lambda: self.run(case, method))
        rows = {"model rows": case.host.rows, "seconds": seconds}
        return pictures, {**self.measured(case, method, pictures), **rows, **known}

    def measure(self) -> None:
        """Take the rulers anew on what is kept."""
        self.cells.measure(lambda number, method, pictures: self.measured(self.case_of(number), method, pictures))


class Evidence:
    """Comparisons, and the page that is written of them.

    Args:
        page: its module, as :mod:`.report` describes it.
        comparisons: by name.
    """

    def __init__(self, page, comparisons: Mapping[str, Comparison]):
        self.page, self.comparisons = page, comparisons

    def more(self) -> None:
        """What is measured beside the cells."""

    def summary(self) -> dict:
        """What is kept, in sums."""
        return self.page.summary({name: comparison.cells.records() for name, comparison in self.comparisons.items()})

    def write(self) -> str:
        """Write the page, its record and its pictures into docs/; returns the text, or what keeps it from that."""
        missing = sum(len(comparison.missing()) for comparison in self.comparisons.values())
        if missing:
            return f"{missing} cells are not made yet: docs/{self.page.STEM}.md stays as it is."
        cells = {name: comparison.cells for name, comparison in self.comparisons.items()}
        return write(self.page, self.summary(), cells, ROOT / "docs")
