"""What the training nodes share: inputs, the run, and the files that it leaves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management
import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io
from torch import Tensor

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.attention import check_trained
from ...stylization_core.hosts.comfyui.model import (
    Layer,
    at_dial,
    family_of,
    refuse_weight_hooks,
    self_attention_layers,
)
from ...stylization_core.hosts.comfyui.training import (
    Lesson,
    Plan,
    TrainingSampler,
    encoded_pictures,
    input_folder_changed,
    picture_files,
    plain_prompt,
    training_bytes,
)
from ...stylization_core.trained_files import LayerNetworks, read, resume_path, write
from ..files import NONE, changed, found, listed, new_path
from ..inputs import check_channels, layer_inputs

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


@dataclass(frozen=True)
class Training:
    """One training, from pictures to files.

    Attributes:
        node: display name.
        model, vae, positive: as connected.
        plan: how.
        resolution: side of a part in pixels.
        prefix: of the files.
    """

    node: str
    model: object
    vae: object
    positive: list
    plan: Plan
    resolution: int
    prefix: str

    def pictures(self, folder: str) -> list[Tensor]:
        """Latents of the pictures in a folder, (C, h, w) each."""
        found = encoded_pictures(picture_files(folder), self.vae, self.resolution)
        check_channels(self.model, found[0][None], "vae")
        return found

    @property
    def cells(self) -> int:
        """Side of a part in cells of the latent."""
        return self.resolution // self.vae.spacial_compression_encode()

    def run(self, lesson: Lesson, begun: LayerNetworks, state: Mapping[str, Tensor]) -> LayerNetworks:
        """Train; what was reached is saved, however it ends.

        Args:
            begun: what the lesson trains.
            state: of the optimiser.
        """
        if begun.steps >= self.plan.steps:
            raise StylizationError("steps", f"the file has {begun.steps} already", "Give more steps than it has")
        prompt = plain_prompt(self.positive)
        refuse_weight_hooks([entry for _, entry in prompt], "positive", "Load that LoRA with 'Load LoRA'")
        needed = training_bytes(self.model, lesson.parameters())
        logging.info("[Stylization] training: %.0f MiB beside the model, and a step's activations", needed / 2**20)
        comfy.model_management.free_memory(needed, self.model.load_device)
        guider = comfy.samplers.CFGGuider(at_dial(self.model, 0.0))
        guider.set_conds(prompt, prompt)
        blank = torch.zeros(1, self.model.model.latent_format.latent_channels, self.cells, self.cells)
        sampler = TrainingSampler(lesson, list(begun.layers.values()), self.plan, begun.steps, state)
        callback = latent_preview.prepare_callback(self.model, self.plan.steps)
        try:
            with naming(self.node):
                guider.sample(blank, blank, sampler, torch.tensor([1.0, 0.0]), callback=callback, seed=0)
        finally:
            reached = self._reached(begun, sampler)
            if sampler.step > begun.steps:
                self._save(reached, sampler.state)
        return reached

    def _reached(self, begun: LayerNetworks, sampler: TrainingSampler) -> LayerNetworks:
        gain = "" if sampler.gain is None else f", takes {100 * sampler.gain:.2f} % of the loss"
        summary = f"{sampler.step} steps at {self.plan.learning_rate:g}, {self.resolution} pixels{gain}"
        return replace(begun, steps=sampler.step, summary=summary)

    def _save(self, reached: LayerNetworks, state: Mapping[str, Tensor]) -> None:
        path = new_path(self.prefix)
        try:
            reached.save(path)
            write(state, resume_path(path), {"format": RESUME_FORMAT, "steps": str(reached.steps)})
        except OSError as error:
            logging.error("[Stylization] %d steps of training could not be saved: %s", reached.steps, error)
            return
        logging.info("[Stylization] %s: %s", path, reached.summary)


RESUME_FORMAT = "stylization-training/1"


def begun(kind: type[LayerNetworks], model, chosen: frozenset[Layer], seed: int, folder: str, resume: str):
    """Networks to train, and the state of their optimiser: new ones for the chosen layers, or those of a file."""
    # what is made in inference mode cannot be trained
    with torch.inference_mode(False):
        if resume == NONE:
            places = self_attention_layers(model.model.diffusion_model)
            return kind.untrained(family_of(model), {str(one): places[one].width for one in chosen}, seed), {}
        path = found(folder, resume, "resume")
        earlier = kind.load(path)
        check_trained(earlier, "resume", model)
        return earlier, _resume_state(path, earlier.steps)


def loaded(kind: type[LayerNetworks], path: Path) -> LayerNetworks:
    """Networks of a file, as ordinary tensors: what is trained while they act needs gradients through them."""
    with torch.inference_mode(False):
        return kind.load(path)


def _resume_state(path: Path, steps: int) -> dict[str, Tensor]:
    """What the training of a file needs to go on, or nothing (logged) where that is missing or of another step."""
    beside = resume_path(path)
    if not beside.exists():
        logging.warning("[Stylization] %s is not there; the optimiser begins anew", beside.name)
        return {}
    tensors, metadata = read(beside, RESUME_FORMAT, "a training node of this pack")
    if metadata.get("steps") != str(steps):
        logging.warning("[Stylization] %s is of another step; the optimiser begins anew", beside.name)
        return {}
    return tensors


def training_changed(pictures: str, folder: str, resume: str) -> tuple:
    """Stands for what a training reads: other pictures, or a file saved anew, are trained on again."""
    return input_folder_changed(pictures), None if resume == NONE else changed(folder, resume)
