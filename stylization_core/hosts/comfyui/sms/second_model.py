"""A style's own network beside the base, during one run."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ..model import NEGATIVE, POSITIVE, Branch, active, predict
from .row_gate import RowGate
from .style_branch import attached

STYLE = "style"
PROMPT_PAIR = (("positive", POSITIVE), ("negative", NEGATIVE))
"""What guidance asks: key of the conditioning, and polarity."""

SECOND_MODEL = "stylization.style_model"


class SecondModel:
    """A style's own network during one run."""

    def __init__(self, patcher, conditionings: dict[str, list]):
        self.patcher = patcher
        self.raw = {key: list(map(dict, conditionings[key])) for key, _ in PROMPT_PAIR if key in conditionings}
        branch = attached(patcher)
        self.gate = None if branch is None else RowGate(branch, STYLE)

    def open(self, noise, latent_image, device, denoise_mask, sigmas, latent_shapes) -> None:
        """Make the conditionings ready; ``latent_image`` is the run's input as the guider got it."""
        model = self.patcher.model
        self.options = comfy.model_patcher.create_model_options_clone(self.patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, self.raw, self.options)
        comfy.samplers.cast_to_load_options(self.options, device=device, dtype=self.patcher.model_dtype())
        self.options["transformer_options"]["sample_sigmas"] = sigmas
        self.patcher.pre_run()
        if latent_image is not None and torch.count_nonzero(latent_image) > 0:
            latent_image = model.process_latent_in(latent_image)
        self.conds = comfy.samplers.process_conds(
            model, noise, self.raw, device, latent_image, denoise_mask, latent_shapes=latent_shapes
        )

    def predict(self, prompts, x: Tensor, level: Tensor, progress: float | None) -> list[Tensor]:
        """Denoised predictions for (key of the conditioning, polarity) pairs."""
        requests = [(Branch(STYLE, polarity), active(self.conds[key], progress)) for key, polarity in prompts]
        return predict(self.patcher.model, requests, x, level, self.options, self.gate)

    def close(self) -> None:
        """As ComfyUI ends a run of the model."""
        self.patcher.cleanup()
