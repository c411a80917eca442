"""What the training nodes share: their inputs, and when they train anew."""

from __future__ import annotations

from comfy_api.latest import io

from ...stylization_core.hosts.comfyui.training import input_folder_changed
from ..files import NONE, changed, found, listed
from ..inputs import layer_inputs

CATEGORY = "stylization/training"


def training_inputs(folder: str, preset: str, steps: int, what: str) -> list:
    """Inputs of a training node whose files lie in ``folder``."""
    return [
        io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL. It stays as it is; a copy of it is trained through."),
        io.Vae.Input("vae", tooltip="VAE of the model, to encode the pictures once."),
        io.Conditioning.Input("positive", tooltip="A prompt that fits all pictures, or an empty one."),
        io.String.Input(
            "folder",
            default="style_pictures",
            tooltip="Folder with the pictures, inside ComfyUI's input folder. A few dozen are better than a few.",
        ),
        io.Int.Input("steps", default=steps, min=1, max=100000, tooltip="In all; those of a resumed file count too."),
        io.Float.Input(
            "learning_rate", default=5e-4, min=1e-6, max=1e-1, step=1e-6, tooltip="Of AdamW; 1e-4 to 1e-3 is usual."
        ),
        io.Int.Input(
            "batch_size", default=2, min=1, max=64, tooltip="Pairs per step. Memory grows with it; more is steadier."
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=64,
            max=2048,
            step=32,
            tooltip=(
                "Side in pixels of the two parts that are cut from a picture. Smaller pictures are left out; best are "
                "pictures twice as wide."
            ),
        ),
        *layer_inputs("Which layers learn. A resumed file keeps its own.", preset),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=False,
            tooltip="Of start values and of all draws.",
        ),
        io.Combo.Input(
            "resume",
            options=[NONE, *listed(folder)],
            default=NONE,
            tooltip=f"An earlier {what} to go on with, for instance one that was interrupted. {NONE} begins anew.",
        ),
        io.String.Input(
            "filename_prefix",
            default=f"{folder}/{what}",
            tooltip=f"In the output folder. Files below {folder} can be loaded at once.",
        ),
    ]


def training_changed(pictures: str, folder: str, resume: str) -> tuple:
    """Stands for what a training reads: other pictures, or a file saved anew, are trained on again."""
    return input_folder_changed(pictures), None if resume == NONE else changed(folder, resume)


def earlier_file(folder: str, resume: str):
    """Path of the file that a training goes on with, or None."""
    return None if resume == NONE else found(folder, resume, "resume")
