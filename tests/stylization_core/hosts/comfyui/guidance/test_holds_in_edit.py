"""Each hold beside guidance in mode edit over whole runs: what is held at one step is not lost at the next."""

from __future__ import annotations

import pytest
import scipy.fft
import torch

SAMPLERS = ("euler", "heun", "dpmpp_2m", "euler_cfg_pp")
MANY = (6.0, 4.0, 2.5, 1.5, 0.9, 0.5, 0.2, 0.0)
TWICE = {"strength": 2.0}


def left(value: float = 1.0) -> torch.Tensor:
    """A mask of the left half, five of ten cells."""
    mask = torch.zeros(1, 96, 80)
    mask[..., :40] = value
    return mask


def spectrum(picture: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(scipy.fft.dctn(picture.double().numpy(), axes=(-2, -1), norm="ortho"))


def below(rate: float) -> torch.Tensor:
    """Which coefficients of a latent of 12x10 cells lie in the band of a rate."""
    return torch.arange(12)[:, None] / 11 + torch.arange(10)[None] / 9 <= 2 * rate


def free_and_held(rig, styled, hold, source, **run):
    """Results of an edit without a hold and with one."""
    edited = rig.ordinary.guided(styled, **TWICE)
    return rig.ordinary.sample(edited, source, **run), rig.ordinary.sample(hold(edited), source, **run)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_regularizer_keeps_the_low_band_of_the_content(rig, styled, sampler):
    """The band narrows as the noise falls, and keeps at the end what it kept while it was wide."""
    source = rig.runs.latent()
    free, held = free_and_held(
        rig, styled, lambda model: rig.ordinary.held(model, hold=1.0), source, sampler=sampler, sigmas=MANY
    )
    levels = rig.noise_levels.Levels(styled.get_model_object("model_sampling"))
    wide = below(levels.timestep(MANY[3]) / levels.timestep(MANY[0]))
    moved = [(spectrum(picture - source) * wide).norm().item() for picture in (held, free)]
    assert moved[0] < 0.35 * moved[1]
    narrow = below(levels.timestep(MANY[-2]) / levels.timestep(MANY[0]))
    assert (spectrum(held - source) * narrow).abs().max() < 1e-3 < 0.1 < (spectrum(free - source) * narrow).abs().max()
    assert rig.runs.moved(held, source) > 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("band", [0.0, 0.2])
def test_region_protected_until_the_last_steps_does_not_fall_back(rig, styled, sampler, band):
    """0.9 of the chain is sigma 0.24: the last step alone is free, and takes its own score, not that of all steps."""
    source = rig.runs.latent()
    free, held = free_and_held(
        rig, styled, lambda model: rig.ordinary.protected(model, left(), band=band, end=0.9), source,
        sampler=sampler, sigmas=MANY,
    )  # fmt: skip
    high = ~below(band) if band else torch.ones(12, 10, dtype=torch.bool)

    def form(picture: torch.Tensor) -> float:
        change = (picture - source).clone()
        change[..., 5:] = change[..., :5].mean((-2, -1), keepdim=True)
        return (spectrum(change) * high).norm().item()

    assert form(held) < 0.4 * form(free)
    assert rig.runs.moved(held[..., 5:], source[..., 5:]) > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_region_protected_to_the_end_is_the_contents(rig, styled, sampler):
    source = rig.runs.latent()
    _, held = free_and_held(
        rig, styled, lambda model: rig.ordinary.protected(model, left()), source, sampler=sampler, sigmas=MANY
    )
    assert rig.runs.moved(held[..., :5], source[..., :5]) < 1e-4 < 0.1 < rig.runs.moved(held, source)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_cells_that_the_refiner_closes_stay_after_its_window(rig, styled, sampler):
    source = rig.runs.latent()
    opened = 1 - left()
    free, closed = free_and_held(
        rig, styled, lambda model: rig.ordinary.refined(model, mask=opened, floor=0.0), source,
        sampler=sampler, sigmas=MANY,
    )  # fmt: skip
    assert rig.runs.moved(closed[..., :5], source[..., :5]) < 1e-4 < 0.1 < rig.runs.moved(closed, source)
    _, until = free_and_held(
        rig, styled, lambda model: rig.ordinary.refined(model, mask=opened, floor=0.0, end=0.9), source,
        sampler=sampler, sigmas=MANY,
    )  # fmt: skip
    norms = [(picture - source)[..., :5].norm().item() for picture in (until, free)]
    assert norms[0] < 0.4 * norms[1]


def test_the_path_goes_on_from_what_the_sampler_got(rig, micro, styled, stock):
    """Euler by hand: the estimate is the path's with the holds on it, and the next one starts from there."""
    source = rig.runs.latent()
    made = rig.ordinary.held(rig.ordinary.guided(styled), hold=0.5)
    steps = rig.ordinary.steps_of(made, source)
    content, noise = rig.ordinary.in_scale(micro, source), rig.ordinary.unit_noise(source)
    z = content
    levels = rig.noise_levels.Levels(micro.get_model_object("model_sampling"))
    first = levels.timestep(rig.ordinary.SIGMAS[0])
    for (x, estimate), sigma, following in zip(steps, rig.ordinary.SIGMAS, rig.ordinary.SIGMAS[1:], strict=False):
        assert rig.runs.moved(x, z + sigma * noise) < 1e-3
        expected = z + rig.ordinary.score(micro, stock, z + sigma * noise, sigma)
        band = below(levels.timestep(sigma) / first) * 0.5
        back = torch.from_numpy(
            scipy.fft.idctn((spectrum(expected - content) * band).numpy(), axes=(-2, -1), norm="ortho")
        )
        expected = expected - back.float()
        assert rig.runs.moved(estimate, expected) < 1e-3 * rig.runs.moved(expected, content) + 1e-4
        z = z + (expected - z) * (1 - following / sigma)


def test_holds_ask_once_at_each_step(rig, styled):
    """A live map costs its two rows once a step, whether the score is followed or added."""
    prompts = {"edit": rig.runs.conditioning(7), "empty": rig.runs.conditioning(8), "live": True}
    counts = {}
    for edit in (True, False):
        recorded, rows = rig.runs.recording(styled)
        made = rig.ordinary.refined(rig.ordinary.guided(recorded, edit=edit), **prompts)
        rig.ordinary.sample(made, rig.runs.latent())
        counts[edit] = len(rows)
    assert counts[True] == counts[False] == 8
