"""Levels of the reference chain in the parametrisation of a loaded model."""

from __future__ import annotations

import math

import pytest
import torch

FLUX = (1, 16, 6, 5)


def sampling_of(rig, kind: str):
    patcher = rig.micro.flux() if kind == "flow" else rig.micro.unet(prediction=kind)
    return patcher.get_model_object("model_sampling")


@pytest.fixture(params=["EPS", "V_PREDICTION", "flow"])
def levels(request, rig):
    return rig.noise_levels.Levels(sampling_of(rig, request.param))


def expected_level(levels, sigma_k: float) -> float:
    """Equal noise-to-signal ratio: a flow has sigma noise over 1 - sigma signal."""
    return sigma_k / (1 + sigma_k) if levels.flow else sigma_k


def test_kind_of_mixing_is_found(rig):
    kinds = {kind: rig.noise_levels.Levels(sampling_of(rig, kind)).flow for kind in ("EPS", "V_PREDICTION", "flow")}
    assert kinds == {"EPS": False, "V_PREDICTION": False, "flow": True}


@pytest.mark.parametrize("sigma_k", [0.1415, 0.6984, 1.6129, 9.0])
def test_levels_have_the_ratio_of_noise_to_signal(levels, sigma_k):
    assert levels.model(sigma_k) == pytest.approx(expected_level(levels, sigma_k), rel=1e-6)
    assert levels.reference(levels.model(sigma_k)) == pytest.approx(sigma_k, rel=1e-6)


@pytest.mark.parametrize("sigma_k", [0.0, 1e-6])
def test_smallest_level_that_the_model_knows(levels, sigma_k):
    assert levels.model(sigma_k) == float(levels.sampling.sigma_min) > 0


def test_largest_level_that_the_model_knows(levels):
    largest = float(levels.sampling.sigma_max)
    assert levels.model(1e6) == pytest.approx(largest, rel=1e-5)
    assert levels.model(1e6) <= largest


def test_pure_noise_of_a_flow_has_no_signal(rig):
    levels = rig.noise_levels.Levels(sampling_of(rig, "flow"))
    assert levels.reference(1.0) == math.inf
    assert levels.timestep(1.0) == 999
    assert levels.reference(0.0) == 0.0
    assert levels.timestep(0.0) == 0


@pytest.mark.parametrize(("timestep", "sigma_k"), [(21, 0.1415), (251, 0.6984), (499, 1.6129)])
def test_timesteps_are_those_of_the_published_table(levels, timestep, sigma_k):
    assert levels.timestep(expected_level(levels, sigma_k)) == timestep


def test_timesteps_are_the_models_own_where_it_has_the_same_chain(rig):
    sampling = sampling_of(rig, "EPS")
    levels, sigmas = rig.noise_levels.Levels(sampling), torch.linspace(0.03, 14.0, 101)
    assert [levels.timestep(s) for s in sigmas.tolist()] == sampling.timestep(sigmas).tolist()


def test_shifted_flow_keeps_the_ratio(rig):
    """A shift moves the steps of a schedule, not what a level means."""
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    shifted = ModelSamplingFlux().patch(rig.micro.flux(), 1.15, 0.5, 2048, 2048)[0]
    levels = rig.noise_levels.Levels(shifted.get_model_object("model_sampling"))
    assert levels.flow and levels.model(1.0) == 0.5


# bounds of a run


def test_bounds_are_the_published_ones(rig):
    """t falls from 499 in four steps, each a level per step, and 21 ends the row."""
    bounds = rig.noise_levels.Levels(sampling_of(rig, "EPS")).bounds(4, 0.02, 0.5, True)
    chain = sampling_of(rig, "EPS").sigmas
    assert torch.allclose(bounds, chain[[499, 373, 249, 123, 21]], rtol=1e-5)


def test_bounds_without_narrowing_stay(rig):
    bounds = rig.noise_levels.Levels(sampling_of(rig, "EPS")).bounds(3, 0.1, 0.3, False)
    chain = sampling_of(rig, "EPS").sigmas
    assert torch.allclose(bounds, chain[[299, 299, 299, 101]], rtol=1e-5)


@pytest.mark.parametrize("kind", ["EPS", "V_PREDICTION"])
def test_bounds_of_models_with_a_training_size_do_not_depend_on_the_picture(rig, kind):
    levels = rig.noise_levels.Levels(sampling_of(rig, kind))
    assert torch.equal(levels.bounds(5, 0.02, 0.5, True, 256 * 256), levels.bounds(5, 0.02, 0.5, True))


@pytest.mark.parametrize(
    ("cells", "largest", "smallest"),
    [(None, 0.617, 0.124), (64 * 64, 0.617, 0.124), (32 * 32, 0.617, 0.124), (128 * 128, 0.763, 0.221)],
)
def test_bounds_of_a_flow_grow_with_the_root_of_the_area(rig, cells, largest, smallest):
    bounds = rig.noise_levels.Levels(sampling_of(rig, "flow")).bounds(6, 0.02, 0.5, True, cells)
    assert bounds[0].item() == pytest.approx(largest, abs=6e-4)
    assert bounds[-1].item() == pytest.approx(smallest, abs=6e-4)
    assert bounds.tolist() == sorted(bounds.tolist(), reverse=True)


def test_bounds_are_within_what_the_model_knows(levels):
    bounds = levels.bounds(7, 0.002, 1.0, True, 4096 * 4096)
    smallest, largest = float(levels.sampling.sigma_min), float(levels.sampling.sigma_max)
    assert len(bounds) == 8
    assert bounds.min() >= smallest * (1 - 1e-6) and bounds.max() <= largest
    assert bounds.max() == pytest.approx(largest, rel=1e-2)


# noise


@pytest.mark.parametrize("batch", [1, 3])
def test_noise_is_mixed_in_by_the_models_own_formula(rig, levels, batch):
    x, noise = rig.runs.drawn(batch, 4, 6, 5), rig.runs.drawn(batch, 4, 6, 5, seed=1)
    kept = x.clone(), noise.clone()
    found = levels.noised(x, noise, 0.4)
    expected = 0.6 * x + 0.4 * noise if levels.flow else x + 0.4 * noise
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(x, kept[0]) and torch.equal(noise, kept[1])


@pytest.mark.parametrize("kind", ["EPS", "flow"])
def test_noised_latent_is_what_comfyuis_sampler_starts_from(rig, kind):
    import comfy.samplers

    patcher = rig.micro.flux() if kind == "flow" else rig.micro.unet()
    shape = FLUX if kind == "flow" else (2, 4, 6, 5)
    source, noise, seen = rig.runs.drawn(*shape), rig.runs.drawn(*shape, seed=1), []
    guider = comfy.samplers.CFGGuider(patcher)
    guider.inner_set_conds(rig.runs.pair(64, 32 if kind == "flow" else 0))
    euler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([0.7, 0.0])
    with torch.inference_mode():
        guider.sample(
            noise, source, euler, sigmas, callback=lambda step, denoised, x, total: seen.append(x), disable_pbar=True
        )
    levels = rig.noise_levels.Levels(patcher.get_model_object("model_sampling"))
    assert torch.equal(seen[0], levels.noised(patcher.model.process_latent_in(source), noise, 0.7))
