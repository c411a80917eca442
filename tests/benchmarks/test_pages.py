"""The pages of docs/: what they say follows from the figures beside them."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = ("operators", "sms", "budget", "holistic", "protection", "regions", "shared_attention")


@pytest.fixture(scope="module")
def page(benchmarks):
    return lambda name: benchmarks.module("evidence.registry").page_of(name)


@pytest.fixture(scope="module")
def report(benchmarks):
    return benchmarks.module("common.report")


def record_of(page) -> dict:
    return json.loads((DOCS / f"{page.STEM}.json").read_text(encoding="utf-8"))


def claims(page) -> Iterator[tuple]:
    """(claim, phrase, when it holds) of a page's reading."""
    for claim in page.READING:
        yield from ((claim, phrase, holds) for phrase, holds in claim.phrases.items())


def figures(page, record):
    """As the page's reading is given them."""
    return page.Both(record) if hasattr(page, "Both") else page.Figures(record)


def test_the_names_are_those_of_the_command(benchmarks):
    assert benchmarks.module("evidence.registry").EVIDENCES == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_what_its_record_gives(page, name):
    text = (DOCS / f"{page(name).STEM}.md").read_text(encoding="utf-8")
    assert page(name).text(record_of(page(name))) == text


@pytest.mark.parametrize("name", NAMES)
def test_no_sentence_of_a_page_contradicts_its_figures(page, report, name):
    found = figures(page(name), record_of(page(name)))
    assert [phrase for _, phrase, holds in claims(page(name)) if not holds(found)] == []
    assert report.CONTRADICTION not in (DOCS / f"{page(name).STEM}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_phrase_that_is_checked_stands_in_its_sentence(page, name):
    assert [phrase for claim, phrase, _ in claims(page(name)) if phrase not in claim.text] == []


def test_pages_need_no_model_and_what_is_common_no_evidence():
    """A page may import what is common and needs no ComfyUI, and what lies beside it of the same kind."""
    folder = DOCS.parent / "benchmarks"
    pure = {"cells", "intervals", "report", "trade_off", "training_sizes"}

    def imported(path: Path) -> set[tuple[int, str]]:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        return {(node.level, node.module or "") for node in nodes if isinstance(node, ast.ImportFrom) and node.level}

    kinds = ("*_page.py", "*_reading.py", "*_compared.py")
    pages = [path for kind in kinds for path in (folder / "evidence").glob(kind)]
    assert len(pages) == len(NAMES) + 2
    for path in pages:
        for level, module in imported(path):
            beside = level == 1 and module.endswith(("_reading", "_compared"))
            common = level == 2 and module.split(".")[0] == "common" and module.split(".")[1] in pure
            assert beside or common or module == "load", f"{path.name} imports {module}"
    for path in (folder / "common").glob("*.py"):
        for level, module in imported(path):
            assert level == 1, f"common/{path.name} imports {module}"
            assert path.stem not in pure or module in pure, f"common/{path.name} imports {module}, which needs ComfyUI"


# -- that the checks can fail ------------------------------------------------------------------------------------------


def disturbed(record: dict, seed: int) -> dict:
    """Rows of means exchanged among the methods, signs of differences drawn anew."""
    random, record = np.random.default_rng(seed), copy.deepcopy(record)

    def exchange(rows: dict) -> None:
        for ruler in sorted({ruler for row in rows.values() for ruler in row}):
            names = [name for name, row in rows.items() if ruler in row]
            values = [rows[name][ruler] for name in names]
            if not all(isinstance(value, (int, float)) for value in values):
                continue
            for name, place in zip(names, random.permutation(len(names)), strict=True):
                rows[name][ruler] = values[place] * float(random.choice([-1.0, 0.2, 1.0, 3.0]))

    def turn(row: dict) -> None:
        if {"low", "high", "mean"} <= set(row):
            middle = float(random.choice([-40, -0.4, 0, 0.4, 40]))
            row.update(mean=middle, low=middle - 0.1, high=middle + 0.1)
        if "interval" in row:
            middle = float(random.choice([-0.2, 0, 0.2]))
            row.update(interval=[middle - 0.05, middle + 0.05], gain=middle)
            row.update(found=int(random.choice([6, 12])), kept=float(random.choice([0.5, 1])))

    def walk(part) -> None:
        if isinstance(part, dict):
            turn(part)
            if len(part) > 1 and all(isinstance(row, dict) for row in part.values()):
                exchange(part)
        for value in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            walk(value)

    walk(record)
    if "illegible" in record:
        record["illegible"] = {method: 12 - count for method, count in record["illegible"].items()}
    return record


@pytest.mark.parametrize("name", NAMES)
def test_every_check_of_a_sentence_can_fail(page, name):
    """Among figures that are drawn at random there are some that contradict it."""
    own, seen = record_of(page(name)), set()
    for seed in range(60):
        found = figures(page(name), disturbed(own, seed))
        for _, phrase, holds in claims(page(name)):
            try:
                if not holds(found):
                    seen.add(phrase)
            except ZeroDivisionError:
                continue
    assert {phrase for _, phrase, _ in claims(page(name))} - seen == set()


def test_a_page_says_which_sentence_its_figures_contradict(page, report):
    record = record_of(page("regions"))
    turned = next(row for row in record["pairs"] if row["first"] == "holistic" and row["ruler"] == "own color")
    turned.update(mean=-turned["mean"], low=-turned["high"], high=-turned["low"])
    text = page("regions").text(record)
    assert text.count(report.CONTRADICTION) == 1
    assert f'{report.CONTRADICTION} "the latter brings more of the palette".' in text


def test_what_the_regularizer_does_under_guidance_is_said_from_the_table(page):
    """It was said to keep the layout, where the table said the opposite."""
    record = record_of(page("operators"))
    rows = record["photographs"]["means"]
    assert rows["SMS guidance, held, 1"]["low_band"] > rows["SMS guidance, 1"]["low_band"]
    assert "under guidance it loses more of it" in page("operators").text(record)
    for strength in (1, 2, 3):
        rows[f"SMS guidance, held, {strength}"]["low_band"] = rows[f"SMS guidance, {strength}"]["low_band"] - 0.1
    assert "under guidance it keeps it" in page("operators").text(record)


# -- sums --------------------------------------------------------------------------------------------------------------


def kept(methods=("a", "b", "c"), cases=6, rulers=("x", "y")):
    random = np.random.default_rng(3)
    return {(n, m): {ruler: float(random.normal()) for ruler in rulers} for m in methods for n in range(cases)}


def test_means_and_paired_differences_are_over_common_cases(report):
    records = kept()
    del records[4, "b"]
    rows = report.means(records, ("a", "b", "none"), ("x",))
    assert set(rows) == {"a", "b"} and rows["b"]["cases"] == 5
    assert rows["a"]["x"] == pytest.approx(sum(records[n, "a"]["x"] for n in range(6)) / 6)
    (row,) = report.pairs(records, [("a", "b", ("y",))])
    differences = [records[n, "a"]["y"] - records[n, "b"]["y"] for n in (0, 1, 2, 3, 5)]
    assert row["mean"] == pytest.approx(sum(differences) / 5) and row["cases"] == 5
    assert min(differences) < row["low"] < row["mean"] < row["high"] < max(differences)


def test_intervals_are_those_of_the_bootstrap(benchmarks):
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).normal(0.3, 1.0, 24)
    low, high = benchmarks.module("common.intervals").interval(values)
    wanted = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    assert low == pytest.approx(wanted.low, abs=0.03) and high == pytest.approx(wanted.high, abs=0.03)


def test_an_interval_that_holds_zero_is_clear_of_nothing(report):
    signs = [report.sign({"low": low, "high": high}) for low, high in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.2), (0, 1))]
    assert signs == [1, -1, 0, 0]
