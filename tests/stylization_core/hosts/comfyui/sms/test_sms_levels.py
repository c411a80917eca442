"""The levels that SMS runs ask, drawn below SIGMAS or as given."""

from __future__ import annotations

import pytest
import torch


def asked_levels(rig, model, source, sigmas, **settings) -> list[float]:
    """The levels of the scores' model calls."""
    recorded, levels = model.clone(), []

    def note(executor, x, t, *args, **kwargs):
        levels.append(t[0].item())
        return executor(x, t, *args, **kwargs)

    recorded.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.levels", note)
    rig.runs.sms(recorded, source, sigmas=torch.as_tensor(sigmas), **settings)
    return levels


def scheduled(rig, model, scheduler: str, steps: int) -> torch.Tensor:
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def test_levels_as_given_are_the_sigmas_themselves(rig, styled):
    levels = asked_levels(rig, styled, rig.runs.latent(), [1.6, 0.31, 0.9, 0.2], drawn=False)
    assert levels == pytest.approx([1.6, 0.31, 0.9], rel=1e-6)


def test_drawn_levels_lie_between_their_bound_and_the_last_sigma(rig, styled):
    bounds = [1.6] * 6 + [0.6] * 6
    levels = asked_levels(rig, styled, rig.runs.latent(1, 4, 4, 4), [*bounds, 0.3], cfg=1.0)
    assert all(0.29 < level <= bound for level, bound in zip(levels, bounds, strict=True))
    assert max(levels[:6]) > 0.6 and len(set(levels)) > 6
    other = asked_levels(rig, styled, rig.runs.latent(1, 4, 4, 4), [*bounds, 0.3], cfg=1.0, seed=4)
    assert other != levels


@pytest.mark.parametrize("scheduler", ["normal", "karras", "simple", "ddim_uniform", "sgm_uniform"])
def test_sigmas_of_an_ordinary_scheduler(rig, styled, scheduler):
    """They end at zero, which stands for the published lowest level when levels are drawn."""
    source = rig.runs.latent(1, 4, 4, 4)
    *bounds, last = sigmas = scheduled(rig, styled, scheduler, 9)
    assert last == 0
    lowest = styled.get_model_object("model_sampling").sigmas[21].item()
    given = asked_levels(rig, styled, source, sigmas, drawn=False, cfg=1.0)
    assert given == pytest.approx([float(bound) for bound in bounds], rel=1e-6)
    drawn = asked_levels(rig, styled, source, sigmas, cfg=1.0)
    for level, bound in zip(drawn, bounds, strict=True):
        assert lowest * 0.999 < level <= max(float(bound), lowest) * 1.001


@pytest.mark.parametrize("drawn", [True, False])
def test_sigmas_of_a_flow_from_pure_noise_on(rig, tmp_path, drawn):
    flux = rig.micro.flux()
    path = rig.loras.saved(rig.loras.kohya(flux), tmp_path / "flux.safetensors")
    styled = rig.style_branch.attach(flux, rig.lora_files.load_style(path, flux, 0.8))
    sigmas, conditionings = scheduled(rig, flux, "simple", 5), rig.runs.pair(64, 32)
    source = rig.runs.latent(1, 16, 4, 4)
    levels = asked_levels(rig, styled, source, sigmas, conditionings=conditionings, drawn=drawn, cfg=1.0)
    assert sigmas[0] == 1.0 and len(levels) == 5
    assert all(0 < level <= bound * 1.001 for level, bound in zip(levels, sigmas.tolist(), strict=False))
    assert drawn or levels == pytest.approx(sigmas[:-1].tolist(), rel=1e-6)


def test_level_below_what_the_model_knows_is_its_smallest(rig, styled):
    levels = asked_levels(rig, styled, rig.runs.latent(), [1.0, 0.001, 0.0], drawn=False)
    smallest = styled.get_model_object("model_sampling").sigma_min.item()
    assert levels == pytest.approx([1.0, smallest], rel=1e-6)


@pytest.mark.parametrize("drawn", [True, False])
def test_sigmas_that_end_just_above_zero_are_no_wrap_around(rig, styled, monkeypatch, drawn):
    """Split sigmas may end at the model's smallest level, below which the chain has nothing."""
    schedules, original = [], rig.sms_sampler.optimize

    def noted(source, schedule, *args, **kwargs):
        schedules.append(schedule)
        return original(source, schedule, *args, **kwargs)

    monkeypatch.setattr(rig.sms_sampler, "optimize", noted)
    levels = asked_levels(rig, styled, rig.runs.latent(1, 4, 4, 4), [0.05] * 9 + [0.0292], drawn=drawn, cfg=1.0)
    assert max(levels) < 0.07
    assert max(schedules[0].weights) < 0.02  # of the order of the published ones
    assert min(schedules[0].timesteps) >= 3


def test_empty_sigmas_are_refused(rig, styled):
    with pytest.raises(ValueError, match="sigmas: they hold no step. Connect 'Stylize SMS Sigmas'"):
        rig.runs.sms(styled, rig.runs.latent(), sigmas=torch.tensor([1.0]))


# going on with levels as given


def test_resumed_run_asks_the_remaining_levels(rig, styled):
    source, sigmas = rig.runs.latent(), [1.6, 1.2, 0.8, 0.4, 0.2]
    reached = source + 0.1 * rig.runs.drawn(*source.shape, seed=5)
    levels = asked_levels(rig, styled, source, sigmas, drawn=False, start=2, resume=reached)
    assert levels == pytest.approx([0.8, 0.4], rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 4, 12, 10), (2, 4, 12, 12), (2, 16, 12, 10)])
def test_resume_latent_of_another_picture_is_refused_with_both_shapes(rig, styled, shape):
    with pytest.raises(ValueError) as caught:
        rig.runs.sms(styled, rig.runs.latent(), start=2, resume=torch.ones(shape))
    assert str(caught.value).startswith(f"resume_latent: it is {shape}, the run's latent is (2, 4, 12, 10).")


def test_resume_at_the_end_is_refused(rig, styled):
    source = rig.runs.latent()
    with pytest.raises(ValueError, match="^resume_step: it is 4 of 4 steps"):
        rig.runs.sms(styled, source, start=4, resume=source)
