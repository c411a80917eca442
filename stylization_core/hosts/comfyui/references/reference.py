"""Reference pictures: what a node gives, and the noised latent that a run sees of it at each level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....randomness import stream
from ..model import Levels
from .record_cache import RecordCache


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A reference's latents along an inversion.

    Attributes:
        sigmas: (T,) rising levels of the model; the first is 0 or the smallest.
        latents: (T, B, C, h, w) in model scale, float32.
    """

    sigmas: Tensor
    latents: Tensor

    def at(self, sigma: float) -> Tensor:
        """The latent at any level, (B, C, h, w): linear between the points, which is exact for Euler's steps.

        Beyond the ends the nearest step goes on.
        """
        sigmas = self.sigmas.double()
        if len(sigmas) == 1:
            return self.latents[0]
        after = int(torch.searchsorted(sigmas, torch.tensor(sigma, dtype=torch.float64)))
        after = min(max(after, 1), len(sigmas) - 1)
        low, high = sigmas[after - 1], sigmas[after]
        return torch.lerp(self.latents[after - 1], self.latents[after], float((sigma - low) / (high - low)))


@dataclass(frozen=True, eq=False)
class Reference:
    """One STYLIZE_REFERENCE entry; each picture of its batch counts as a reference of its own.

    Attributes:
        samples: clean latent as a VAE gives it, (B, C, h, w), of any size.
        positive, negative: CONDITIONING that describes it, or None for the run's own.
        weight: m, its mass counts like m copies.
        seed: of its noise.
        mask: (H, W) in [0, 1] of any size, which part of it counts; or None.
        trajectory: of an inversion; without one the latent is noised.
        cache: keeps what it gives from run to run; None keeps nothing.
    """

    samples: Tensor
    positive: list | None = None
    negative: list | None = None
    weight: float = 1.0
    seed: int = 0
    mask: Tensor | None = None
    trajectory: Trajectory | None = None
    cache: RecordCache | None = None


References = tuple[Reference, ...]


class NoisedReference:
    """A reference in one run: its latent at each level, in model scale on the run's device."""

    def __init__(self, reference: Reference, inner_model, levels: Levels, device):
        self.reference, self.levels, self.device = reference, levels, device
        self.clean = inner_model.process_latent_in(reference.samples.to(device, torch.float32))
        # by its own seed, so that a later run sees the same
        draws = stream(reference.seed, "reference")
        self.noise = torch.randn(reference.samples.shape, generator=draws).to(device)

    def at(self, sigma: float) -> Tensor:
        """(B, C, h, w)."""
        if self.reference.trajectory is not None:
            return self.reference.trajectory.at(sigma).to(self.device)
        return self.levels.noised(self.clean, self.noise, sigma)
