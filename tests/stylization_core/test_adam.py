"""The optimiser against torch's own."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.sms.adam import EPS, Adam

CELLS = 4 * 64 * 64
STEPS = 40


def gradients(seed: int = 0) -> list[torch.Tensor]:
    """Gradients of the size that SMS sees, with regions that differ by a factor of a hundred."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-6, -2, CELLS)
    return [torch.randn(CELLS, generator=generator) * scale for _ in range(STEPS)]


def torch_adam(start: torch.Tensor, given: list[torch.Tensor], sizes: list[float], eps: float, dtype) -> torch.Tensor:
    x = torch.nn.Parameter(start.to(dtype))
    optimiser = torch.optim.Adam([x], lr=1.0, eps=eps)
    for gradient, size in zip(given, sizes, strict=True):
        optimiser.param_groups[0]["lr"] = size
        x.grad = gradient.to(dtype)
        optimiser.step()
    return x.detach()


def ours(start: torch.Tensor, given: list[torch.Tensor], sizes: list[float], **settings) -> torch.Tensor:
    adam, x = Adam(start, **settings), start
    for gradient, size in zip(given, sizes, strict=True):
        x = x - adam.step(gradient, size)
    return x


def test_published_mean_gradients_with_eps_1e_8_equal_sum_gradients_with_our_eps():
    start, given = torch.randn(CELLS), gradients()
    sizes = [0.1 * (step + 1) / STEPS for step in range(STEPS)]
    published = torch_adam(start, [g / CELLS for g in given], sizes, 1e-8, torch.float64)
    assert (ours(start, given, sizes) - published).abs().max() < 5e-6


def test_without_the_scaled_eps_the_result_is_another():
    start, given = torch.zeros(CELLS), gradients()
    published = torch_adam(start, [g / CELLS for g in given], [0.1] * STEPS, 1e-8, torch.float64)
    assert (ours(start, given, [0.1] * STEPS, eps=1e-8) - published).abs().max() > 0.1


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_equals_torch_adam_at_any_setting(betas):
    start, given = torch.randn(CELLS), gradients(1)
    x = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([x], lr=0.05, betas=betas, eps=1e-3)
    for gradient in given:
        x.grad = gradient.clone()
        optimiser.step()
    assert (ours(start, given, [0.05] * STEPS, betas=betas, eps=1e-3) - x.detach()).abs().max() < 5e-6


def test_eps_is_one_part_in_1e8_of_a_64_cell_latent():
    assert EPS == pytest.approx(1.6384e-4)


def test_small_gradients_move_less_so_that_a_relevance_map_acts():
    adam = Adam(torch.zeros(2))
    moved = -adam.step(torch.tensor([1e-2, 1e-4]), 0.1)
    assert 2 < (moved[0] / moved[1]).item() < 10


def test_step_returns_a_new_tensor_and_keeps_its_inputs():
    x, gradient = torch.ones(5), torch.full((5,), 0.3)
    result = x - Adam(x).step(gradient, 0.1)
    assert result is not x
    assert torch.equal(x, torch.ones(5)) and torch.equal(gradient, torch.full((5,), 0.3))


def test_size_zero_moves_nothing_but_remembers_the_gradient():
    adam, x = Adam(torch.zeros(3)), torch.randn(3)
    assert torch.equal(x - adam.step(torch.ones(3), 0.0), x)
    assert adam.first.abs().min() > 0


def test_moments_are_float32_for_half_latents():
    adam = Adam(torch.zeros(3, dtype=torch.float16))
    assert adam.first.dtype == adam.second.dtype == torch.float32


def test_shared_moment_keeps_the_proportions_of_the_gradient():
    """One step: every element moves along its own gradient, each picture by its own root mean square."""
    gradient = torch.tensor([[[[3.0, -1.0]]], [[[0.2, 0.4]]]])
    x = torch.zeros_like(gradient)
    moved = x - Adam(x, eps=0.0, shared=True).step(gradient, 0.1)
    rms = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert torch.allclose(moved, -0.1 * gradient / rms)
    assert torch.allclose(Adam(x, eps=0.0).step(gradient, 0.1), 0.1 * gradient.sign())
