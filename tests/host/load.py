"""Load folders of this repository as packages by their path, without touching ``sys.path``.

- :func:`host_package` makes ``tests/host`` importable as ``stylization_host``
- :func:`pack` makes the repository itself importable as ``stylization``, as ComfyUI would load it

The repository root and ``tests/`` never enter ``sys.path``: ComfyUI has top-level modules named ``nodes`` and
``tests``, and ours would hide them.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def folder_as_package(name: str, folder: Path) -> ModuleType:
    """The package ``name`` whose modules are the files of ``folder``; runs ``__init__.py`` only where there is one."""
    if name in sys.modules:
        return sys.modules[name]
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(folder)])
    else:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def host_package() -> ModuleType:
    """``stylization_host``: afterwards ``from stylization_host import comfy_host`` works."""
    return folder_as_package("stylization_host", ROOT / "tests" / "host")


def pack() -> ModuleType:
    """``stylization``: afterwards ``import stylization.stylization_core`` works."""
    return folder_as_package("stylization", ROOT)
