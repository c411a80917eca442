"""Trains a small network beside a frozen one, inside the graph.

What is trained is an :class:`Objective`; the loop around it is the same for all: a twin of the loaded network, one step
of AdamW per iteration, draws that depend on seed and step alone, so that a training which was stopped goes
on as if it had not been.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn

from ....errors import StylizationError
from ....randomness import stream
from ..model import (
    POLARITIES,
    POSITIVE,
    Act,
    Gradients,
    Layer,
    Levels,
    autograd,
    differentiable_options,
    network_bytes,
    twin_of,
    untrainable,
    with_self_attention,
)

REMEDY = "Train on a GPU that holds the whole model (--highvram), or with a smaller model"
SLOWER = "Lower learning_rate, or load the model in bf16 or fp32"
LARGEST = 1.0
"""Norm to which gradients are shortened."""

BROKEN = 20
"""So many steps in a row without finite gradients end a training."""

SAID = 100
"""The log says the mean loss of so many steps."""

CHECKS = 4
"""Batches on which loss with and without what was trained is compared at the end."""


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        steps: in all, those of an earlier file included.
        learning_rate: of AdamW, without decay.
        seed: of all draws.
    """

    steps: int
    learning_rate: float
    seed: int = 0


class Frozen:
    """A twin of the loaded network, which answers with what is trained inside it.

    Args:
        model_wrap: guider of a sampling run.
        device: of the run.
    """

    def __init__(self, model_wrap, device: torch.device):
        reason = untrainable(model_wrap.model_patcher)
        if reason:
            raise StylizationError("model", f"{reason}, so nothing can be trained through it", REMEDY)
        self.device, self.sampling = device, model_wrap.inner_model.model_sampling
        self.levels = Levels(self.sampling)
        self.cond = model_wrap.conds[POLARITIES[POSITIVE]][:1]
        self._twin = twin_of(model_wrap.inner_model, REMEDY)

    def sigmas(self, shares: Tensor) -> Tensor:
        """Levels of the model at shares of its noise chain, (B,)."""
        low, high = float(self.sampling.sigma_min), float(self.sampling.sigma_max)
        sigmas = [min(max(float(self.sampling.percent_to_sigma(float(share))), low), high) for share in shares]
        return torch.tensor(sigmas, device=self.device)

    def ratios(self, sigmas: Tensor) -> Tensor:
        """Noise-to-signal ratios of levels."""
        return torch.tensor([self.levels.reference(float(sigma)) for sigma in sigmas], device=self.device)

    def noised(self, x: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
        """``x`` (B, C, H, W) with noise, each row at its own level (B,)."""
        return self.sampling.noise_scaling(sigmas[:, None, None, None], noise, x, False)

    def denoised(self, x: Tensor, sigmas: Tensor, layers: frozenset[Layer], act: Act) -> Tensor:
        """The network's estimate of the pictures, its self-attention in ``layers`` through ``act``."""
        options = with_self_attention(differentiable_options({}), layers, act)
        return comfy.samplers.calc_cond_batch(self._twin, [self.cond], x, sigmas, options)[0]

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents as a VAE gives them, in the model's scale on its device."""
        return self._twin.process_latent_in(latents.to(self.device, torch.float32))


class Objective(Protocol):
    """What is trained.

    Attributes:
        purpose: name of its stream of random numbers.
        parameters: by the names of the file.
    """

    purpose: str

    def parameters(self) -> Mapping[str, nn.Parameter]: ...

    def loss(self, frozen: Frozen, draws: torch.Generator, *, idle: bool = False) -> Callable[[], Tensor]:
        """A loss, (), of a batch drawn now; ``idle`` is the denoising loss of the network alone on the same draws."""


def state_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What an optimiser remembers, by the names of its parameters."""
    return {
        f"{name}.{part}": value.detach().cpu().clone()
        for name, parameter in parameters.items()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def _restored(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]):
    for name, parameter in parameters.items():
        parts = {
            part: state[f"{name}.{part}"] for part in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{part}" in state
        }
        if parts:
            # AdamW keeps its count on the CPU
            place = lambda part, value: value.clone() if part == "step" else value.to(parameter).clone()  # noqa: B023, E731
            optimizer.state[parameter] = {part: place(part, value) for part, value in parts.items()}


class TrainingSampler(comfy.samplers.Sampler):
    """Trains inside a sampling run; what was reached stays in ``objective`` and here, however the run ends.

    Args:
        objective: what is trained; its modules stand on the CPU before and after.
        modules: those that the training moves to the device.
        plan: how.
        start: steps done before.
        state: of the optimiser then; see :func:`state_tensors`.
    """

    def __init__(
        self,
        objective: Objective,
        modules: list[nn.Module],
        plan: Plan,
        start: int = 0,
        state: Mapping[str, Tensor] | None = None,
    ):
        self.objective, self.modules, self.plan, self.step = objective, modules, plan, start
        self.state: dict[str, Tensor] = dict(state or {})
        self.losses: list[float] = []
        self.gain: float | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_others, **_named):
        """Called by the guider; the latent comes back as it was."""
        with autograd():
            try:
                frozen = Frozen(model_wrap, noise.device)
                self._train(frozen, callback, latent_image)
                self.gain = self._compared(frozen)
            finally:
                for module in self.modules:
                    module.to("cpu").requires_grad_(False)
        return latent_image

    def _train(self, frozen: Frozen, callback: Callable | None, latent: Tensor) -> None:
        for module in self.modules:
            module.to(frozen.device).requires_grad_(True)
        parameters, gradients, broken = self.objective.parameters(), Gradients(), 0
        factors = list(parameters.values())
        optimizer = torch.optim.AdamW(factors, lr=self.plan.learning_rate, weight_decay=0.0)
        _restored(optimizer, parameters, self.state)
        try:
            while self.step < self.plan.steps:
                comfy.model_management.throw_exception_if_processing_interrupted()
                loss = self.objective.loss(frozen, stream(self.plan.seed, f"{self.objective.purpose}.{self.step}"))
                # float16 would lose gradients that the mean has divided by the number of elements
                scale = float(latent.numel())
                value, slopes = gradients.of(loss, factors, scale)
                self._refuse_broken(value, broken)
                broken = 0 if _descended(optimizer, factors, slopes, scale) else broken + 1
                self.losses.append(float(value))
                self.step += 1
                if self.step % SAID == 0:
                    recent = self.losses[-SAID:]
                    text = "[Stylization] step %d of %d: loss %.4f"
                    logging.info(text, self.step, self.plan.steps, sum(recent) / len(recent))
                if callback is not None:
                    callback(self.step - 1, latent, latent, self.plan.steps)
        finally:
            self.state = state_tensors(optimizer, parameters)

    def _refuse_broken(self, loss: Tensor, broken: int) -> None:
        if not loss.isfinite():
            raise StylizationError("learning_rate", f"the loss is {float(loss)} after {self.step} steps", SLOWER)
        if broken >= BROKEN:
            raise StylizationError("model", f"gradients of {broken} steps in a row were not finite", SLOWER)

    @torch.no_grad()
    def _compared(self, frozen: Frozen) -> float:
        """Share of the denoising loss that what was trained takes away, on batches drawn for it."""
        sums = [0.0, 0.0]
        for place in range(CHECKS):
            for index, idle in enumerate((False, True)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                draws = stream(self.plan.seed, f"{self.objective.purpose}.check.{place}")
                sums[index] += float(self.objective.loss(frozen, draws, idle=idle)())
        gain = 1 - sums[0] / max(sums[1], 1e-12)
        text = "[Stylization] %d steps of training; loss of %d fresh batches %.4f, without it %.4f (%.2f %% less)"
        logging.info(text, self.step, CHECKS, sums[0] / CHECKS, sums[1] / CHECKS, 100 * gain)
        return gain


def _descended(optimizer: torch.optim.Optimizer, factors: list, slopes: tuple, scale: float) -> bool:
    """One step, unless a gradient is not finite, as float16's may be; says whether all were.

    Without gradients (of a batch in which all was dropped) there is nothing to do.
    """
    if not slopes:
        return True
    for factor, slope in zip(factors, slopes, strict=True):
        factor.grad = None if slope is None else slope / scale
    norm = nn.utils.clip_grad_norm_(factors, LARGEST)
    finite = bool(norm.isfinite())
    if finite:
        optimizer.step()
    optimizer.zero_grad()
    return finite


def training_bytes(patcher, parameters: Mapping[str, Tensor]) -> int:
    """Bytes that a training holds: the copied network, what is trained, its gradients and moments.

    The activations of one step come on top; they grow with batch and size.
    """
    return network_bytes(patcher) + 4 * sum(one.numel() * one.element_size() for one in parameters.values())


def plain_prompt(conditioning: list) -> list:
    """A CONDITIONING for the whole picture and all levels, without ControlNets."""
    left_out = ("area", "mask", "mask_strength", "set_area_to_bounds", "start_percent", "end_percent", "control")
    return [[tokens, {k: v for k, v in entry.items() if k not in left_out}] for tokens, entry in conditioning[:1]]
