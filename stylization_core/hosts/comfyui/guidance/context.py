"""What is known of one ordinary sampling run: its levels, its noise, and the latent whose content is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ....errors import StylizationError
from ..model import Levels, NoiseWindow
from ..sms import ProtectedRegion, Refinement, SpectrumHold
from .settings import ScoreGuidance

Windowed = SpectrumHold | Refinement | ScoreGuidance | ProtectedRegion
"""Settings with a percent window."""

EMPTY = "the run starts from an empty latent, so there is no content to keep"


class SamplingContext:
    """One sampling run as the operators in its steps see it.

    Args:
        guider: of the run, with its model loaded.
        sigmas: (steps + 1,) levels of the run.
        extra_args: the sampler's; holds the run's model options and seed.
        noise: (B, C, H, W).
        latent_image: the run's input in model scale, or None.
        strength: the dial's factor.
    """

    def __init__(self, guider, sigmas, extra_args: dict, noise: Tensor, latent_image: Tensor | None, strength: float):
        self.guider, self.given = guider, extra_args["model_options"]
        self.seed, self.strength, self.noise = extra_args.get("seed") or 0, strength, noise
        self.latent_image, self.sigmas = latent_image, sigmas
        self.levels = Levels(guider.inner_model.model_sampling)
        self.visited = [sigma for sigma in sigmas.tolist() if sigma > 0]
        self.first = max(1, self.levels.timestep(max(self.visited, default=0.0)))
        self._level: tuple[Tensor | None, float] = (None, 0.0)

    def sigma(self, level: Tensor) -> float:
        """A step's level as a number; a step asks with one tensor again and again, and waits for the device once."""
        if self._level[0] is not level:
            self._level = (level, float(level.max()))
        return self._level[1]

    def entered(self, settings: Windowed) -> bool:
        """Whether any level between the run's first and its last above zero lies in the settings' window."""
        return bool(self.visited) and self.window(settings).meets(min(self.visited), max(self.visited))

    def window(self, settings: Windowed) -> NoiseWindow:
        return NoiseWindow(self.levels.sampling, settings.start, settings.end)

    def content(
        self, given: Tensor | None, subject: str = "content", remedy: str = "content, or sample from it"
    ) -> Tensor:
        """The latent whose content is kept, in model scale, like the run's; ``remedy`` is where else to connect it."""
        if given is not None:
            model = self.guider.inner_model
            content = model.process_latent_in(given.to(self.noise.device, torch.float32))
        elif self.latent_image is not None and torch.count_nonzero(self.latent_image):
            content = self.latent_image.float()
        else:
            raise StylizationError(subject, EMPTY, f"Connect VAE Encode of your picture to {remedy}")
        wanted = self.noise.shape
        if content.shape[1:] != wanted[1:] or content.shape[0] not in (1, wanted[0]):
            raise StylizationError(
                subject,
                f"its latent is {tuple(content.shape)}, the run's is {tuple(wanted)}",
                "Encode a picture of the size that is sampled, with the VAE of this model",
            )
        return content
