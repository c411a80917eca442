"""What a loaded MODEL is and how it is asked: family, layers, noise levels, conditionings, predictions, hooks.

Enters: a MODEL, conditionings, noised latents. Leaves: predictions, and hooks that stand for one call or one run.
Imported by every other room; imports none of them.
"""

from .attachments import DIAL, at_dial, attach_more, attach_once, dial
from .cfg_functions import foreign_cfg_functions, with_guidance_of
from .compiled import uncompiled
from .conditioning import NEGATIVE, POLARITIES, POSITIVE, active, by_progress, process
from .differentiable import (
    Gradients,
    autograd,
    differentiable_options,
    network_bytes,
    on_one_device,
    refuse_weight_hooks,
    twin_of,
    untrainable,
    with_untrained_controls,
)
from .families import Family, detect, family_of
from .group_norms import Pooled, pooling, recording
from .layers import ALL, LATE, PRESETS, STYLE, Layer, chosen_layers, self_attention_layers
from .noise_levels import Levels, NoiseWindow, StepLevel
from .output_files import check_prefix, saved_in_any_case
from .predictions import BASE, predict
from .rows import (
    BATCH,
    BRANCHES,
    CHUNKS,
    Branch,
    chunk_rows,
    of_prompt,
    options_of,
    rows_of,
    with_batch,
    with_wrapper,
)
from .self_attention import OVERRIDE, Act, Attend, Call, with_self_attention
from .step_caches import refuse_step_caches
from .token_masks import per_token

__all__ = [
    "ALL",
    "Act",
    "Attend",
    "BASE",
    "BATCH",
    "BRANCHES",
    "Branch",
    "CHUNKS",
    "Call",
    "DIAL",
    "Family",
    "Gradients",
    "POLARITIES",
    "LATE",
    "Layer",
    "Levels",
    "NEGATIVE",
    "NoiseWindow",
    "OVERRIDE",
    "POSITIVE",
    "PRESETS",
    "Pooled",
    "STYLE",
    "StepLevel",
    "active",
    "at_dial",
    "attach_more",
    "attach_once",
    "autograd",
    "by_progress",
    "check_prefix",
    "chunk_rows",
    "chosen_layers",
    "detect",
    "dial",
    "differentiable_options",
    "family_of",
    "foreign_cfg_functions",
    "network_bytes",
    "of_prompt",
    "on_one_device",
    "options_of",
    "per_token",
    "pooling",
    "predict",
    "process",
    "recording",
    "refuse_step_caches",
    "refuse_weight_hooks",
    "rows_of",
    "saved_in_any_case",
    "self_attention_layers",
    "twin_of",
    "uncompiled",
    "untrainable",
    "with_batch",
    "with_guidance_of",
    "with_self_attention",
    "with_untrained_controls",
    "with_wrapper",
]
