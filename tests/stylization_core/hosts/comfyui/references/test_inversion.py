"""Inversion of a reference by the loaded model."""

from __future__ import annotations

import pytest
import torch

STEPS = 6


def levels(steps: int = STEPS, top: float = 6.0) -> torch.Tensor:
    """SIGMAS as samplers take them, down to zero."""
    return torch.cat([torch.linspace(top**0.5, 0.2**0.5, steps) ** 2, torch.zeros(1)])


def inverted(rig, model, source, *, sigmas=None, cfg=1.0, refinements=0, callback=None, conditionings=None):
    sampler = rig.inversion.InversionSampler(refinements)
    guider = rig.ordinary.guider_of(model, conditionings, cfg)
    sigmas = levels() if sigmas is None else sigmas
    with torch.inference_mode():
        guider.sample(torch.zeros_like(source), source, sampler, sigmas, callback=callback, disable_pbar=True, seed=0)
    return sampler.trajectory


def returned(rig, model, trajectory, *, cfg=1.0, conditionings=None) -> torch.Tensor:
    """Where Euler's method leads from the top of a path, by ComfyUI's own sampler; in model scale."""
    sigmas = trajectory.sigmas.flip(0)
    noise = trajectory.latents[-1] / sigmas[0]
    empty = torch.zeros_like(noise)
    run = {"sigmas": sigmas.tolist(), "cfg": cfg, "conditionings": conditionings, "noise": noise}
    return model.model.process_latent_in(rig.ordinary.sample(model, empty, **run))


def error(rig, model, source, **settings) -> float:
    """Largest error of the reference on its way up and back, in units of its largest value."""
    clean = model.model.process_latent_in(source)
    cfg = settings.get("cfg", 1.0)
    found = returned(rig, model, inverted(rig, model, source, **settings), cfg=cfg)
    return rig.runs.moved(found, clean) / float(clean.abs().max())


@pytest.fixture(params=["EPS", "V_PREDICTION"])
def model(request, rig):
    """A model whose output is small, as in a trained one the direction changes little between levels."""
    made = rig.micro.unet(prediction=request.param)
    with torch.no_grad():
        made.model.diffusion_model.out[2].weight.mul_(0.1)
    return made


def test_path_leads_from_the_picture_through_every_level(rig, model):
    source = rig.runs.latent(2, 4, 9, 7)
    found = inverted(rig, model, source)
    assert torch.equal(found.sigmas, torch.cat([torch.zeros(1), levels()[:-1].flip(0)]))
    assert found.latents.shape == (STEPS + 1, 2, 4, 9, 7) and found.latents.dtype == torch.float32
    assert torch.equal(found.latents[0], 0.18215 * source)
    steps = [rig.runs.moved(*pair) for pair in zip(found.latents, found.latents[1:], strict=False)]
    assert all(step > 1e-3 for step in steps)
    for index, sigma in enumerate(found.sigmas.tolist()):
        assert torch.equal(found.at(sigma), found.latents[index])


def test_first_step_is_ddim_inversion(rig, model):
    """The slope at the new level, of what DDIM asks the network there: the old latent at the new variance."""
    source = rig.runs.latent()
    found = inverted(rig, model, source)
    for index in (1, 2, 4):
        low, high = found.sigmas[index - 1 : index + 1].double().tolist()
        x = found.latents[index - 1]
        asked = x * ((high**2 + 1) / (low**2 + 1)) ** 0.5
        denoised = rig.runs.plain(model, {"positive": rig.runs.conditioning(1)}, asked, high)["positive"]
        expected = x + (high - low) * (asked - denoised) / high
        assert rig.runs.moved(found.latents[index], expected) < 1e-4 * expected.abs().max()


def test_error_of_the_way_back_falls_with_the_refinements(rig, model):
    errors = [error(rig, model, rig.runs.latent(), refinements=count) for count in (0, 1, 4)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] and errors[2] < 0.02


def test_error_of_the_way_back_falls_with_the_steps(rig, model):
    errors = [error(rig, model, rig.runs.latent(), sigmas=levels(steps)) for steps in (4, 8, 16)]
    assert errors[0] > 1.3 * errors[1] > 1.69 * errors[2]


def test_euler_back_with_the_same_guidance(rig, model):
    assert error(rig, model, rig.runs.latent(), refinements=4, cfg=2.0) < 0.05


@pytest.mark.parametrize(("cfg", "rows"), [(1.0, 2), (2.0, 4)])
@pytest.mark.parametrize("refinements", [0, 2])
def test_cost_is_a_row_for_each_prompt_and_picture(rig, micro, cfg, rows, refinements):
    recorded, calls = rig.runs.recording(micro)
    inverted(rig, recorded, rig.runs.latent(), cfg=cfg, refinements=refinements)
    assert [count for *_, count in calls] == [rows] * STEPS * (1 + refinements)


def test_guidance_and_prompt_change_the_path(rig, micro):
    source = rig.runs.latent()
    plain = inverted(rig, micro, source).latents[-1]
    other = {"positive": rig.runs.conditioning(9), "negative": rig.runs.conditioning(2)}
    for settings in ({"cfg": 2.0}, {"conditionings": other}):
        assert rig.runs.moved(inverted(rig, micro, source, **settings).latents[-1], plain) > 1e-3


def test_progress_is_told_for_every_level(rig, micro):
    seen = []
    inverted(rig, micro, rig.runs.latent(), callback=lambda step, x0, x, total: seen.append((step, total)))
    assert seen == [(step, STEPS) for step in range(STEPS)]


def test_interrupt_ends_the_run_and_leaves_nothing(rig, micro):
    source, before = rig.runs.latent(), rig.leaks.state(micro)
    recorded, calls = rig.runs.recording(micro)
    with pytest.raises(rig.model_management.InterruptProcessingException):
        inverted(rig, recorded, source, callback=rig.endings.interrupting_at(1))
    assert len(calls) == 2
    assert rig.leaks.patcher_state(micro) == {name: before[name] for name in rig.leaks.patcher_state(micro)}
    assert rig.leaks.network(micro)["hooks"] == [] and micro.model.current_patcher is None
    assert torch.equal(source, rig.runs.latent())


def test_flow_model_walks_in_its_own_levels(rig):
    """x_next = x + (sigma_next - sigma) v(x, sigma_next), from the picture to pure noise."""
    flux, source = rig.micro.flux(), rig.runs.latent(1, 16, 8, 8)
    sigmas, pair = torch.tensor([1.0, 0.7, 0.3, 0.0]), rig.runs.pair(64, 32)
    found = inverted(rig, flux, source, sigmas=sigmas, conditionings=pair)
    assert torch.equal(found.sigmas, sigmas.flip(0))
    for index in (1, 2, 3):
        low, high = found.sigmas[index - 1 : index + 1].tolist()
        x = found.latents[index - 1]
        denoised = rig.runs.plain(flux, {"positive": pair["positive"]}, x, high)["positive"]
        assert rig.runs.moved(found.latents[index], x + (high - low) * (x - denoised) / high) < 1e-4


def test_path_between_and_beyond_its_points(rig, micro):
    path = rig.sharing.straight_trajectory(micro, rig.sharing.reference())
    low, high = path.latents[1], path.latents[2]
    assert rig.runs.moved(path.at(0.75), (low + high) / 2) < 1e-5
    beyond = path.latents[-1] + (path.latents[-1] - path.latents[-2]) * (30.0 - 20.0) / 15.0
    assert rig.runs.moved(path.at(30.0), beyond) < 1e-4
    single = rig.reference.Trajectory(path.sigmas[:1], path.latents[:1])
    assert torch.equal(single.at(0.3), path.latents[0])


def test_inverted_reference_is_shared_where_its_path_goes(rig, micro, monkeypatch):
    source = rig.runs.latent(1, 4, 10, 14)
    trajectory = inverted(rig, micro, source, refinements=1)
    pair, calls = rig.runs.pair(), rig.sharing.asked(monkeypatch, micro)
    reference = rig.reference.Reference(source, pair["positive"], pair["negative"], trajectory=trajectory)
    rig.ordinary.sample(rig.sharing.shared(micro, reference), rig.runs.latent(), sigmas=levels().tolist())
    seen = {sigma: x for x, sigma, _ in calls if x.shape[-2:] == (10, 14)}
    assert len(seen) == STEPS
    for index, sigma in enumerate(trajectory.sigmas.tolist()[1:], 1):
        assert torch.equal(seen[sigma], trajectory.latents[index].expand_as(seen[sigma]))
