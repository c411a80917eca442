"""Makes the wiring models: ``python wiring_models.py <folder>``. Called by :func:`wiring.ensure`.

Each network is built from ComfyUI's own class on the meta device, which gives keys and shapes and costs nothing; the
weights are then drawn per key, from the key's own seed, so that adding a model changes no other.
"""

from __future__ import annotations

import dataclasses
import sys
import zlib
from pathlib import Path

import load

load.host_package()

from stylization_host import comfy_inprocess, comfy_tree, wiring, wiring_loras  # noqa: E402

UNET = {
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "in_channels": 4,
    "model_channels": 320,
    "use_checkpoint": False,
}
SD15 = {**UNET, "context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False}
SDXL = {
    **UNET,
    "context_dim": 2048,
    "num_head_channels": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
SD15_ONE_LEVEL = {
    **SD15,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
}
SD15_TWO_LEVELS = {
    **SD15,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
}
# The depths of KOALA-700M, the smallest that ComfyUI knows as SDXL; the output side is free.
SDXL_KOALA = {
    **SDXL,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
}
SD3 = {
    "input_size": None,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 1,
    "adm_in_channels": 32,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 64}},
    "num_patches": 192 * 192 // 4,
    "pos_embed_max_size": 96,
    "pos_embed_scaling_factor": None,
}
FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 32,
    "context_in_dim": 64,
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
WAN = {"model_type": "t2v", "dim": 128, "ffn_dim": 128, "num_heads": 1, "num_layers": 1, "in_dim": 16, "out_dim": 16}


def drawn(shapes: dict, prefix: str = "") -> dict:
    """Seeded half precision weights for ``{key: shape}``, at the scale a fresh network would have."""
    import torch

    weights = {}
    for key, shape in shapes.items():
        stream = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        noise = torch.randn(tuple(shape), generator=stream)
        if len(shape) > 1:
            fan_in = noise[0].numel()
            weight = noise / fan_in**0.5
        elif key.endswith((".weight", ".scale")):
            weight = 1 + 0.05 * noise
        else:
            weight = 0.02 * noise
        weights[prefix + key] = weight.half()
    return weights


def shapes_of(network) -> dict:
    return {key: value.shape for key, value in network.state_dict().items()}


def built(kind: type, config: dict):
    """A network of ComfyUI on the meta device."""
    import comfy.ops
    import torch

    return kind(**config, dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init)


def checkpoint(config: dict) -> dict:
    """A whole checkpoint of the UNet layout, with a TAESD inside as its VAE."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import TAESD

    network = built(UNetModel, {**config, "out_channels": 4})
    return {
        **drawn(shapes_of(network), "model.diffusion_model."),
        **drawn(shapes_of(TAESD(latent_channels=4)), "first_stage_model."),
    }


def controlnet(config: dict) -> dict:
    from comfy.cldm.cldm import ControlNet

    return drawn(shapes_of(built(ControlNet, {**config, "hint_channels": 3})), "control_model.")


def transformers() -> dict:
    """The diffusion models without a UNet, by file name."""
    from comfy.ldm.flux.model import Flux, FluxParams
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
    from comfy.ldm.wan.model import WanModel

    stated = {field.name for field in dataclasses.fields(FluxParams)}  # older ones have fewer
    flux = {name: value for name, value in FLUX.items() if name in stated}
    return {
        wiring.FAMILIES["sd3"].file: drawn(shapes_of(built(OpenAISignatureMMDITWrapper, SD3))),
        wiring.FAMILIES["wan"].file: drawn(shapes_of(built(WanModel, WAN))),
        wiring.FAMILIES["flux"].file: drawn(shapes_of(built(Flux, flux))),
    }


def main(place: Path) -> None:
    comfy_inprocess.enter()
    import torch
    from safetensors.torch import save_file

    def write(folder: str, file: str, weights: dict) -> None:
        path = place / folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in weights.items()}, path)

    with torch.no_grad():
        unets = {"sd15": SD15_ONE_LEVEL, "sd15_two_levels": SD15_TWO_LEVELS, "sdxl": SDXL_KOALA}
        for name, config in unets.items():
            family = wiring.FAMILIES[name]
            write("models/checkpoints", family.file, checkpoint(config))
            if family.controlnet:
                write("models/controlnet", family.controlnet, controlnet(config))
        for file, weights in transformers().items():
            write("models/diffusion_models", file, weights)
        for file, lora in wiring_loras.loras(SD15_ONE_LEVEL, SDXL_KOALA).items():
            write("models/loras", file, lora.weights)
            if lora.deltas:
                write("deltas", file, lora.deltas)
    whole = place / "models" / "loras" / "wiring_lora_sd15_kohya.safetensors"
    (whole.with_name("wiring_lora_truncated.safetensors")).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    comfy_inprocess.leave()


if __name__ == "__main__":
    if comfy_tree.HOST not in Path(sys.argv[1]).resolve().parents:
        raise SystemExit(f"The wiring models belong below {comfy_tree.HOST}.")
    main(Path(sys.argv[1]).resolve())
