"""``pack_nodes`` and the ``rig`` of the ComfyUI host's tests."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from stylization_host import load


@pytest.fixture(scope="session")
def rig(comfy) -> ModuleType:
    """See ``tests/stylization_core/hosts/comfyui/gathered.py``."""
    folder = load.ROOT / "tests" / "stylization_core" / "hosts" / "comfyui"
    load.folder_as_package("stylization_rig", folder)
    return importlib.import_module("stylization_rig.gathered")


@pytest.fixture(scope="session")
def pack_nodes(comfy) -> ModuleType:
    """The package ``stylization.nodes``."""
    comfy.stock_nodes()
    return importlib.import_module("stylization.nodes")
