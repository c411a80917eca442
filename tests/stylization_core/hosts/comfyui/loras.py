"""LoRA files in the layouts that are met in the wild, made for the layers that a model has."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import comfy.sd
import comfy.utils
import torch
from safetensors.torch import save_file

RANK = 4
ALPHA = 2.0


def layers(patcher) -> dict[str, torch.nn.Module]:
    """Linear layers and 2-D convolutions of the network by name."""
    modules = patcher.model.diffusion_model.named_modules()
    return {name: one for name, one in modules if getattr(getattr(one, "weight", None), "ndim", 0) in (2, 4)}


def noise(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def factors(name: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(up, down) whose product is about a third of a fresh weight in size."""
    up = 0.3 * noise(f"{name}.up", weight.shape[0], RANK, *[1] * (weight.ndim - 2))
    return up, noise(f"{name}.down", RANK, *weight.shape[1:]) / weight[0].numel() ** 0.5


def in_diffusers(patcher) -> dict[str, str]:
    """The layers' names in diffusers, with our names for them."""
    found = layers(patcher)
    names = comfy.utils.unet_to_diffusers(patcher.model.model_config.unet_config)
    pairs = ((theirs.removesuffix(".weight"), ours.removesuffix(".weight")) for theirs, ours in names.items())
    return {theirs: ours for theirs, ours in pairs if ours in found}


def kohya(patcher, only: Iterable[str] | None = None, alpha=ALPHA) -> dict:
    """``lora_unet_….lora_up.weight`` with ``alpha``, for all layers or some; the numbers of the other layouts below."""
    weights = {}
    for name, layer in layers(patcher).items():
        if only is None or name in only:
            prefix = _underscored(name)
            weights[f"{prefix}.lora_up.weight"], weights[f"{prefix}.lora_down.weight"] = factors(name, layer.weight)
            weights[f"{prefix}.alpha"] = torch.tensor(alpha)
    return weights


def diffusers(patcher) -> dict:
    """As diffusers' ``save_lora_weights`` writes it."""
    return _spelled(patcher, "unet.{}.lora.up.weight", "unet.{}.lora.down.weight")


def processors(patcher) -> dict:
    """As old diffusers wrote attention layers; the others have no name there."""
    attention = {name: layer for name, layer in in_diffusers(patcher).items() if ".to_" in name}
    renamed = {name.replace(".to_", ".processor.to_").removesuffix(".0"): layer for name, layer in attention.items()}
    return _spelled(patcher, "unet.{}_lora.up.weight", "unet.{}_lora.down.weight", renamed)


def peft(patcher) -> dict:
    """As ``PeftModel.save_pretrained`` writes it."""
    return _spelled(patcher, *(f"base_model.model.{{}}.lora_{part}.weight" for part in "BA"))


def peft_adapter(patcher) -> dict:
    """As peft's state dict has it, with the adapter's name."""
    return _spelled(patcher, *(f"unet.base_model.model.{{}}.lora_{part}.default.weight" for part in "BA"))


def flux_diffusers(parts: Iterable[str], width: int) -> dict:
    """``transformer.….lora_A.weight`` for square parts of Flux's fused layers, by their names in diffusers."""
    shapes = {part: torch.empty(width, width) for part in parts}
    weights = {}
    for part, weight in shapes.items():
        up, down = factors(part, weight)
        weights[f"transformer.{part}.lora_B.weight"], weights[f"transformer.{part}.lora_A.weight"] = up, down
    return weights


def tucker(patcher) -> dict:
    """3x3 convolutions as 1x1 down, 3x3 mid, 1x1 up."""
    weights = {}
    for name, layer in layers(patcher).items():
        if layer.weight.shape[2:] == (3, 3):
            outputs, inputs = layer.weight.shape[:2]
            prefix = _underscored(name)
            weights[f"{prefix}.lora_up.weight"] = 0.3 * noise(f"{name}.up", outputs, RANK, 1, 1)
            weights[f"{prefix}.lora_mid.weight"] = noise(f"{name}.mid", RANK, RANK, 3, 3) / 6
            weights[f"{prefix}.lora_down.weight"] = noise(f"{name}.down", RANK, inputs, 1, 1) / inputs**0.5
            weights[f"{prefix}.alpha"] = torch.tensor(ALPHA)
    return weights


def loha(patcher) -> dict:
    weights = {}
    for name, layer in layers(patcher).items():
        outputs, inputs = layer.weight.shape[0], layer.weight[0].numel()
        for part in ("hada_w1", "hada_w2"):
            weights[f"{_underscored(name)}.{part}_a"] = 0.5 * noise(f"{name}.{part}a", outputs, RANK)
            weights[f"{_underscored(name)}.{part}_b"] = noise(f"{name}.{part}b", RANK, inputs) / inputs**0.25
        weights[f"{_underscored(name)}.alpha"] = torch.tensor(ALPHA)
    return weights


def lokr(patcher) -> dict:
    weights = {}
    for name, layer in layers(patcher).items():
        if layer.weight.ndim == 2:
            outputs, inputs = layer.weight.shape
            weights[f"{_underscored(name)}.lokr_w1"] = noise(f"{name}.w1", 4, 4) / 4
            weights[f"{_underscored(name)}.lokr_w2"] = noise(f"{name}.w2", outputs // 4, inputs // 4) / inputs**0.5
    return weights


def full(patcher) -> dict:
    """Whole weight and bias differences, as an extracted checkpoint difference has them."""
    weights = {}
    for name, layer in layers(patcher).items():
        scale = 0.3 / layer.weight[0].numel() ** 0.5
        weights[f"{_underscored(name)}.diff"] = scale * noise(f"{name}.diff", *layer.weight.shape)
        if layer.bias is not None:
            weights[f"{_underscored(name)}.diff_b"] = 0.2 * noise(f"{name}.bias", *layer.bias.shape)
    return weights


def saved(weights: dict, path: Path) -> str:
    save_file({key: value.contiguous() for key, value in weights.items()}, path)
    return str(path)


def weight_patched(patcher, path: str, strength: float):
    """ComfyUI's own way: a clone whose weights carry the LoRA, as the stock LoraLoader makes it."""
    return comfy.sd.load_lora_for_models(patcher, None, comfy.utils.load_torch_file(path), strength, 0)[0]


def _underscored(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def _spelled(patcher, up_key: str, down_key: str, named: dict[str, str] | None = None) -> dict:
    """A layout without ``alpha``, whose scale is inside ``up``."""
    found, weights = layers(patcher), {}
    for theirs, ours in (named or in_diffusers(patcher)).items():
        up, down = factors(ours, found[ours].weight)
        weights[up_key.format(theirs)], weights[down_key.format(theirs)] = up * (ALPHA / RANK), down
    return weights
