"""What all operators on self-attention share in one run: window, strength, mask, and the references that they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ....masks import latent_mask
from ..model import NEGATIVE, NoiseWindow
from ..references import Recorder, Reference, References


@dataclass(frozen=True)
class RunContext:
    """One sampling run as its operators see it.

    Attributes:
        sampling: the model's ``model_sampling``.
        noise: (B, C, H, W), for size and device.
        strength: the dial's factor.
        recorders: by identity of the reference.
    """

    sampling: object
    noise: Tensor
    strength: float
    recorders: Mapping[int, Recorder]


class Windowed(Protocol):
    """Settings of an operator.

    Attributes:
        node: display name of the node that made them.
        start, end: percent window.
    """

    node: str
    start: float
    end: float


class Operator:
    """A node's settings at work in one run.

    Args:
        settings: what the node left on the MODEL.
        run: the run.
        references: those that it reads.
        strength: the node's own, multiplied by the dial's here.
        negative: factor on it under the negative prompt.
        mask: where in the picture, (B or 1, H, W) in [0, 1] of any size, or None.
    """

    def __init__(
        self,
        settings: Windowed,
        run: RunContext,
        references: References,
        strength: float = 1.0,
        negative: float = 1.0,
        mask: Tensor | None = None,
    ):
        self.settings = settings
        self.window = NoiseWindow(run.sampling, settings.start, settings.end)
        self.strength = strength * run.strength
        self._negative = negative
        self.mask = latent_mask(mask, run.noise)
        self.recorders = [run.recorders[id(one)] for one in references if id(one) in run.recorders]

    def strength_under(self, polarity: int) -> float:
        """Share of the change under one polarity."""
        return self.strength * (self._negative if polarity == NEGATIVE else 1.0)

    def acts(self, polarity: int) -> bool:
        """Whether it changes predictions of a polarity; what does not act records nothing."""
        return self.strength_under(polarity) != 0


def weight_of(reference: Reference) -> float:
    """How much a reference counts in a mixture; each of its pictures alike."""
    return reference.weight * len(reference.samples)
