"""``rig``: helpers that need ComfyUI in this process, as the package of this folder's plain modules."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from stylization_host import load

HELPERS = ("micro", "loras", "runs", "leaks")
HOST = ("branches", "families", "lora_files", "percent", "reached", "row_gate", "sms", "style_branch", "style_source")


@pytest.fixture(scope="session")
def rig(comfy) -> ModuleType:
    """``rig.micro.unet()``, ``rig.loras.kohya(…)`` and so on; the host's modules as ``rig.branches``, ``rig.sms`` …"""
    package = load.folder_as_package("stylization_rig", Path(__file__).parent)
    for name in HELPERS:
        importlib.import_module(f"stylization_rig.{name}")
    for name in HOST:
        setattr(package, name, importlib.import_module(f"stylization.stylization_core.hosts.comfyui.{name}"))
    package.model_management = importlib.import_module("comfy.model_management")
    package.WrappersMP = importlib.import_module("comfy.patcher_extension").WrappersMP
    return package
