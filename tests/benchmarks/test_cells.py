"""Cells of an evidence: made once, kept with their pictures, measured anew without being made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def picture(width: int, shade: int) -> Image.Image:
    return Image.fromarray(np.full((8, width, 3), shade, np.uint8))


@pytest.fixture
def cells(benchmarks, tmp_path):
    return benchmarks.module("common.cells").Cells(tmp_path / "cells", ("one, two", "a + b"), 3)


def test_what_is_kept_is_not_made_again(cells):
    asked = []

    def run(number, method):
        asked.append((number, method))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return [picture(4, number)], {"x": float(number)}

    wanted = [(number, method) for method in cells.methods for number in range(3)]
    with pytest.raises(KeyboardInterrupt):
        cells.make(wanted, run)
    assert len(cells.records()) == 2
    cells.make(wanted, run)
    # the one that was interrupted is made again, those before it are not
    assert asked == [*wanted[:3], *wanted[2:]] and len(cells.records()) == 6


def test_pictures_come_back_as_they_were_made(cells):
    given = [picture(4, 10), picture(9, 20), picture(2, 30)]
    cells.make([(1, "a + b")], lambda number, method: (given, {}))
    found = cells.pictures_of(1, "a + b")
    assert [np.array_equal(a, b) for a, b in zip(found, given, strict=True)] == [True] * 3


def test_rulers_are_taken_anew_on_kept_pictures(cells):
    cells.make([(0, "a + b"), (1, "a + b")], lambda number, method: ([picture(4, 50 + number)], {"x": 1.0, "rows": 7}))
    cells.measure(lambda number, method, pictures: {"x": float(np.asarray(pictures[0])[0, 0, 0])})
    assert cells.records() == {(n, "a + b"): {"x": 50.0 + n, "rows": 7} for n in (0, 1)}


def test_a_sheet_is_made_of_what_is_kept(cells, tmp_path):
    path = tmp_path / "sheet.jpg"
    assert not cells.sheet(("a + b",), (0, 1), path)
    cells.make([(0, "a + b"), (1, "a + b")], lambda number, method: ([picture(40, 200)], {}))
    assert cells.sheet(("a + b",), (0, 1), path, larger=2)
    with Image.open(path) as sheet:
        assert sheet.size == (2 * 80 + 12, 16 + 20)


def record_of(page) -> dict:
    return json.loads((ROOT / "docs" / f"{page.STEM}.json").read_text(encoding="utf-8"))


RUNS = """
import json, sys
sys.path.append(sys.argv[1])
import load
from pathlib import Path
registry, cells = load.module("evidence.registry"), load.module("common.cells")
found = {}
for name in registry.EVIDENCES:
    evidence = registry.evidence_of(name)
    found[name] = {part: list(one.methods) for part, one in evidence.comparisons.items()}
    if name == "holistic":
        (painted,) = evidence.comparisons.values()
        painted.cells = cells.Cells(Path(sys.argv[2]), painted.cells.methods, painted.cells.cases)
        painted.make(["photo itself", "painting itself", "VAE only"], [0])
        found["made"] = {method: row for (_, method), row in painted.cells.records().items()}
        found["said"] = evidence.write()
evidence = load.module("common.evidence")

class Dependent(evidence.Comparison):
    # the second method is part of it once the first is made on all cases, as one strength for all is
    def case(self, number):
        from types import SimpleNamespace
        return SimpleNamespace(host=SimpleNamespace(rows=0), number=number)
    def has(self, number, method):
        return method == "first" or len(self.cells.records()) >= 2
    def measured(self, case, method, pictures):
        return {"width": pictures[0].width}

from PIL import Image
drawn = lambda case: Image.new("RGB", (case.number + 1, 8))
dependent = Dependent("none", {"first": drawn, "second": drawn}, 2)
dependent.cells = cells.Cells(Path(sys.argv[2]) / "dependent", ("first", "second"), 2)
dependent.make()
found["dependent"] = [[number, method, row["width"]] for (number, method), row in dependent.cells.records().items()]
print("FOUND" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Methods of every evidence, and three cells of one that were really made, in a process of its own."""
    command = [sys.executable, "-c", RUNS, str(ROOT / "benchmarks"), str(tmp_path_factory.mktemp("cells"))]
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.split("FOUND")[1])


@pytest.mark.parametrize("name", ["operators", "sms", "holistic", "protection", "regions", "shared_attention"])
def test_the_methods_of_an_evidence_are_the_rows_of_its_page(benchmarks, runs, name):
    page = benchmarks.module("evidence.registry").page_of(name)
    record = record_of(page)
    for part, methods in runs[name].items():
        rows = list((record[part] if name == "operators" else record)["means"])
        aside = {"photo itself", "style copy"} if name == "sms" else set()
        assert [method for method in methods if method not in aside] == rows


def test_the_forms_of_the_budget_are_the_rows_of_its_page(benchmarks, runs):
    page = benchmarks.module("evidence.registry").page_of("budget")
    record = record_of(page)
    methods = [method for part in runs["budget"].values() for method in part]
    assert [method for method in methods if not method.endswith(page.COMMON)] == list(record)


def test_a_page_is_written_once_all_its_cells_are_kept(benchmarks, runs):
    page = benchmarks.module("evidence.registry").page_of("holistic")
    cells = 24 * len(record_of(page)["means"])
    assert runs["said"] == f"{cells - 3} cells are not made yet: docs/{page.STEM}.md stays as it is."


def test_what_a_method_needs_of_those_before_it_is_made_in_the_same_run(runs):
    assert runs["dependent"] == [[0, "first", 1], [1, "first", 2], [0, "second", 1], [1, "second", 2]]


def test_a_cell_is_made_on_the_pocket_model_and_lies_between_its_anchors(runs):
    photo, painting, plain = (runs["made"][name] for name in ("photo itself", "painting itself", "VAE only"))
    assert photo["structure"] == photo["edges"] == pytest.approx(1) and painting["color"] == pytest.approx(0, abs=1e-6)
    assert painting["structure"] < plain["structure"] < 1 and photo["model rows"] == plain["model rows"] == 0
    assert plain["seconds"] > 0
