"""The page on compatibility names tests that are there, and says one of four things in every cell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
COLUMNS = ["SMS", "Guidance", "Holds", "Shared Attention", "Injector", "Regions"]
CELL = re.compile(r"(?:tested|refused): `(?P<test>test_\w+)`|not looked at|—")


def rows(text: str) -> dict[str, list[str]]:
    """Cells by situation, from the page's one table."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert split[0] == ["", *COLUMNS]
    return {name: cells for name, *cells in split[2:]}


def known_tests() -> set[str]:
    """Names of all test functions."""
    found = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def check(text: str, known: set[str]) -> None:
    for name, cells in rows(text).items():
        assert len(cells) == len(COLUMNS), name
        for column, cell in zip(COLUMNS, cells, strict=True):
            match = CELL.fullmatch(cell)
            assert match, f"{name}, {column}: {cell!r}"
            assert match["test"] is None or match["test"] in known, f"{name}, {column}: there is no {match['test']}"


def test_every_cell_says_what_it_rests_on():
    text = PAGE.read_text(encoding="utf-8")
    assert len(rows(text)) >= 30
    check(text, known_tests())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tested: `test_", "tested: `test_gone_"),
        ("| not looked at |", "| works |"),
        (" | Regions |", " |"),
        ("refused: `test_network_that_gives_nan`", "refused"),
    ],
)
def test_a_page_that_claims_more_is_noticed(old, new):
    text = PAGE.read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(AssertionError):
        check(text.replace(old, new, 1), known_tests())
