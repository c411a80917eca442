"""Nodes that make inputs: random conditioning and latents, broken latents, models that no stock loader takes."""

from __future__ import annotations

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

CATEGORY = "stylization_probe"


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class ProbeConditioning(io.ComfyNode):
    """Random conditioning, since wiring models have no text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeConditioning",
            category=CATEGORY,
            inputs=[
                io.Int.Input("tokens", default=77, min=1, max=4096),
                io.Int.Input("width", default=768, min=1, max=8192, tooltip="Channels of each token."),
                io.Int.Input("pooled", default=0, min=0, max=8192, tooltip="Width of pooled_output; 0 leaves it out."),
                io.Int.Input("seed", default=0, min=0, max=2**32),
                io.Int.Input("batch", default=1, min=1, max=64),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, tokens: int, width: int, pooled: int, seed: int, batch: int) -> io.NodeOutput:
        options = {"pooled_output": noise(seed + 1, batch, pooled)} if pooled else {}
        return io.NodeOutput([[noise(seed, batch, tokens, width), options]])


class ProbeRandomLatent(io.ComfyNode):
    """A latent of any shape: (batch, channels, height, width), with ``frames`` (batch, channels, frames, …)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeRandomLatent",
            category=CATEGORY,
            inputs=[
                io.Int.Input("width", default=8, min=1, max=1024, tooltip="In latent pixels."),
                io.Int.Input("height", default=8, min=1, max=1024),
                io.Int.Input("channels", default=4, min=1, max=512),
                io.Int.Input("batch", default=1, min=1, max=64),
                io.Int.Input("frames", default=0, min=0, max=64),
                io.Int.Input("seed", default=0, min=0, max=2**32),
                io.Float.Input("scale", default=1.0, min=0.0, max=1e6),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, width, height, channels, batch, frames, seed, scale) -> io.NodeOutput:
        size = (frames, height, width) if frames else (height, width)
        return io.NodeOutput({"samples": noise(seed, batch, channels, *size) * scale})


class ProbeNaNLatent(io.ComfyNode):
    """The latent with one element replaced by NaN."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeNaNLatent",
            category=CATEGORY,
            inputs=[io.Latent.Input("samples")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples) -> io.NodeOutput:
        broken = samples["samples"].clone()
        broken.view(-1)[broken.numel() // 2] = float("nan")
        return io.NodeOutput({**samples, "samples": broken})


class ProbeMask(io.ComfyNode):
    """A mask of one value, or split in the middle: ``value`` left, ``right`` right."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeMask",
            category=CATEGORY,
            inputs=[
                io.Int.Input("width", default=64, min=1, max=8192),
                io.Int.Input("height", default=64, min=1, max=8192),
                io.Float.Input("value", default=1.0, min=-10.0, max=10.0),
                io.Float.Input("right", default=1.0, min=-10.0, max=10.0),
                io.Int.Input("batch", default=1, min=1, max=64),
            ],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, width, height, value, right, batch) -> io.NodeOutput:
        mask = torch.full((batch, height, width), value)
        mask[:, :, width // 2 :] = right
        return io.NodeOutput(mask)


class ProbeLoadFlux(io.ComfyNode):
    """Loads a small Flux also where ComfyUI gives every Flux 24 heads (before 0.9): one head per 128 channels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeLoadFlux",
            category=CATEGORY,
            inputs=[io.Combo.Input("unet_name", options=folder_paths.get_filename_list("diffusion_models"))],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, unet_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_flux(folder_paths.get_full_path_or_raise("diffusion_models", unet_name)))


def load_flux(path: str) -> comfy.model_patcher.ModelPatcher:
    """A patcher of the Flux in ``path``, with as many heads as its width asks for."""
    weights = comfy.utils.load_torch_file(path)
    config = comfy.model_detection.detect_unet_config(weights, "")
    config["num_heads"] = config["hidden_size"] // sum(config["axes_dim"])
    model_config = comfy.model_detection.model_config_from_unet_config(config, weights)
    model_config.set_inference_dtype(torch.float32, None)
    model = model_config.get_model(weights, "")
    model.load_model_weights(weights, "")
    device = comfy.model_management.get_torch_device()
    # CoreModelPatcher is what newer loaders make; older trees know ModelPatcher only.
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(model, load_device=device, offload_device=device)


NODES = [ProbeConditioning, ProbeRandomLatent, ProbeNaNLatent, ProbeMask, ProbeLoadFlux]
