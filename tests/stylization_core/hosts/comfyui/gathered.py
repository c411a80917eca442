"""The fixture ``rig``: this folder's helpers and the host's modules under one name."""

from __future__ import annotations

import comfy.model_management as model_management
from comfy.patcher_extension import WrappersMP
from stylization.stylization_core.hosts.comfyui import (
    attention,
    attention_run,
    branches,
    dial,
    families,
    group_norms,
    inversion,
    layers,
    levels,
    lora_files,
    percent,
    reached,
    recorder,
    references,
    relevance_map,
    row_gate,
    sampling,
    settings,
    sms,
    style_branch,
    style_guider,
    style_source,
    trained_fake,
)

from . import endings, leaks, loras, micro, ordinary, runs, sharing, trials

__all__ = [
    "WrappersMP",
    "attention",
    "branches",
    "dial",
    "endings",
    "families",
    "group_norms",
    "inversion",
    "layers",
    "leaks",
    "levels",
    "lora_files",
    "loras",
    "micro",
    "model_management",
    "ordinary",
    "percent",
    "reached",
    "recorder",
    "references",
    "relevance_map",
    "row_gate",
    "runs",
    "sampling",
    "settings",
    "attention_run",
    "sharing",
    "sms",
    "style_branch",
    "style_guider",
    "style_source",
    "trained_fake",
    "trials",
]
