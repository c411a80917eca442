"""Trials of the fake score that is trained: what a test does with one inside a sampling run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from stylization.stylization_core.hosts.comfyui.model import predictions as branches
from stylization.stylization_core.hosts.comfyui.sms import trained_fake
from stylization_host.wiring import FAMILIES

from . import micro, runs

SIGMA = runs.SIGMA


@dataclass
class Trial:
    """A sampling run of a model, from inside: a latent, the same with noise, and a prompt."""

    patcher: object
    guider: object
    options: dict
    clean: torch.Tensor
    noise: torch.Tensor

    @property
    def inner(self):
        return self.guider.inner_model

    @property
    def noised(self) -> torch.Tensor:
        sampling = self.inner.model_sampling
        return sampling.noise_scaling(self.clean.new_full((1, 1, 1, 1), SIGMA), self.noise, self.clean, False)

    @property
    def level(self) -> torch.Tensor:
        return self.clean.new_full((self.clean.shape[0],), SIGMA)

    def fake(self, **settings) -> trained_fake.TrainedFake:
        return trained_fake.TrainedFake(self.inner, **settings)

    def requests(self) -> list:
        kinds = ((runs.BASE, "positive"), (runs.BASE_NEGATIVE, "negative"))
        return [(branch, self.guider.conds[key]) for branch, key in kinds if key in self.guider.conds]

    def base(self) -> list[torch.Tensor]:
        return branches.predict(self.inner, self.requests(), self.noised, self.level, self.options)

    def predict(self, fake) -> list[torch.Tensor]:
        return fake.predict(self.requests(), self.noised, self.level, self.options)

    def train(self, fake, steps: int = 1, weight: float | None = None) -> list[float]:
        weight = trained_fake.published_weight(SIGMA) if weight is None else weight
        call = (self.requests()[0], self.clean, self.noised, self.level, weight, self.options)
        return [float(fake.train(*call)) for _ in range(steps)]


def trial(patcher, body: Callable, conditionings: dict | None = None, rows: int = 1, channels: int = 4):
    """What ``body(Trial)`` returns inside a sampling run of ``patcher``, in inference mode."""
    conditionings = runs.pair() if conditionings is None else conditionings
    clean, noise = runs.drawn(rows, channels, 8, 8, seed=8), runs.drawn(rows, channels, 8, 8, seed=9)

    def ask(guider, options):
        # what reaches a node at run time is made of inference tensors
        return body(Trial(patcher, guider, options, clean.clone(), noise.clone()))

    return runs.inside(patcher, conditionings, clean, ask)


def of_family(wiring_model: Callable, family: str, body: Callable, **others):
    """A trial on that wiring model, or on the micro networks ``unet`` and ``flux``."""
    if family == "unet":
        return trial(micro.unet(), body, **others)
    if family == "flux":
        return trial(micro.flux(), body, runs.pair(64, 32), channels=16, **others)
    known = FAMILIES[family]
    conditionings = runs.pair(known.width, known.pooled)
    return trial(wiring_model(family), body, conditionings, channels=known.channels, **others)


def factors(fake, part: str = "lora_") -> dict[str, torch.Tensor]:
    """The adapter's parameters by name, as they are now."""
    named = fake._twin.diffusion_model.named_parameters()
    return {name: value.detach().clone() for name, value in named if part in name}


def falls(losses: list[float]) -> bool:
    return all(later < earlier for earlier, later in zip(losses[:-1], losses[1:], strict=True))
