"""``rig``: helpers that need ComfyUI in this process, from this folder's plain modules."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from stylization_host import load


@pytest.fixture(scope="session")
def rig(comfy) -> ModuleType:
    """``rig.micro.unet()``, ``rig.loras.kohya(…)`` and so on; the host's modules as ``rig.branches``, ``rig.sms`` …"""
    load.folder_as_package("stylization_rig", Path(__file__).parent)
    return importlib.import_module("stylization_rig.gathered")
