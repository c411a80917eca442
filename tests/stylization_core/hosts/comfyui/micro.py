"""Networks of ComfyUI's own classes, far smaller than any checkpoint its loaders recognise; random weights."""

from __future__ import annotations

import dataclasses

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams

CONTEXT = 64
POOLED = 32

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": CONTEXT,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "num_heads": 8,
    "num_head_channels": -1,
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": POOLED,
    "context_in_dim": CONTEXT,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}


def unet(seed: int = 0, prediction: str = "EPS", dtype=torch.float32, computed_in: torch.dtype | None = None):
    """MODEL of the SD1.5 kind with 64 channels and two levels; ``prediction`` is a ``ModelType`` such as EPS.

    Weights of a ``dtype``; with ``computed_in`` they are cast to another at use, as ComfyUI does it where a device
    does not compute in theirs. The numbers are those of float32, rounded.
    """
    config = _config(comfy.supported_models.SD15, UNET, dtype, computed_in)
    return _patcher(comfy.model_base.BaseModel(config, comfy.model_base.ModelType[prediction]), seed)


def concatenating(kind: str, seed: int = 0):
    """MODEL as ``unet`` whose network takes a picture beside the noise: "inpaint" with its mask, "edit" without."""
    channels = {"inpaint": 9, "edit": 8}[kind]
    config = _config(comfy.supported_models.SD15, {**UNET, "in_channels": channels})
    if kind == "edit":
        return _patcher(comfy.model_base.SD15_instructpix2pix(config, comfy.model_base.ModelType.EPS), seed)
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EPS)
    model.set_inpaint()
    return _patcher(model, seed)


def flux(seed: int = 0):
    """MODEL of the Flux kind with one double and one single block of 128 channels."""
    stated = {field.name for field in dataclasses.fields(FluxParams)}  # older versions have fewer
    config = {name: value for name, value in FLUX.items() if name != "txt_ids_dims" or name in stated}
    return _patcher(comfy.model_base.Flux(_config(comfy.supported_models.Flux, config)), seed)


def _config(kind: type, unet_config: dict, dtype=torch.float32, computed_in=None):
    config = kind({**unet_config, "dtype": dtype})
    config.manual_cast_dtype = computed_in
    return config


def _patcher(model, seed: int):
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        drawn = torch.empty(parameter.shape).normal_(0, scale, generator=generator)
        if "norm" in name and name.endswith(("weight", "scale")):
            drawn.add_(1)
        parameter.data.copy_(drawn)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
