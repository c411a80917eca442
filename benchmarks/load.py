"""This folder as the package ``stylization_benchmarks``, by its path: its modules import each other relatively.

Nothing of the repository enters ``sys.path``, so that no file of ours hides a module of ComfyUI.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parent
PACKAGE = "stylization_benchmarks"


def module(name: str) -> ModuleType:
    """A module of this folder, such as ``evidence.command``."""
    _loader().folder_as_package(PACKAGE, FOLDER)
    return importlib.import_module(f"{PACKAGE}.{name}")


def _loader() -> ModuleType:
    """``tests/host/load.py``, which knows how a folder becomes a package."""
    name = "stylization_load"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, FOLDER.parent / "tests" / "host" / "load.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
