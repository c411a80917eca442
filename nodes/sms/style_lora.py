"""StylizeStyleLoRA: a LoRA as a style branch beside the model instead of inside it."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.model import detect
from ...stylization_core.hosts.comfyui.sms import attach, load_style, load_text

DISPLAY_NAME = "Stylize Style LoRA"


def lora_files() -> list[str]:
    """Names of the safetensors files in ComfyUI's LoRA folders."""
    return [name for name in folder_paths.get_filename_list("loras") if name.endswith(".safetensors")]


def lora_path(name: str) -> str:
    """Full path of a LoRA by its name in the list.

    Raises:
        StylizationError: no such file in ComfyUI's LoRA folders.
    """
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise StylizationError("lora_name", f"{name} is not in the LoRA folders", "Choose a file from the list")
    return path


class StylizeStyleLoRA(io.ComfyNode):
    """MODEL + LoRA file -> MODEL that carries the LoRA as a row-gated style branch."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeStyleLoRA",
            display_name=DISPLAY_NAME,
            category="stylization/sms",
            description=(
                "Puts a style LoRA beside the model, not into its weights: style nodes such as Stylize SMS can then "
                "ask for the styled and the plain prediction in one model call. An ordinary KSampler on this MODEL "
                "still gives the plain model; use Load LoRA where you want the LoRA everywhere."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The base model. Its weights stay as they are."),
                io.Combo.Input(
                    "lora_name",
                    options=lora_files(),
                    tooltip="Style LoRA for this kind of base model (.safetensors: LoRA, LoCon, LoHa, LoKr, diffs).",
                ),
                io.Float.Input(
                    "strength",
                    default=0.8,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How much of the LoRA the style prediction carries. 0.8 as published; 0 attaches nothing.",
                ),
                io.Float.Input(
                    "clip_strength",
                    default=0.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Strength of the LoRA's text-encoder part on CLIP. 0, as published, leaves CLIP alone.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Only needed with a CLIP strength: text encoder that gets the LoRA's text part.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The same model, carrying the style for style nodes."),
                io.Clip.Output(display_name="CLIP", tooltip="CLIP with the LoRA's text part at CLIP strength."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **others):
        path = folder_paths.get_full_path("loras", lora_name)
        return os.path.getmtime(path) if path else None

    @classmethod
    def execute(cls, model, *, lora_name, strength, clip_strength, clip=None) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            detect(model)
            path = lora_path(lora_name)
            clip = load_text(path, clip, clip_strength)
            if strength != 0:
                model = attach(model, load_style(path, model, strength))
        return io.NodeOutput(model, clip)
