"""Inverts a reference with the loaded model, as a SAMPLER so that ComfyUI loads and prepares everything."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ....inversion import invert, lift_vp
from ..model import Levels
from .reference import Trajectory


class InversionSampler(comfy.samplers.Sampler):
    """Walks from the clean latent up in noise; leaves the path in ``trajectory``. SIGMAS fall, as samplers take them.

    Args:
        refinements: see :func:`invert`.

    Attributes:
        clean_input: the run starts from the picture itself although it adds no noise.
    """

    clean_input = True

    def __init__(self, refinements: int = 0):
        self.refinements = refinements
        self.trajectory: Trajectory | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_others, **_named):
        """Called by the guider; returns the latent at the highest level."""
        clean = latent_image.float()
        levels = [0.0, *(float(sigma) for sigma in sigmas.flip(0) if sigma > 0)]

        def denoise(x: Tensor, sigma: float) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return model_wrap(x, x.new_full((x.shape[0],), sigma), **extra_args).float()

        found = []
        lift = None if Levels(model_wrap.inner_model.model_sampling).flow else lift_vp
        for x in invert(clean, levels, denoise, refinements=self.refinements, lift=lift):
            found.append(x.cpu())
            if callback is not None and len(found) > 1:
                callback(len(found) - 2, x, x, len(levels) - 1)
        self.trajectory = Trajectory(torch.tensor(levels), torch.stack(found))
        return latent_image
