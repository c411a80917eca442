"""LoRA files for the wiring models, in the key layouts that are met in the wild.

The four plain SD1.5 files (kohya, diffusers, processor, peft) stand for the *same* weight differences, as do the three
of SDXL; only names differ. ``deltas`` of a file are those differences by ComfyUI's weight name.

==============================  =======================================================================================
kohya                           ``lora_unet_down_blocks_0_…``; SDXL ``lora_unet_input_blocks_4_…``; alpha 2, rank 4
diffusers                       ``unet.down_blocks.0.….lora.down.weight``, no alpha
processor                       old diffusers: ``….attn1.processor.to_q_lora.down.weight``, no alpha; attention only
peft                            ``base_model.model.down_blocks.0.….lora_A.weight``, no alpha
linear_only                     kohya, without the convolutions
text                            kohya, with keys of CLIP-L (``lora_te_text_model_encoder_layers_0_…``)
tucker, dora, loha, lokr        kohya prefix with ``lora_mid``, ``dora_scale``, ``hada_w1_a`` …, ``lokr_w1`` …
wrong_shape                     kohya names of SD1.5, shapes of a model with 1024 context channels
flux_kohya                      ``lora_unet_double_blocks_0_…``: of another base for every UNet
==============================  =======================================================================================
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

RANK = 4
ALPHA = 2.0
_BLOCK = "attentions.0.transformer_blocks.0"
SD15_MODULES = {
    f"down_blocks.0.{_BLOCK}.attn1.to_q": (320, 320),
    f"down_blocks.0.{_BLOCK}.attn1.to_k": (320, 320),
    f"down_blocks.0.{_BLOCK}.attn1.to_v": (320, 320),
    f"down_blocks.0.{_BLOCK}.attn1.to_out.0": (320, 320),
    f"down_blocks.0.{_BLOCK}.attn2.to_k": (320, 768),
    f"down_blocks.0.{_BLOCK}.attn2.to_v": (320, 768),
    f"down_blocks.0.{_BLOCK}.ff.net.0.proj": (2560, 320),
    f"mid_block.{_BLOCK}.attn1.to_q": (320, 320),
    f"mid_block.{_BLOCK}.attn2.to_v": (320, 768),
    f"up_blocks.0.{_BLOCK}.attn1.to_v": (320, 320),
    "down_blocks.0.resnets.0.time_emb_proj": (320, 1280),
    "down_blocks.0.resnets.0.conv1": (320, 320, 3, 3),
    "down_blocks.0.attentions.0.proj_in": (320, 320, 1, 1),
}
SDXL_MODULES = {
    f"down_blocks.1.{_BLOCK}.attn1.to_q": (320, 320),
    f"down_blocks.1.{_BLOCK}.attn2.to_k": (320, 2048),
    f"down_blocks.2.{_BLOCK}.attn1.to_v": (320, 320),
    f"down_blocks.2.{_BLOCK}.ff.net.0.proj": (2560, 320),
    f"mid_block.{_BLOCK}.attn1.to_q": (320, 320),
    f"up_blocks.0.{_BLOCK}.attn1.to_out.0": (320, 320),
    "down_blocks.1.attentions.0.proj_in": (320, 320),
    "down_blocks.1.resnets.0.conv1": (320, 320, 3, 3),
}
SD3_MODULES = {
    "joint_blocks_0_x_block_attn_qkv": (192, 64),
    "joint_blocks_0_x_block_attn_proj": (64, 64),
}
FLUX_MODULES = {
    "double_blocks_0_img_attn_qkv": (384, 128),
    "double_blocks_0_txt_attn_proj": (128, 128),
    "single_blocks_0_linear1": (896, 128),
}
TEXT_MODULES = {
    "text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    "text_model_encoder_layers_0_mlp_fc1": (3072, 768),
}


@dataclass
class LoraFile:
    weights: dict
    deltas: dict = field(default_factory=dict)


def _noise(name: str, *shape: int):
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def factors(name: str, shape: tuple[int, ...]) -> tuple:
    """(down, up) of one module. Their product times ALPHA / RANK is about a third of a fresh weight in size."""
    fan_in = 1
    for size in shape[1:]:
        fan_in *= size
    down = _noise(f"{name}.down", RANK, *shape[1:]) / fan_in**0.5
    up = 0.3 * _noise(f"{name}.up", shape[0], RANK, *(1 for _ in shape[2:]))
    return down, up


def delta(name: str, shape: tuple[int, ...]):
    """The dense weight difference of one module at strength 1."""
    down, up = factors(name, shape)
    return (up.flatten(1) @ down.flatten(1)).reshape(shape) * (ALPHA / RANK)


def kohya(modules: dict, renamed=None) -> dict:
    """``lora_unet_<name with underscores>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``."""
    import torch

    weights = {}
    for name, shape in modules.items():
        down, up = factors(name, shape)
        key = "lora_unet_" + (renamed(name) if renamed else name).replace(".", "_")
        weights[f"{key}.lora_down.weight"], weights[f"{key}.lora_up.weight"] = down, up
        weights[f"{key}.alpha"] = torch.tensor(ALPHA)
    return weights


def spelled(modules: dict, down_key: str, up_key: str) -> dict:
    """A layout without alpha: its scale is inside ``up``. ``{}`` in the patterns is the module's name."""
    weights = {}
    for name, shape in modules.items():
        down, up = factors(name, shape)
        weights[down_key.format(name)], weights[up_key.format(name)] = down, up * (ALPHA / RANK)
    return weights


def processor(modules: dict) -> dict:
    """Old diffusers attention processors; ``to_out.0`` is called ``to_out`` there."""
    weights = {}
    for name, shape in modules.items():
        if ".to_" in name:
            key = name.replace(".to_", ".processor.to_").removesuffix(".0")
            down, up = factors(name, shape)
            weights[f"unet.{key}_lora.down.weight"] = down
            weights[f"unet.{key}_lora.up.weight"] = up * (ALPHA / RANK)
    return weights


def _prefix(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def tucker() -> dict:
    """A 3x3 convolution as 1x1 down, 3x3 mid, 1x1 up."""
    import torch

    name = "down_blocks.0.resnets.0.conv1"
    return {
        f"{_prefix(name)}.lora_down.weight": _noise("tucker.down", RANK, 320, 1, 1) / 320**0.5,
        f"{_prefix(name)}.lora_mid.weight": _noise("tucker.mid", RANK, RANK, 3, 3) / 6,
        f"{_prefix(name)}.lora_up.weight": _noise("tucker.up", 320, RANK, 1, 1) * 0.3,
        f"{_prefix(name)}.alpha": torch.tensor(ALPHA),
    }


def dora() -> dict:
    linear = {name: shape for name, shape in SD15_MODULES.items() if name.endswith(("to_q", "to_v"))}
    weights = kohya(linear)
    for name, shape in linear.items():
        weights[f"{_prefix(name)}.dora_scale"] = 1 + 0.2 * _noise(f"{name}.dora", 1, shape[1])
    return weights


def loha() -> dict:
    import torch

    weights = {}
    for name, shape in SD15_MODULES.items():
        if len(shape) == 2:
            for part in ("hada_w1", "hada_w2"):
                weights[f"{_prefix(name)}.{part}_a"] = 0.3 * _noise(f"{name}.{part}_a", shape[0], RANK)
                weights[f"{_prefix(name)}.{part}_b"] = _noise(f"{name}.{part}_b", RANK, shape[1]) / shape[1] ** 0.25
            weights[f"{_prefix(name)}.alpha"] = torch.tensor(ALPHA)
    return weights


def lokr() -> dict:
    import torch

    weights = {}
    for name, shape in SD15_MODULES.items():
        if len(shape) == 2:
            weights[f"{_prefix(name)}.lokr_w1"] = _noise(f"{name}.lokr_w1", 4, 4) / 4
            weights[f"{_prefix(name)}.lokr_w2"] = (
                _noise(f"{name}.lokr_w2", shape[0] // 4, shape[1] // 4) / shape[1] ** 0.5
            )
            weights[f"{_prefix(name)}.alpha"] = torch.tensor(ALPHA)
    return weights


def text() -> dict:
    import torch

    weights = kohya(SD15_MODULES)
    for name, shape in TEXT_MODULES.items():
        down, up = factors(name, shape)
        weights[f"lora_te_{name}.lora_down.weight"], weights[f"lora_te_{name}.lora_up.weight"] = down, up
        weights[f"lora_te_{name}.alpha"] = torch.tensor(ALPHA)
    return weights


def loras(sd15: dict, sdxl: dict) -> dict[str, LoraFile]:
    """All LoRA files by name, for UNets of the configurations ``sd15`` and ``sdxl``; float32 throughout."""
    import comfy.utils

    in_sd15, in_sdxl = comfy.utils.unet_to_diffusers(sd15), comfy.utils.unet_to_diffusers(sdxl)

    def deltas(modules: dict, names: dict) -> dict:
        return {f"diffusion_model.{names[f'{name}.weight']}": delta(name, shape) for name, shape in modules.items()}

    def sgm(name: str) -> str:
        return in_sdxl[f"{name}.weight"].removesuffix(".weight")

    linear = {name: shape for name, shape in SD15_MODULES.items() if len(shape) == 2}
    attention = {name: shape for name, shape in SD15_MODULES.items() if ".to_" in name}
    wrong = {name: (*shape[:1], 1024) if shape[1:] == (768,) else shape for name, shape in SD15_MODULES.items()}
    whole, whole_xl = deltas(SD15_MODULES, in_sd15), deltas(SDXL_MODULES, in_sdxl)
    diffusers = ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight")
    peft = ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight")
    files = {
        "sd15_kohya": LoraFile(kohya(SD15_MODULES), whole),
        "sd15_diffusers": LoraFile(spelled(SD15_MODULES, *diffusers), whole),
        "sd15_processor": LoraFile(processor(SD15_MODULES), deltas(attention, in_sd15)),
        "sd15_peft": LoraFile(spelled(SD15_MODULES, *peft), whole),
        "sd15_linear_only": LoraFile(kohya(linear), deltas(linear, in_sd15)),
        "sd15_text": LoraFile(text(), whole),
        "sd15_tucker": LoraFile(tucker()),
        "sd15_dora": LoraFile(dora()),
        "sd15_loha": LoraFile(loha()),
        "sd15_lokr": LoraFile(lokr()),
        "sd15_wrong_shape": LoraFile(kohya(wrong)),
        "sdxl_kohya": LoraFile(kohya(SDXL_MODULES, sgm), whole_xl),
        "sdxl_diffusers": LoraFile(spelled(SDXL_MODULES, *diffusers), whole_xl),
        "sdxl_peft": LoraFile(spelled(SDXL_MODULES, *peft), whole_xl),
        "sd3_kohya": LoraFile(kohya(SD3_MODULES)),
        "flux_kohya": LoraFile(kohya(FLUX_MODULES)),
    }
    return {f"wiring_lora_{name}.safetensors": file for name, file in files.items()}
