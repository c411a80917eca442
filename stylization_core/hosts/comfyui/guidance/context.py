"""What is known of one ordinary sampling run: its levels, its noise, and the latent whose content is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ....errors import StylizationError
from ....randomness import stream
from ..model import Levels, NoiseWindow
from ..sms import NOT_FINITE, ProtectedRegion, Refinement, SpectrumHold
from .settings import ScoreGuidance

Windowed = SpectrumHold | Refinement | ScoreGuidance | ProtectedRegion
"""Settings with a percent window."""

EMPTY = "the run starts from an empty latent, so there is no content to keep"
NOISED = (
    "the run adds no noise to its input, which holds the noise of an earlier sampler already (add_noise is off, "
    "DisableNoise, or the second part of split sigmas), so the input is not the picture whose content is to be kept"
)


@dataclass(frozen=True)
class Missing:
    """What an error says where a run has no content: the input it is about, and what to do.

    Attributes:
        subject: the input.
        empty: where else the picture can be connected, when the run starts from an empty latent.
        noised: what to do when the run's input holds noise.
    """

    subject: str = "content"
    empty: str = "Connect VAE Encode of your picture to content, or sample from it"
    noised: str = "Connect VAE Encode of your picture to content"


class FiniteSoFar:
    """Whether what a run was made from is finite: noted at each step, asked once, since asking waits for the device."""

    def __init__(self):
        self._finite: Tensor | None = None

    def note(self, *predictions: Tensor) -> None:
        """Remember whether these are finite."""
        for prediction in predictions:
            finite = torch.isfinite(prediction).all()
            self._finite = finite if self._finite is None else self._finite & finite

    def check(self, subject: str, what: str) -> None:
        """After the run.

        Args:
            subject: the input to look at.
            what: what was noted, in words.

        Raises:
            StylizationError: some of it held NaN or infinite values.
        """
        if self._finite is not None and not self._finite:
            raise StylizationError(subject, f"{what} held NaN or infinite values in this run", NOT_FINITE)


class SamplingContext:
    """One sampling run as the operators in its steps see it.

    Args:
        guider: of the run, with its model loaded.
        sigmas: (steps + 1,) levels of the run.
        extra_args: the sampler's; holds the run's model options and seed.
        noise: (B, C, H, W).
        latent_image: the run's input in model scale, or None.
        strength: the dial's factor.

    Attributes:
        clean_input: whether the sampler starts from the picture itself although it adds no noise (an inversion).
    """

    def __init__(self, guider, sigmas, extra_args: dict, noise: Tensor, latent_image: Tensor | None, strength: float):
        self.guider, self.model_options = guider, extra_args["model_options"]
        self.seed, self.strength, self.noise = extra_args.get("seed") or 0, strength, noise
        self.latent_image, self.sigmas = latent_image, sigmas
        self.levels = Levels(guider.inner_model.model_sampling)
        self.visited = [sigma for sigma in sigmas.tolist() if sigma > 0]
        self.first = max(1, self.levels.timestep(max(self.visited, default=0.0)))
        self.clean_input = False
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

    @cached_property
    def adds_noise(self) -> bool:
        """Whether every picture of the run gets noise."""
        return bool(self.noise.flatten(1).any(1).all())

    @property
    def holds_noise(self) -> bool:
        """Whether the run's input is a noised latent: it begins above sigma 0 and adds no noise."""
        return float(self.sigmas[0]) > 0 and not self.adds_noise and not self.clean_input

    @cached_property
    def map_noise(self) -> Tensor:
        """Noise for questions about the clean content, like the run's own, which may add none: (B, C, H, W)."""
        if self.adds_noise:
            return self.noise
        drawn = torch.randn(self.noise.shape, generator=stream(self.seed, "guidance.map"))
        return drawn.to(self.noise)

    def content(self, connected: Tensor | None, missing: Missing = Missing()) -> Tensor:
        """The latent whose content is kept, in model scale: (B or 1, C, H, W).

        Args:
            connected: as a VAE gives it; None is the run's own input, the picture as long as the run adds the noise.
            missing: words for the errors.

        Raises:
            StylizationError: the run's own input is empty or holds noise already; the sizes differ.
        """
        subject = missing.subject
        if connected is not None:
            model = self.guider.inner_model
            content = model.process_latent_in(connected.to(self.noise.device, torch.float32))
        elif self.latent_image is None or not torch.count_nonzero(self.latent_image):
            raise StylizationError(subject, EMPTY, missing.empty)
        elif self.holds_noise:
            raise StylizationError(subject, NOISED, missing.noised)
        else:
            content = self.latent_image.float()
        wanted = self.noise.shape
        if content.shape[1:] != wanted[1:] or content.shape[0] not in (1, wanted[0]):
            raise StylizationError(
                subject,
                f"its latent is {tuple(content.shape)}, the run's is {tuple(wanted)}",
                "Encode a picture of the size that is sampled, with the VAE of this model",
            )
        return content
