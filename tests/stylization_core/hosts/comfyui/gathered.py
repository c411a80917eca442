"""The fixture ``rig``: this folder's helpers and the host's modules under one name."""

from __future__ import annotations

import comfy.model_management as model_management
import comfy.samplers as samplers
from comfy.patcher_extension import WrappersMP
from stylization.stylization_core.hosts.comfyui.attention import run as attention_run
from stylization.stylization_core.hosts.comfyui.attention import settings as attention_settings
from stylization.stylization_core.hosts.comfyui.guidance import holds
from stylization.stylization_core.hosts.comfyui.guidance import run as guidance_run
from stylization.stylization_core.hosts.comfyui.guidance import score as score_guidance
from stylization.stylization_core.hosts.comfyui.guidance import settings as guidance_settings
from stylization.stylization_core.hosts.comfyui.measure import budget
from stylization.stylization_core.hosts.comfyui.model import (
    attachments,
    compiled,
    conditioning,
    controls,
    differentiable,
    families,
    layers,
    noise_levels,
    predictions,
    rows,
    step_caches,
)
from stylization.stylization_core.hosts.comfyui.references import inversion, record_cache, recorder, reference
from stylization.stylization_core.hosts.comfyui.sms import guider as sms_guider
from stylization.stylization_core.hosts.comfyui.sms import (
    lora_files,
    relevance_map,
    row_gate,
    score_ruler,
    stopped_runs,
    style_branch,
    style_source,
    trained_fake,
)
from stylization.stylization_core.hosts.comfyui.sms import sampler as sms_sampler
from stylization.stylization_core.hosts.comfyui.sms import settings as sms_settings

from . import effects, endings, leaks, loras, micro, ordinary, repacking, runs, sharing, trials

__all__ = [
    "WrappersMP",
    "attachments",
    "attention_run",
    "attention_settings",
    "budget",
    "compiled",
    "conditioning",
    "controls",
    "differentiable",
    "effects",
    "endings",
    "families",
    "guidance_run",
    "guidance_settings",
    "holds",
    "inversion",
    "layers",
    "leaks",
    "lora_files",
    "loras",
    "micro",
    "model_management",
    "noise_levels",
    "ordinary",
    "predictions",
    "repacking",
    "rows",
    "stopped_runs",
    "record_cache",
    "recorder",
    "reference",
    "relevance_map",
    "row_gate",
    "runs",
    "samplers",
    "score_guidance",
    "score_ruler",
    "sharing",
    "step_caches",
    "sms_guider",
    "sms_sampler",
    "sms_settings",
    "style_branch",
    "style_source",
    "trained_fake",
    "trials",
]
