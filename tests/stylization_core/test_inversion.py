"""Inversion against published DDIM formulas and against Gaussians, whose flow is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from stylization.stylization_core.inversion import invert, lift_vp

MEAN, SPREAD = 0.3, 0.6
"""Of the pictures of the toy model."""

RISING = (0.0, 0.1, 0.3, 0.7, 1.5, 3.0)
"""Ratios of noise to picture."""


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def picture() -> torch.Tensor:
    return MEAN + SPREAD * drawn(2, 3, 4, 5)


def gaussian(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Expected picture given x = z + sigma n."""
    return (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)


def gaussian_flow(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Expected picture given x = (1 - sigma) z + sigma n."""
    share = 1 - sigma
    return MEAN + share * SPREAD**2 * (x - share * MEAN) / (share**2 * SPREAD**2 + sigma**2)


def carried(z: torch.Tensor, sigma: float) -> torch.Tensor:
    """Where the exact flow of ``gaussian`` takes z."""
    return MEAN + (z - MEAN) * math.sqrt(SPREAD**2 + sigma**2) / SPREAD


def carried_flow(z: torch.Tensor, sigma: float) -> torch.Tensor:
    share = 1 - sigma
    return share * MEAN + (z - MEAN) * math.sqrt(share**2 * SPREAD**2 + sigma**2) / SPREAD


def levels(top: float, steps: int) -> list[float]:
    """From 0 to ``top``, finer below."""
    return [top * (step / steps) ** 2 for step in range(steps + 1)]


def down(x: torch.Tensor, rising, denoise: Callable) -> list[torch.Tensor]:
    """Euler's sampler from the highest level, lowest latent first."""
    found = [x]
    falling = list(rising)[::-1]
    for sigma, following in zip(falling, falling[1:], strict=False):
        x = x + (following - sigma) * (x - denoise(x, sigma)) / sigma
        found.append(x)
    return found[::-1]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


MODELS = {"variance exploding": (gaussian, carried, 3.0), "flow": (gaussian_flow, carried_flow, 0.8)}


@pytest.fixture(params=list(MODELS))
def model(request) -> tuple:
    """(denoiser, exact flow, highest level)."""
    return MODELS[request.param]


@pytest.mark.parametrize("first", [0.0, 0.03])
def test_lifted_inversion_is_ddim_inversion(first):
    """In the variables of DDIM, with a network that is no denoiser of anything: the formula holds for each."""
    rising = (first, *RISING[1:])
    alphas = [1 / (1 + sigma**2) for sigma in rising]
    network = lambda z, alpha: torch.sin(3 * z) + (1 - alpha) * z**2  # noqa: E731

    z = math.sqrt(alphas[0]) * picture()
    expected = [z]
    for alpha, following in zip(alphas, alphas[1:], strict=False):
        eps = network(z, following)
        clean = (z - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
        z = math.sqrt(following) * clean + math.sqrt(1 - following) * eps
        expected.append(z)

    def denoise(x, sigma):
        alpha = 1 / (1 + sigma**2)
        return x - sigma * network(math.sqrt(alpha) * x, alpha)

    found = list(invert(picture(), rising, denoise, lift=lift_vp))
    for x, z, alpha in zip(found, expected, alphas, strict=True):
        assert difference(math.sqrt(alpha) * x, z) < 1e-12


def test_lifted_inversion_is_that_of_diffusers():
    from diffusers import DDIMInverseScheduler

    scheduler = DDIMInverseScheduler(1000, 0.00085, 0.012, beta_schedule="scaled_linear", clip_sample=False)
    scheduler.set_timesteps(10)
    steps, alphas = scheduler.timesteps.tolist(), scheduler.alphas_cumprod.double()
    network = lambda z, t: torch.sin(3 * z) + t / 1000  # noqa: E731
    sigmas = [0.0, *(math.sqrt((1 - alphas[t]) / alphas[t]) for t in steps)]
    labels = dict(zip(sigmas[1:], steps, strict=True))

    def denoise(x, sigma):
        return x - sigma * network(x / math.sqrt(1 + sigma**2), labels[sigma])

    z = picture()
    for t, x, sigma in zip(steps, list(invert(z, sigmas, denoise, lift=lift_vp))[1:], sigmas[1:], strict=True):
        z = scheduler.step(network(z, t), t, z).prev_sample
        assert difference(x / math.sqrt(1 + sigma**2), z) < 1e-5


def test_plain_inversion_is_eulers_step_with_the_slope_of_the_new_level(model):
    denoise, _, top = model
    x = picture()
    (_, found) = invert(x, [0.2 * top, top], denoise)
    assert difference(found, x + 0.8 * top * (x - denoise(x, top)) / top) < 1e-12


@pytest.mark.parametrize("lift", [None, lift_vp])
def test_refined_inversion_is_retraced_by_eulers_sampler(model, lift):
    denoise, _, top = model
    rising = levels(top, 8)
    found = list(invert(picture(), rising, denoise, refinements=80, lift=lift))
    for up, back in zip(found, down(found[-1], rising, denoise), strict=True):
        assert difference(up, back) < 1e-10


def test_each_refinement_comes_closer_to_a_retraced_picture(model):
    denoise, _, top = model
    rising, z = levels(top, 8), picture()
    errors = []
    for refinements in range(6):
        *_, last = invert(z, rising, denoise, refinements=refinements)
        errors.append(difference(down(last, rising, denoise)[0], z))
    assert all(after < 0.75 * before for before, after in zip(errors, errors[1:], strict=False)), errors


@pytest.mark.parametrize("refinements", [0, 1, 20])
@pytest.mark.parametrize(
    ("name", "lift"), [("variance exploding", None), ("variance exploding", lift_vp), ("flow", None)]
)
def test_error_falls_in_proportion_to_the_steps(name, lift, refinements):
    """Of a method of first order, against the exact flow."""
    denoise, exact, top = MODELS[name]
    end = exact(picture(), top)
    errors = []
    for steps in (40, 80, 160):
        *_, last = invert(picture(), levels(top, steps), denoise, refinements=refinements, lift=lift)
        errors.append(difference(last, end))
    assert errors[0] < 0.08 * end.abs().max()
    for before, after in zip(errors, errors[1:], strict=False):
        assert 1.7 < before / after < 2.3, errors


def test_lift_keeps_the_networks_input():
    """x / sqrt(sigma^2 + 1) is what the network sees."""
    x = picture()
    assert difference(lift_vp(x, 0.5, 2.0) / math.sqrt(5), x / math.sqrt(1.25)) < 1e-12


@pytest.mark.parametrize("refinements", [0, 2])
def test_one_latent_per_level_and_one_call_per_iteration(refinements):
    asked: list[float] = []

    def denoise(x, sigma):
        asked.append(sigma)
        return gaussian(x, sigma)

    z = picture()
    found = list(invert(z, RISING, denoise, refinements=refinements))
    assert len(found) == len(RISING)
    assert found[0] is z
    assert all(x.shape == z.shape and x.dtype == z.dtype for x in found)
    assert asked == [sigma for sigma in RISING[1:] for _ in range(1 + refinements)]


def test_latents_come_as_they_are_found():
    """So that progress can be shown and a run interrupted."""
    asked: list[float] = []
    path = invert(picture(), RISING, lambda x, sigma: (asked.append(sigma), x)[1])
    for expected in range(3):
        next(path)
        assert len(asked) == expected


def test_single_level_asks_nothing():
    assert len(list(invert(picture(), [0.0], lambda x, sigma: pytest.fail("asked")))) == 1
