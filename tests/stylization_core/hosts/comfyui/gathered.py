"""The fixture ``rig``: this folder's helpers and the host's modules under one name."""

from __future__ import annotations

import comfy.model_management as model_management
from comfy.patcher_extension import WrappersMP
from stylization.stylization_core.hosts.comfyui import (
    branches,
    families,
    lora_files,
    percent,
    reached,
    row_gate,
    sms,
    style_branch,
    style_source,
)

from . import leaks, loras, micro, runs

__all__ = [
    "WrappersMP",
    "branches",
    "families",
    "leaks",
    "lora_files",
    "loras",
    "micro",
    "model_management",
    "percent",
    "reached",
    "row_gate",
    "runs",
    "sms",
    "style_branch",
    "style_source",
]
