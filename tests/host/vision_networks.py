"""CLIP_VISION of ComfyUI's own class, as small as it can be, with seeded random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

KINDS = {"clip": 1, "siglip": 0, "dinov2": 1}
"""Kinds, and how many tokens stand before the patches."""

_SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_channels": 3,
    "hidden_act": "gelu",
}
_OWN = {
    "clip": {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 8},
    "siglip": {"model_type": "siglip_vision_model", "image_size": 42, "patch_size": 14},
    # its size and patches stand fixed in ComfyUI's class
    "dinov2": {"model_type": "dinov2", "image_size": 518, "layer_norm_eps": 1e-6, "use_swiglu_ffn": False},
}
SIDES = {"clip": 4, "siglip": 3, "dinov2": 37}
"""Patches along a side."""


def tiny(kind: str, folder: Path, seed: int = 3):
    """A CLIP_VISION."""
    import comfy.clip_vision

    path = folder / f"{kind}.json"
    path.write_text(json.dumps({**_SMALL, **_OWN[kind]}), encoding="utf-8")
    model = comfy.clip_vision.ClipVisionModel(str(path))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=random))
    return model
