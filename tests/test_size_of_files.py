"""No module is longer than a reader can hold."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = 400


def test_no_module_is_longer_than_400_lines():
    found = subprocess.run(["git", "ls-files", "-z", "*.py"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no git repository")
    paths = [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_bytes().splitlines()) for path in paths}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > LINES} == {}
