"""One training, from a folder of pictures to the files that it leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import comfy.model_management
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from ....errors import StylizationError, naming
from ....tensor_files import write_tensors
from ....trained_files import LayerNetworks, read_state, resume_path
from ..attention import check_trained
from ..model import (
    Layer,
    at_dial,
    check_prefix,
    family_of,
    refuse_weight_hooks,
    saved_in_any_case,
    self_attention_layers,
)
from .loop import Objective, Plan, TrainingSampler, plain_prompt, training_bytes
from .picture_folders import encoded_pictures, picture_files

RESUME_FORMAT = "stylization-training/1"

Objectives = Callable[[LayerNetworks, list[Tensor], int], Objective]
"""Makes what is trained of the networks, the latents (C, h, w) of whole pictures, and the side of a part in cells."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a training node was given.

    Attributes:
        node: its display name.
        model, vae, positive: as connected.
        folder: of the pictures, below ComfyUI's input folder.
        plan: how.
        resolution: side of a part in pixels.
        prefix: of the files.
    """

    node: str
    model: object
    vae: object
    positive: list
    folder: str
    plan: Plan
    resolution: int
    prefix: str

    def run(self, networks: LayerNetworks, state: Mapping[str, Tensor], objectives: Objectives) -> LayerNetworks:
        """Train networks on the pictures; what was reached is saved, however it ends.

        Args:
            networks: see :func:`networks_to_train`.
            state: of the optimiser.
            objectives: what is trained.

        Raises:
            StylizationError: bad input, before anything is trained; or afterwards, if the disk refused the files.
        """
        with naming(self.node):
            check_prefix(self.prefix)
            if networks.steps >= self.plan.steps:
                raise StylizationError("steps", f"the file has {networks.steps} already", "Give more steps than it has")
            prompt = plain_prompt(self.positive)
            refuse_weight_hooks([entry for _, entry in prompt], "positive", "Load that LoRA with 'Load LoRA'")
            objective = objectives(networks, self._latents(), self._cells)
        sampler = TrainingSampler(objective, list(networks.layers.values()), self.plan, networks.steps, state)
        refused = None
        try:
            with naming(self.node):
                self._sample(prompt, sampler)
        finally:
            trained = self._described(networks, sampler)
            if sampler.step > networks.steps:
                refused = self._save(trained, sampler.state)
        if refused is not None:
            raise refused
        return trained

    def _latents(self) -> list[Tensor]:
        """Of the pictures, (C, h, w) each."""
        latents = encoded_pictures(picture_files(self.folder), self.vae, self.resolution)
        wanted = self.model.model.latent_format.latent_channels
        if latents[0].shape[0] != wanted:
            found = f"its latents have {latents[0].shape[0]} channels, latents of model have {wanted}"
            raise StylizationError("vae", found, "Connect the VAE that belongs to model")
        return latents

    @property
    def _cells(self) -> int:
        """Side of a part in cells of the latent."""
        return self.resolution // self.vae.spacial_compression_encode()

    def _sample(self, prompt: list, sampler: TrainingSampler) -> None:
        needed = training_bytes(self.model, sampler.objective.parameters())
        logging.info("[Stylization] training: %.0f MiB beside the model, and a step's activations", needed / 2**20)
        comfy.model_management.free_memory(needed, self.model.load_device)
        guider = comfy.samplers.CFGGuider(at_dial(self.model, 0.0))
        guider.set_conds(prompt, prompt)
        blank = torch.zeros(1, self.model.model.latent_format.latent_channels, self._cells, self._cells)
        callback = latent_preview.prepare_callback(self.model, self.plan.steps)
        guider.sample(blank, blank, sampler, torch.tensor([1.0, 0.0]), callback=callback, seed=0)

    def _described(self, networks: LayerNetworks, sampler: TrainingSampler) -> LayerNetworks:
        gain = "" if sampler.gain is None else f", takes {100 * sampler.gain:.2f} % of the loss"
        summary = f"{sampler.step} steps at {self.plan.learning_rate:g}, {self.resolution} pixels{gain}"
        return replace(networks, steps=sampler.step, summary=summary)

    def _save(self, trained: LayerNetworks, state: Mapping[str, Tensor]) -> StylizationError | None:
        """Write the networks and, beside them, what goes on from there; the error to end with if they have no place."""
        try:
            path = saved_in_any_case(self.prefix, f"{trained.steps} steps of training", trained.save)
        except StylizationError as error:
            error.node = self.node
            return error
        logging.info("[Stylization] %s: %s", path, trained.summary)
        try:
            write_tensors(state, resume_path(path), {"format": RESUME_FORMAT, "steps": str(trained.steps)})
        except OSError as error:
            logging.error("[Stylization] %s: whoever goes on begins its optimiser anew (%s)", path.name, error)
        return None


def networks_to_train(
    kind: type[LayerNetworks], model, chosen: frozenset[Layer], seed: int, earlier: Path | None, maker: str
) -> tuple[LayerNetworks, dict[str, Tensor]]:
    """Networks, and the state of their optimiser: new ones for the chosen layers, or those of an earlier file.

    Args:
        maker: display name of the node that writes such files.
    """
    # what is made in inference mode cannot be trained
    with torch.inference_mode(False):
        if earlier is None:
            places = self_attention_layers(model.model.diffusion_model)
            return kind.untrained(family_of(model), {str(one): places[one].width for one in chosen}, seed), {}
        networks = kind.load(earlier, maker)
        check_trained(networks, "resume", model)
        return networks, _resume_state(earlier, networks)


def loaded_networks(kind: type[LayerNetworks], path: Path, maker: str) -> LayerNetworks:
    """Networks of a file, as ordinary tensors: what is trained while they act needs gradients through them.

    Args:
        maker: display name of the node that writes such files.
    """
    with torch.inference_mode(False):
        return kind.load(path, maker)


def _resume_state(path: Path, networks: LayerNetworks) -> dict[str, Tensor]:
    """What the training of a file needs to go on, or nothing (logged) where that is missing or of another step."""
    beside = resume_path(path)
    if not beside.exists():
        logging.warning("[Stylization] %s is not there; the optimiser begins anew", beside.name)
        return {}
    state = read_state(beside, RESUME_FORMAT, networks)
    if state is None:
        logging.warning("[Stylization] %s is of another step; the optimiser begins anew", beside.name)
    return state or {}
