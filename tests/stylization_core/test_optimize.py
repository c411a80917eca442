"""The SMS loop against the published iteration, written here once more in noise-prediction form."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch
from stylization.stylization_core.relevance import MEAN_RELEVANCE
from stylization.stylization_core.sms.optimize import (
    PUBLISHED_LAMBDA,
    Terms,
    optimize,
    score_gradient,
)
from stylization.stylization_core.sms.schedule import flow_sigma, make_schedule, upper_timesteps

SIZE = (1, 4, 64, 64)  # N = 16384, the one size at which the published eps and ours mean the same
SMALL = (2, 4, 6, 5)
GUIDANCE = 4.5


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def vp_noised(schedule):
    return lambda x, noise, step: x + schedule.sigmas[step] * noise


class Published:
    """One SMS run as the published code does it: float64, ε form, autograd, AdamW without weight decay."""

    def __init__(self, steps: int, spectrum_weight: float):
        betas = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64) ** 2
        self.betas, self.abar = betas, torch.cumprod(1.0 - betas, 0)
        self.steps, self.spectrum_weight = steps, spectrum_weight
        basis = scipy.fft.dct(torch.eye(SIZE[-1]).double().numpy(), norm="ortho", axis=0)
        self.basis = torch.from_numpy(basis)

    def noised(self, x, noise, t):
        return self.abar[t].sqrt() * x + (1 - self.abar[t]).sqrt() * noise

    @staticmethod
    def epsilon(z, t, which: str, conditional: bool):
        """A nonlinear noise prediction that depends on the model, the prompt, the place and the timestep."""
        shift = {"style": 0.4, "fake": -0.2}[which] * torch.linspace(-1, 1, z.shape[-1], dtype=z.dtype)
        return torch.tanh(0.7 * z + shift) * (1 + t / 1000) + (0.1 * z.roll(1, -2) if conditional else 0.0)

    def guided(self, z, t, which: str):
        empty, prompt = (self.epsilon(z, t, which, conditional) for conditional in (False, True))
        return empty + GUIDANCE * (prompt - empty)

    def spectrum(self, x):
        return self.basis @ x @ self.basis.T

    def loss(self, x, source, noise, t, relevance):
        z = self.noised(x.detach(), noise, t)
        weight = (1 - self.abar[t - 2]) / (1 - self.abar[t]) * self.betas[t]
        gradient = weight * (self.guided(z, t, "style") - self.guided(z, t, "fake"))
        target = (x - relevance * gradient).detach()
        index = torch.arange(SIZE[-1])
        kept = (index[:, None] + index[None, :]) <= int(t / 500 * (2 * SIZE[-1] - 2))
        low = (self.spectrum(x) - self.spectrum(source)).abs() * kept
        return 0.5 * ((x - target) ** 2).mean() + self.spectrum_weight * low.mean()

    def run(self, source, timesteps, noises, relevance, upto: int):
        x = torch.nn.Parameter(source.double().clone())
        optimiser = torch.optim.AdamW([x], lr=0.1, eps=1e-8, weight_decay=0.0)
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, self.rate)
        for step in range(upto):
            optimiser.zero_grad()
            self.loss(x, source.double(), noises[step].double(), timesteps[step], relevance).backward()
            optimiser.step()
            rate.step()
        return x.detach()

    def rate(self, step: int) -> float:
        warmup, total = self.steps / 5, 1.5 * self.steps
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


class InX0Space:
    """The same predictions for our loop: noise x + sigma·ε in, denoised estimates out."""

    def __init__(self, published: Published, schedule):
        self.published, self.schedule, self.noises = published, schedule, {}

    def add_noise(self, x, noise, step):
        self.noises[step] = noise
        return x + self.schedule.sigmas[step] * noise

    def denoised(self, noised, step, which, conditional):
        t = self.schedule.timesteps[step]
        abar = self.published.abar[t]
        z = noised.double() * abar.sqrt()
        epsilon = self.published.epsilon(z, t, which, conditional)
        return (z - (1 - abar).sqrt() * epsilon) / abar.sqrt()

    def predict(self, noised, step):
        pairs = []
        for which in ("style", "fake"):
            empty, prompt = (self.denoised(noised, step, which, conditional) for conditional in (False, True))
            pairs.append((empty + GUIDANCE * (prompt - empty)).float())
        return tuple(pairs)


@pytest.mark.parametrize("relevant", [True, False])
@pytest.mark.parametrize("spectrum", [0.0, 1.0, 0.4])
def test_run_equals_the_published_iteration(spectrum, relevant):
    steps = 15
    schedule, source = make_schedule(upper_timesteps(steps), seed=2), drawn(*SIZE)
    relevance = torch.rand(1, 1, *SIZE[2:], generator=torch.Generator().manual_seed(9)) if relevant else None
    published = Published(steps, PUBLISHED_LAMBDA * spectrum)
    ours = InX0Space(published, schedule)
    terms = Terms(spectrum=spectrum, relevance=relevance)
    found = optimize(source, schedule, ours.predict, ours.add_noise, 7, terms)
    uniform = MEAN_RELEVANCE if relevance is None else relevance.double()
    expected = published.run(source, schedule.timesteps, ours.noises, uniform, steps)
    moved = (expected - source.double()).abs()
    assert moved.max() > 0.3
    assert (found.double() - expected).abs().max() < 1e-5


def test_score_gradient_is_the_published_one_in_any_prediction_form():
    x0, noise, mean, spread = (drawn(*SMALL, seed=seed).double() for seed in range(4))
    spread = spread.abs() + 0.3
    sigma, weight = 0.7, 0.0035
    noised = x0 + sigma * noise
    denoised = {name: (spread**2 * noised + sigma**2 * m) / (spread**2 + sigma**2) for name, m in _means(mean)}
    in_x0 = score_gradient(denoised["style"], denoised["fake"], weight)
    epsilon = {name: (noised - d) / sigma for name, d in denoised.items()}
    in_epsilon = weight * sigma * (epsilon["style"] - epsilon["fake"])
    time = flow_sigma(sigma)
    mixed = (1 - time) * x0 + time * noise
    flow = {name: _flow_velocity(mixed, time, spread, m) for name, m in _means(mean)}
    in_flow = weight * time * (flow["style"] - flow["fake"])
    assert (in_x0 - in_epsilon).abs().max() < 1e-12
    assert (in_x0 - in_flow).abs().max() < 1e-12


def _means(mean):
    return (("style", mean + 1.5), ("fake", mean))


def _flow_velocity(mixed, time, spread, mean):
    """v = E[noise - x0 | mixed] of data N(mean, spread²) under x = (1 - t) x0 + t noise."""
    variance = (1 - time) ** 2 * spread**2 + time**2
    residual = mixed - (1 - time) * mean
    return time / variance * residual - (mean + (1 - time) * spread**2 / variance * residual)


def gaussian_denoiser(mean: float, spread: float, sigma: float):
    return lambda noised: (spread**2 * noised + sigma**2 * mean) / (spread**2 + sigma**2)


class Gaussians:
    """Exact denoisers of a Gaussian style and of the present latent (a Dirac fake), in VP or flow form."""

    def __init__(self, schedule, flow: bool, mean: float = 1.5, spread: float = 0.5):
        self.schedule, self.flow, self.mean, self.spread = schedule, flow, mean, spread

    def add_noise(self, x, noise, step):
        self.present = x
        sigma = self.schedule.sigmas[step]
        time = flow_sigma(sigma)
        return (1 - time) * x + time * noise if self.flow else x + sigma * noise

    def predict(self, noised, step):
        sigma = self.schedule.sigmas[step]
        if self.flow:
            time = flow_sigma(sigma)
            style = noised - time * _flow_velocity(noised, time, self.spread, self.mean)
        else:
            style = gaussian_denoiser(self.mean, self.spread, sigma)(noised)
        return style, self.present


@pytest.mark.parametrize("flow", [False, True])
def test_500_steps_reach_the_fixed_point_of_an_exact_fake(flow):
    schedule, source = make_schedule(upper_timesteps(500), seed=0), 0.2 * drawn(*SMALL)
    model = Gaussians(schedule, flow)
    found = optimize(source, schedule, model.predict, model.add_noise, 3, Terms(spectrum=0.0))
    assert found.mean().item() == pytest.approx(1.5, abs=0.05)
    assert (found - 1.5).abs().max() < 0.5


def test_flow_and_vp_runs_are_the_same_run():
    schedule, source = make_schedule(upper_timesteps(500), seed=0), 0.2 * drawn(*SMALL)
    runs = [Gaussians(schedule, flow) for flow in (False, True)]
    vp, flow = (optimize(source, schedule, run.predict, run.add_noise, 3, Terms(spectrum=0.0)) for run in runs)
    assert (vp - flow).abs().max() < 4e-3


def test_blended_fake_settles_where_the_frozen_one_keeps_pushing():
    """Two linear denoisers a constant apart: b (x - D_style) = (1 - b) (D_style - D_base) has one solution."""
    schedule, blend, styled, plain = make_schedule(upper_timesteps(3000), 3, step_peak=0.02), 0.4, 1.0, 0.5
    clean = {}

    def add_noise(x, noise, step):
        clean["x"] = x
        return x

    def predict(_, step):
        return 0.5 * (clean["x"] + styled), 0.5 * (clean["x"] + plain)

    source = torch.zeros(1, 2, 3, 3)
    settled = optimize(source, schedule, predict, add_noise, 1, Terms(spectrum=0, blend=blend))
    frozen = optimize(source, schedule, predict, add_noise, 1, Terms(spectrum=0))
    expected = styled + (1 - blend) / blend * (styled - plain)
    torch.testing.assert_close(settled, torch.full_like(settled, expected), atol=0.02, rtol=0)
    assert frozen.min() > 10 * expected
