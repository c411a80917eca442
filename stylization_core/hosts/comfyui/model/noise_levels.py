"""Noise levels of the reference chain in a loaded model's own parametrisation, matched by signal-to-noise ratio."""

from __future__ import annotations

import math
from functools import cached_property

import comfy.model_sampling
import torch
from torch import Tensor

from ....sms.schedule import flow_sigma, lowest_timestep, nearest_timestep, upper_timesteps, vp_sigma

REFERENCE_CELLS = 64 * 64
"""Latent size at which the published range of levels was chosen."""


class Levels:
    """Both directions between the reference chain's sigma_k and the levels of a model.

    Args:
        sampling: the model's ``model_sampling``.
    """

    def __init__(self, sampling):
        self.sampling = sampling
        self.flow = isinstance(sampling, comfy.model_sampling.CONST)

    @cached_property
    def _range(self) -> tuple[float, float]:
        """Smallest and largest level. They lie on the device, which is waited for once and not at every step."""
        return float(self.sampling.sigma_min), float(self.sampling.sigma_max)

    def model(self, sigma_k: float) -> float:
        """The model's level, within the range that it knows."""
        sigma = flow_sigma(sigma_k) if self.flow else sigma_k
        lowest, highest = self._range
        return min(max(sigma, lowest), highest)

    def reference(self, sigma: float) -> float:
        """sigma_k of a level of the model; infinite for pure noise of a flow."""
        if not self.flow:
            return sigma
        return sigma / (1 - sigma) if sigma < 1 else math.inf

    def timestep(self, sigma: float) -> int:
        """The nearest timestep of the reference chain."""
        return nearest_timestep(self.reference(sigma))

    def noised(self, x: Tensor, noise: Tensor, sigma: float) -> Tensor:
        """``x`` (B, C, H, W) with noise at a level of the model, as the model's own sampling mixes them."""
        return self.sampling.noise_scaling(x.new_full((x.shape[0], 1, 1, 1), sigma), noise, x, False)

    def bounds(self, steps: int, t_min: float, t_max: float, narrowing: bool, cells: int | None = None) -> Tensor:
        """SIGMAS of an SMS run, (steps + 1,): the largest level of each step, then the smallest of all.

        Args:
            cells: height times width of the latent. Larger pictures hide less under the same noise, so the levels of
                flow models, which have no training size of their own, grow with the root of the area.
        """
        scale = max(1.0, math.sqrt((cells or 0) / REFERENCE_CELLS)) if self.flow else 1.0
        timesteps = (*upper_timesteps(steps, t_min=t_min, t_max=t_max, narrowing=narrowing), lowest_timestep(t_min))
        return torch.tensor([self.model(scale * vp_sigma(t)) for t in timesteps])


class NoiseWindow:
    """A percent window of an ordinary sampling run, in noise levels of the model.

    Args:
        sampling: the model's ``model_sampling``.
        start, end: shares of the noise chain; 0 and 1 are its ends, whatever the run's levels.
    """

    def __init__(self, sampling, start: float, end: float):
        self.highest = math.inf if start <= 0 else float(sampling.percent_to_sigma(start))
        self.lowest = -math.inf if end >= 1 else float(sampling.percent_to_sigma(end))

    def open_at(self, sigma: float) -> bool:
        """Whether a level lies inside."""
        return self.lowest <= sigma <= self.highest

    def meets(self, lowest: float, highest: float) -> bool:
        """Whether any level of a range lies inside."""
        return max(self.lowest, lowest) <= min(self.highest, highest)


class StepLevel:
    """A step's level as a number: all who ask in one step have the same tensor, so the device is waited for once."""

    def __init__(self):
        self._seen: tuple[Tensor | None, float] = (None, 0.0)

    def __call__(self, level: Tensor) -> float:
        """The highest level of a batch, (B,)."""
        if self._seen[0] is not level:
            self._seen = level, float(level.max())
        return self._seen[1]
