"""Adam on one tensor with a given gradient; no autograd, no parameter groups."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8 * 16384
"""Published: eps 1e-8 on a gradient divided by N = 4 * 64 * 64. Without that division the same optimiser has this
eps at every latent size; it is what lets the relevance map act, because gradients are of its order."""


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) in float32.

    Args:
        like: tensor whose shape and device the moments take.
        betas: decay of the two moments.
        eps: added to the root of the second moment; :data:`EPS` for SMS.
        shared: one second moment for each picture, the mean over its elements, instead of one per element. Then the
            step keeps the gradient's own proportions: strong directions move more, weak ones and noise less.

    Attributes:
        spread: what the last step was divided by, broadcasts to the tensor; None before the first.
    """

    def __init__(
        self, like: Tensor, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = EPS, shared: bool = False
    ):
        self.first = torch.zeros_like(like, dtype=torch.float32)
        self.second = torch.zeros_like(like, dtype=torch.float32)
        self.betas, self.eps, self.count = betas, eps, 0
        self.spread: Tensor | None = None
        self.shared = shared

    def step(self, gradient: Tensor, size: float) -> Tensor:
        """What one step of ``size`` takes from the tensor; like ``gradient``."""
        self.count += 1
        beta1, beta2 = self.betas
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean = self.first / (1 - beta1**self.count)
        second = self.second.mean(tuple(range(1, gradient.ndim)), keepdim=True) if self.shared else self.second
        self.spread = (second / (1 - beta2**self.count)).sqrt_().add_(self.eps)
        return size * mean / self.spread
