"""The style score in sampler steps: the edit path against its own differential equation."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.sms.guidance import EditPath, added


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score_of(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Difference of two Gaussian denoisers, as D = (s^2 x + sigma^2 mu) / (s^2 + sigma^2)."""
    denoisers = [(0.5 * x + sigma**2 * mu) / (0.5 + sigma**2) for mu in (1.0, -0.3)]
    return denoisers[0] - denoisers[1]


def sampled(content: torch.Tensor, noise: torch.Tensor, sigmas: list[float], flow: bool) -> torch.Tensor:
    """Euler's sampler written by hand, led by the path."""
    path = EditPath(content)
    x = (1 - sigmas[0]) * content + sigmas[0] * noise if flow else content + sigmas[0] * noise
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        ratio = sigma / (1 - sigma) if flow else sigma
        scaled = x / (1 - sigma) if flow else x
        denoised = path.denoised(score_of(scaled, ratio), ratio)
        x = x + (following - sigma) * (x - denoised) / sigma
    return x


@pytest.mark.parametrize("flow", [False, True])
def test_sampler_led_by_the_path_integrates_the_score(flow):
    """Against the equation dz = score d(log sigma), stepped by itself on the same levels."""
    content, noise = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    ratios = [3.0, 1.5, 0.8, 0.3, 0.05, 0.0]
    sigmas = [r / (1 + r) for r in ratios] if flow else ratios
    z = content
    for sigma, following in zip(ratios, ratios[1:], strict=False):
        z = z + score_of(z + sigma * noise, sigma) * (sigma - following) / sigma
    assert torch.allclose(sampled(content, noise, sigmas, flow), z, atol=1e-12)


def test_no_score_gives_the_content_back():
    content, noise = drawn(1, 2, 3, 3), drawn(1, 2, 3, 3, seed=1)
    path, x = EditPath(content), content + 2.0 * noise
    for sigma, following in ((2.0, 0.7), (0.7, 0.0)):
        x = x + (following - sigma) * (x - path.denoised(torch.zeros_like(x), sigma)) / sigma
    assert torch.allclose(x, content, atol=1e-12)


def test_repeated_or_higher_levels_do_not_move_the_path():
    path = EditPath(torch.zeros(1, 1, 2, 2))
    one = torch.ones(1, 1, 2, 2)
    path.denoised(one, 1.0)
    path.denoised(one, 0.5)
    before = path.z.clone()
    path.denoised(3 * one, 0.5)
    path.denoised(3 * one, 0.8)
    assert torch.equal(path.z, before)
    path.denoised(one, 0.25)
    assert torch.allclose(path.z, before + 3 * 0.5)


def test_added_is_a_guidance_term():
    denoised, style, base = (drawn(2, 3, 4, 4, seed=seed) for seed in range(3))
    assert torch.equal(added(denoised, style, base, 0.0), denoised)
    assert torch.allclose(added(denoised, style, base, 1.5), denoised + 1.5 * style - 1.5 * base)


def test_the_path_goes_on_from_what_a_hold_leaves():
    """A hold of half the content: the next level starts on the way to the held estimate, not to the score's own."""
    content, score = drawn(1, 1, 3, 3), torch.ones(1, 1, 3, 3, dtype=torch.float64)
    path = EditPath(content)
    held = path.denoised(score, 1.0, lambda estimate: content + 0.5 * (estimate - content))
    assert torch.allclose(held, content + 0.5)
    assert torch.allclose(path.denoised(0 * score, 0.25), content + 0.75 * 0.5)
