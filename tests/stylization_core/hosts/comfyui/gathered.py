"""The fixture ``rig``: this folder's helpers and the host's modules under one name."""

from __future__ import annotations

import comfy.model_management as model_management
from comfy.patcher_extension import WrappersMP
from stylization.stylization_core.hosts.comfyui import (
    branches,
    dial,
    families,
    levels,
    lora_files,
    percent,
    reached,
    relevance_map,
    row_gate,
    sampling,
    settings,
    sms,
    style_branch,
    style_guider,
    style_source,
)

from . import leaks, loras, micro, ordinary, runs

__all__ = [
    "WrappersMP",
    "branches",
    "dial",
    "families",
    "leaks",
    "levels",
    "lora_files",
    "loras",
    "micro",
    "model_management",
    "ordinary",
    "percent",
    "reached",
    "relevance_map",
    "row_gate",
    "runs",
    "sampling",
    "settings",
    "sms",
    "style_branch",
    "style_guider",
    "style_source",
]
