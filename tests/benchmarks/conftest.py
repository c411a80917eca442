"""The folder benchmarks/ as a package, as its own scripts load it; needs no ComfyUI."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def benchmarks() -> ModuleType:
    """``benchmarks.module("common.report")`` is one of its modules."""
    spec = importlib.util.spec_from_file_location("stylization_benchmarks_load", FOLDER / "load.py")
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    return load
