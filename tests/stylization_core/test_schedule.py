"""Noise levels, weights and step sizes of an SMS run against the published figures."""

from __future__ import annotations

import math

import pytest
import torch
from stylization.stylization_core.sms.schedule import (
    Schedule,
    flow_sigma,
    lowest_timestep,
    make_schedule,
    nearest_timestep,
    posterior_variance,
    step_size,
    upper_substep,
    upper_timesteps,
    vp_sigma,
    x0_weight,
)

STEPS = 500


def published_rate(step: int, peak: float = 0.1, warmup: int = 100, total: float = 750.0) -> float:
    """diffusers' cosine schedule with warm-up, half a period, at the published lengths."""
    if step < warmup:
        return peak * step / warmup
    return peak * max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))))


@pytest.mark.parametrize(("t", "weight"), [(21, 8.610e-4), (121, 1.4826e-3), (251, 2.4113e-3), (499, 4.7859e-3)])
def test_weight_is_the_published_posterior_variance(t, weight):
    assert posterior_variance(t) == pytest.approx(weight, rel=1e-4)


@pytest.mark.parametrize(("t", "sigma"), [(21, 0.1415), (251, 0.6984), (499, 1.6129)])
def test_noise_level_is_the_reference_chains(t, sigma):
    assert vp_sigma(t) == pytest.approx(sigma, abs=5e-5)


@pytest.mark.parametrize(("t", "kappa"), [(21, 0.0061), (101, 0.0039), (251, 0.0035), (499, 0.0030)])
def test_weight_in_x0_space_is_almost_constant(t, kappa):
    assert x0_weight(t) == pytest.approx(kappa, abs=5e-5)


def test_mean_weight_of_a_run_is_the_published_one():
    weights = [weight for seed in range(10) for weight in make_schedule(upper_timesteps(STEPS), seed).weights]
    assert sum(weights) / len(weights) == pytest.approx(0.0042, abs=1e-4)


BOUNDS = [(0.0, 499), (0.25, 373), (0.5, 249), (0.75, 123), (0.955, 21), (0.998, 21)]


@pytest.mark.parametrize(("share", "largest"), BOUNDS)
def test_upper_bound_narrows_as_published(share, largest):
    bound = upper_substep(round(share * STEPS), STEPS, 0.5, 10)
    assert 2 * (bound - 1) + 1 == largest


@pytest.mark.parametrize("steps", [1, 2, 7, 500, 1003])
@pytest.mark.parametrize("limits", [(0.02, 0.5), (0.002, 1.0), (0.3, 0.302)])
def test_every_draw_lies_between_the_lowest_and_the_narrowing_bound(steps, limits):
    t_min, t_max = limits
    uppers = upper_timesteps(steps, t_min=t_min, t_max=t_max)
    schedule = make_schedule(uppers, seed=3, lowest=lowest_timestep(t_min))
    assert len(schedule) == steps
    assert all(t % 2 == 1 for t in schedule.timesteps)
    assert min(schedule.timesteps) >= 2 * round(500 * t_min) + 1
    assert all(t <= upper for t, upper in zip(schedule.timesteps, uppers, strict=True))
    assert list(uppers) == sorted(uppers, reverse=True)
    assert uppers[0] <= 2 * round(500 * t_max) - 1


def test_bound_that_does_not_narrow_stays():
    uppers = upper_timesteps(7, narrowing=False)
    assert uppers == (499,) * 7
    drawn = make_schedule(upper_timesteps(2000, narrowing=False), 4).timesteps
    assert sum(drawn) / len(drawn) == pytest.approx((21 + 499) / 2, abs=8)


def test_levels_as_given_are_the_bounds_themselves():
    given = (499, 300, 120, 3)
    schedule = make_schedule(given, 4, drawn=False)
    assert schedule.timesteps == (499, 300, 120, 21)
    assert schedule.sigmas == tuple(map(vp_sigma, schedule.timesteps))


@pytest.mark.parametrize("t", [0, 21, 250, 499, 999])
def test_every_level_is_nearest_to_itself(t):
    assert nearest_timestep(vp_sigma(t)) == t
    assert nearest_timestep(vp_sigma(t) * 1.0005) == t


def test_levels_beyond_the_chain_are_its_ends():
    assert (nearest_timestep(0.0), nearest_timestep(1e6), nearest_timestep(math.inf)) == (0, 999, 999)


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        make_schedule((), 0)


def test_draws_fill_the_range_like_the_published_ones():
    drawn = sorted(t for seed in range(20) for t in make_schedule(upper_timesteps(STEPS), seed).timesteps)
    assert drawn[0] == 21
    assert drawn[-1] > 480
    assert sum(drawn) / len(drawn) == pytest.approx(135, abs=4)
    assert drawn[len(drawn) // 2] == pytest.approx(103, abs=6)


def test_step_sizes_are_the_published_ones():
    sizes = make_schedule(upper_timesteps(STEPS), 0).step_sizes
    assert list(sizes) == pytest.approx([published_rate(step) for step in range(STEPS)], abs=1e-15)
    assert sizes[0] == 0.0
    assert sizes[-1] == pytest.approx(0.032496, abs=1e-6)
    assert sum(sizes) == pytest.approx(34.657, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 200])
def test_short_runs_have_finite_step_sizes_up_to_the_peak(steps):
    sizes = [step_size(step, steps, 0.1) for step in range(steps)]
    assert all(0.0 <= size <= 0.1 for size in sizes)
    assert max(sizes) > 0.05


def test_rate_is_the_share_of_the_visited_chain():
    schedule = make_schedule(upper_timesteps(STEPS), 1)
    assert schedule.rates == tuple(t / 500 for t in schedule.timesteps)
    assert all(0 <= rate <= 1 for rate in make_schedule(upper_timesteps(50, t_max=0.1), 1).rates)


def test_flow_time_has_the_same_signal_to_noise_ratio():
    for sigma_k in (0.1415, 0.6984, 1.6129):
        time = flow_sigma(sigma_k)
        assert time / (1 - time) == pytest.approx(sigma_k)
        shifted = flow_sigma(sigma_k, 2.0)
        assert shifted / (1 - shifted) == pytest.approx(2 * sigma_k)


@pytest.mark.parametrize(("scale", "low", "high"), [(1.0, 0.124, 0.617), (2.0, 0.221, 0.763)])
def test_flow_range_is_the_one_of_the_reference_grid(scale, low, high):
    assert flow_sigma(vp_sigma(21), scale) == pytest.approx(low, abs=1e-3)
    assert flow_sigma(vp_sigma(499), scale) == pytest.approx(high, abs=1e-3)


def test_same_seed_same_run_and_another_seed_another():
    assert make_schedule(upper_timesteps(50), 7) == make_schedule(upper_timesteps(50), 7)
    assert make_schedule(upper_timesteps(50), 7).timesteps != make_schedule(upper_timesteps(50), 8).timesteps


def test_step_size_setting_leaves_the_draws_alone():
    one, two = make_schedule(upper_timesteps(50), 7), make_schedule(upper_timesteps(50), 7, step_peak=0.3)
    assert (one.timesteps, one.weights) == (two.timesteps, two.weights)


def test_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = make_schedule(upper_timesteps(20), 1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    assert make_schedule(upper_timesteps(20), 1) == first


def test_schedule_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        make_schedule(upper_timesteps(3), 0).sigmas = ()
    assert isinstance(make_schedule(upper_timesteps(3), 0), Schedule)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps):
    with pytest.raises(ValueError, match="at least 1"):
        make_schedule(upper_timesteps(steps), 0)


@pytest.mark.parametrize("limits", [(0.5, 0.5), (0.6, 0.2), (0.02, 1.5)])
def test_impossible_ranges_are_refused_with_what_was_given(limits):
    with pytest.raises(ValueError, match=f"{limits[0]} and {limits[1]}"):
        upper_timesteps(10, t_min=limits[0], t_max=limits[1])
