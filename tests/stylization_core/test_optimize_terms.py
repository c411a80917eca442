"""The SMS loop: its terms, masks and steps, on a stand-in model; what is not finite ends it."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.sms.optimize import (
    PARTS,
    NotFinite,
    Terms,
    channel_spread,
    optimize,
)
from stylization.stylization_core.sms.schedule import make_schedule, upper_timesteps

SMALL = (2, 4, 6, 5)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """A stand-in model that notes what it is asked; style and fake differ by a smooth function of place and value."""

    def __init__(self, schedule):
        self.schedule, self.noises, self.steps = schedule, {}, []

    def add_noise(self, x, noise, step):
        self.noises[step] = noise.clone()
        return x + self.schedule.sigmas[step] * noise

    def predict(self, noised, step):
        self.steps.append(step)
        ramp = torch.linspace(-1, 1, noised.shape[-1])
        return 0.9 * noised + ramp, 0.9 * noised - 0.1 * torch.tanh(noised)

    def run(self, source, seed=1, terms=None, **named):
        return optimize(source, self.schedule, self.predict, self.add_noise, seed, terms or Terms(), **named)


def test_relevance_of_zero_moves_nothing():
    schedule, source = make_schedule(upper_timesteps(20), seed=2), drawn(*SMALL)
    recorder = Recorder(schedule)
    frozen = recorder.run(source, terms=Terms(relevance=torch.zeros(1, 1, *SMALL[2:]), spectrum=1.0))
    assert torch.equal(frozen, source)  # and without a move the spectrum term has nothing to hold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strength_zero_returns_the_source_bit_for_bit_and_asks_nothing(dtype):
    source, recorder = drawn(*SMALL).to(dtype), Recorder(make_schedule(upper_timesteps(5), 0))
    result = recorder.run(source, terms=Terms(strength=0.0))
    assert torch.equal(result.to(dtype), source)
    assert recorder.steps == []


@pytest.mark.parametrize(
    "terms",
    [Terms(spectrum=0.0), Terms(relevance=torch.full((1, 1, 6, 5), 0.5)), Terms(strength=0.3)],
    ids=["no spectrum", "relevance", "strength"],
)
def test_switching_a_term_leaves_the_noise_alone(terms):
    schedule = make_schedule(upper_timesteps(8), 4)
    plain, switched = Recorder(schedule), Recorder(schedule)
    one, other = plain.run(drawn(*SMALL)), switched.run(drawn(*SMALL), terms=terms)
    assert all(torch.equal(plain.noises[step], switched.noises[step]) for step in range(8))
    assert not torch.equal(one, other)


def test_same_seed_same_result_and_another_seed_another():
    schedule = make_schedule(upper_timesteps(8), 4)
    runs = [Recorder(schedule).run(drawn(*SMALL), seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_mask_zero_keeps_the_source_exactly_and_mask_one_changes_nothing():
    schedule, source = make_schedule(upper_timesteps(10), 4), drawn(*SMALL)
    mask = torch.zeros(1, 1, 6, 5)
    mask[..., 2:] = 1.0
    terms = Terms(spectrum=0.0, mask=mask)
    found, free = Recorder(schedule).run(source, terms=terms), Recorder(schedule).run(source, terms=Terms(spectrum=0.0))
    assert torch.equal(found[..., :2], source[..., :2])
    assert torch.equal(found[..., 2:], free[..., 2:])


def test_half_mask_holds_back():
    schedule, source = make_schedule(upper_timesteps(10), 4), drawn(*SMALL)
    half = Recorder(schedule).run(source, terms=Terms(mask=torch.full((2, 1, 6, 5), 0.5)))
    free = Recorder(schedule).run(source)
    assert 0 < (half - source).abs().max() < (free - source).abs().max()


def test_spectrum_holds_the_low_band():
    schedule, source = make_schedule(upper_timesteps(60), 4), drawn(*SMALL)
    free, held = (Recorder(schedule).run(source, terms=Terms(spectrum=weight)) for weight in (0.0, 20.0))

    def layout_shift(x):
        return (x - source).mean(-2).abs().mean()

    assert layout_shift(held) < 0.5 * layout_shift(free)


def test_resuming_sees_the_same_noise_and_only_the_remaining_steps():
    schedule, source = make_schedule(upper_timesteps(9), 4), drawn(*SMALL)
    whole, rest = Recorder(schedule), Recorder(schedule)
    reached = {}
    whole.run(source, on_step=lambda step, x: reached.update({step: x}))
    resumed = rest.run(source, start=5, resume=reached[4])
    assert rest.steps == [5, 6, 7, 8]
    assert all(torch.equal(rest.noises[step], whole.noises[step]) for step in rest.steps)
    assert not torch.equal(resumed, reached[4])


def test_resuming_keeps_the_original_as_what_is_held():
    schedule, source = make_schedule(upper_timesteps(9), 4), drawn(*SMALL)
    mask = torch.zeros(1, 1, 6, 5)
    found = Recorder(schedule).run(source, terms=Terms(mask=mask), start=5, resume=drawn(*SMALL, seed=8))
    assert torch.equal(found, source)


def test_every_step_is_reported_with_the_latent_reached():
    schedule, seen = make_schedule(upper_timesteps(4), 1), []
    result = Recorder(schedule).run(drawn(*SMALL), on_step=lambda step, x: seen.append((step, x)))
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert seen[-1][1] is result


class Breaking(Recorder):
    """From a step on, one of its answers holds one NaN."""

    def __init__(self, schedule, part: int, step: int):
        super().__init__(schedule)
        self.part, self.first = part, step

    def predict(self, noised, step):
        found = [one.clone() for one in super().predict(noised, step)]
        if step >= self.first and self.part < 2:
            found[self.part][-1, 0, 0, 0] = float("nan")
        return found

    def relevance(self, noise, step):
        broken = step >= self.first and self.part == 2
        return torch.full((2, 1, 6, 5), float("inf") if broken else 0.5)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize(("steps", "looks", "first"), [(4, 50, 2), (60, 50, 57), (60, 3, 31), (60, 3, 0)])
def test_first_step_that_is_not_finite_ends_the_run_before_it_is_taken(part, steps, looks, first):
    schedule, seen = make_schedule(upper_timesteps(steps), 1), {}
    model = Breaking(schedule, part, first)
    run = {"terms": Terms(relevance=model.relevance), "looks": looks, "on_step": seen.__setitem__}
    source = drawn(*SMALL)
    with pytest.raises(NotFinite) as caught:
        model.run(source, **run)
    assert (caught.value.step, caught.value.part) == (first, PARTS[part])
    good = Recorder(schedule)
    good.relevance = Breaking(schedule, 3, 0).relevance
    steps_without: dict = {}
    good.run(source, terms=Terms(relevance=good.relevance), on_step=steps_without.__setitem__)
    assert torch.equal(seen[max(seen)], steps_without[first - 1] if first else source)
    assert len(model.steps) <= first + steps // looks + 1


def test_step_that_grows_beyond_all_numbers_is_named_as_such():
    with pytest.raises(NotFinite) as caught:
        Recorder(make_schedule(upper_timesteps(3), 0, step_peak=1e39)).run(drawn(*SMALL))
    assert caught.value.part == "the step"


def test_device_is_waited_for_as_often_as_is_said(monkeypatch):
    """What is noticed is read as a list, once per look, and nothing else is read."""
    schedule, reads, plain = make_schedule(upper_timesteps(60), 0), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(1) or plain(self))
    for name in ("item", "__bool__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, lambda self: pytest.fail("the device is waited for"))
    Recorder(schedule).run(drawn(*SMALL), terms=Terms(spectrum=0.0), looks=6)
    assert len(reads) == 7


def test_source_is_not_written_to():
    source = drawn(*SMALL)
    kept = source.clone()
    Recorder(make_schedule(upper_timesteps(5), 0)).run(source)
    assert torch.equal(source, kept)


def test_runs_under_inference_mode_on_inference_tensors():
    with torch.inference_mode():
        result = Recorder(make_schedule(upper_timesteps(5), 0)).run(drawn(*SMALL))
    assert torch.isfinite(result).all()


def test_color_share_frees_the_mean_and_nothing_else():
    recorder = Recorder(make_schedule(upper_timesteps(200), 2))
    source = drawn(*SMALL)

    def drift(color):
        moved = recorder.run(source, terms=Terms(spectrum=40.0, color=color)) - source
        return moved.mean(dim=(2, 3)).abs().mean()

    assert drift(0.0) > 2 * drift(1.0)


def test_channel_spread_is_the_root_of_the_relative_deviation_of_each_picture():
    scales = torch.tensor([1.0, 2.0, 0.5, 1.0]).view(1, 4, 1, 1)
    source = scales * drawn(2, 4, 40, 40)
    found = channel_spread(source)
    wanted = (scales / scales.square().mean().sqrt()).sqrt().expand(2, -1, -1, -1)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0)
    torch.testing.assert_close(channel_spread(source[1:]), found[1:])
    torch.testing.assert_close(channel_spread(7.0 * source), found)


def test_channel_spread_of_flat_and_tiny_latents_is_finite_and_limited():
    for flat in (torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 1, 1)):
        spread = channel_spread(flat)
        assert torch.isfinite(spread).all()
        assert 0.4 <= spread.min() <= spread.max() <= 2.5


def test_spread_scales_each_channels_step():
    """Far above eps a first Adam step is its size; in units of the spread it is the size times the spread."""
    spread = torch.tensor([0.5, 1.0, 2.0, 1.0]).view(1, 4, 1, 1)
    schedule = make_schedule(upper_timesteps(1), 5)
    source = torch.zeros(1, 4, 3, 3)
    moved = optimize(
        source,
        schedule,
        lambda x, step: (torch.full_like(x, 1e4), torch.zeros_like(x)),
        lambda x, noise, step: x,
        1,
        Terms(spectrum=0),
        spread=spread,
    )
    torch.testing.assert_close(moved, (schedule.step_sizes[0] * spread).expand_as(moved), rtol=1e-3, atol=0)


@pytest.mark.parametrize("proximal", [False, True])
def test_both_forms_of_the_spectrum_term_hold_the_low_band(proximal):
    """Score towards a constant offset plus fine noise; the hold keeps the offset, not the noise."""
    source = 0.3 * drawn(*SMALL)
    goal = source + 1.0
    schedule = make_schedule(upper_timesteps(300), 2)

    def predict(noised, step):
        return goal, torch.zeros_like(goal)

    def run(weight):
        terms = Terms(spectrum=weight, proximal=proximal, blend=1.0)
        return optimize(source, schedule, predict, lambda x, noise, step: x, 0, terms)

    free, held = run(0.0), run(8.0)
    assert (free - source).mean().abs() > 0.5
    assert (held - source).mean().abs() < 0.5 * (free - source).mean().abs()


def test_proximal_form_locks_where_the_gradient_form_chatters():
    source = 0.3 * drawn(*SMALL)
    schedule = make_schedule((499,) * 40, 2, drawn=False)
    still = torch.zeros_like(source)

    def run(proximal):
        terms = Terms(spectrum=4.0, proximal=proximal)
        return optimize(source, schedule, lambda x, step: (still, still), lambda x, noise, step: x, 0, terms)

    assert torch.equal(run(True), source)


def test_a_map_made_at_each_step_sees_its_noise():
    source, seen = drawn(*SMALL), []
    schedule = make_schedule(upper_timesteps(3), 1)

    def relevance(noise, step):
        seen.append((step, noise.clone()))
        return torch.zeros_like(noise[:, :1])

    one = torch.ones_like(source)
    result = optimize(
        source, schedule, lambda x, step: (one, -one), lambda x, noise, step: x + noise, 5, Terms(relevance=relevance)
    )
    assert [step for step, _ in seen] == [0, 1, 2]
    assert torch.allclose(result, source, atol=1e-3)
    assert not torch.equal(seen[0][1], seen[1][1])


def test_pull_draws_towards_the_source():
    source = drawn(*SMALL)
    schedule, one = make_schedule(upper_timesteps(60), 4), torch.ones(SMALL)
    free, pulled = (
        optimize(source, schedule, lambda x, s: (one, -one), lambda x, n, s: x, 0, Terms(spectrum=0.0, pull=pull))
        for pull in (0.0, 1.0)
    )
    assert (pulled - source).abs().mean() < 0.8 * (free - source).abs().mean()


def test_a_step_of_size_0_leaves_every_bit():
    """The warm-up begins with one; the hold takes signs of differences, so a rounding error there is a full pull."""
    schedule = make_schedule(upper_timesteps(20), 3)
    assert schedule.step_sizes[0] == 0
    source, reached = drawn(*SMALL, seed=5), []
    model = Recorder(schedule)
    spread = drawn(2, 4, 1, 1, seed=6).abs() + 0.3
    stop = lambda step, x: reached.append(x.clone())  # noqa: E731
    optimize(source, schedule, model.predict, model.add_noise, 7, Terms(spectrum=1.0), spread=spread, on_step=stop)
    assert torch.equal(reached[0], source) and not torch.equal(reached[1], source)
