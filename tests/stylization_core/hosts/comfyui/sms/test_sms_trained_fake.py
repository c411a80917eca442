"""Whole SMS runs with a trained fake score."""

from __future__ import annotations

import pytest
import torch


def test_trained_fake_moves_the_latent_otherwise(rig, styled):
    source = rig.runs.latent()
    trained, frozen = (rig.runs.sms(styled, source, steps=6, trained=one) for one in (True, False))
    assert torch.isfinite(trained).all()
    assert rig.runs.moved(trained, source) > 0.05
    assert rig.runs.moved(trained, frozen) > 1e-2 * rig.runs.moved(frozen, source)


def test_trained_fake_is_the_base_until_it_has_learned(rig, styled):
    """The first two scores see the untouched latent and, at the first, an untrained fake."""
    reached: dict[bool, list] = {}
    for trained in (True, False):
        seen = reached.setdefault(trained, [])
        callback = lambda step, x0, x, total, seen=seen: seen.append(x.clone())  # noqa: E731
        rig.runs.sms(styled, rig.runs.latent(), steps=1, trained=trained, callback=callback)
    assert torch.equal(reached[True][0], reached[False][0])


def test_trained_fake_is_deterministic(rig, styled):
    source = rig.runs.latent()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = rig.runs.sms(styled, source, trained=True)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(rig.runs.sms(styled, source, trained=True), first)
    assert not torch.equal(rig.runs.sms(styled, source, trained=True, seed=4), first)


def test_trained_fake_leaves_levels_and_noise_alone(rig, styled):
    """Its own draws come from streams of their own."""
    given = [[] for _ in range(2)]
    for trained, inputs in zip((False, True), given, strict=True):
        recorded = styled.clone()

        def note(executor, x, t, *args, inputs=inputs, **kwargs):
            if "style" in [branch.name for branch in args[3][rig.rows.CHUNKS]]:
                inputs.append((t[0].item(), x[:2].clone()))
            return executor(x, t, *args, **kwargs)

        recorded.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.inputs", note)
        rig.runs.sms(recorded, rig.runs.latent(), trained=trained)
    assert [level for level, _ in given[0]] == [level for level, _ in given[1]]
    assert all(torch.equal(one[1], two[1]) for one, two in zip(given[0][:2], given[1][:2], strict=True))


@pytest.mark.parametrize("ending", ["success", "exception in a score", "exception in training", "interrupt"])
def test_trained_fake_leaves_nothing(rig, styled, outputs, ending):
    source = rig.runs.latent()
    rig.runs.sms(styled, source, steps=1, trained=True)
    before, training = rig.leaks.state(styled), getattr(rig.model_management, "in_training", None)
    if ending == "success":
        rig.runs.sms(styled, source, trained=True)
    elif ending == "interrupt":
        rig.endings.interrupt(styled, source, trained=True)
    else:
        # seven blocks a call: score of the style, score of the fake, training
        failing = rig.endings.failing_after(styled, 5 if ending == "exception in a score" else 15)
        with pytest.raises(ZeroDivisionError):
            rig.runs.sms(failing, source, trained=True)
    assert rig.leaks.state(styled) == before
    assert before["hooks"] == [] and before["forwards"] == []
    assert all(one.grad is None for one in styled.model.parameters())
    assert styled.model.current_patcher is None
    assert getattr(rig.model_management, "in_training", None) == training
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_trained_fake_is_freed_with_its_run(rig, styled):
    """Also while ComfyUI keeps the guider as a node's output."""
    guider, source = rig.runs.guider(styled, trained=True), rig.runs.latent(1, 4, 8, 8)

    def run() -> int:
        with torch.inference_mode():
            guider.sample(source, source, rig.sms_sampler.StyleMatchingSampler(), torch.tensor([1.6, 0.8, 0.1]), seed=0)
        assert guider._twin is None and guider._draws is None
        return rig.leaks.tensors()

    run()
    before = run()
    assert max(run() for _ in range(4)) <= before


def test_trained_fake_works_at_cfg_1(rig, styled):
    source = rig.runs.latent()
    recorded, calls = rig.runs.recording(styled)
    trained = rig.runs.sms(recorded, source, cfg=1.0, trained=True)
    # each step: the style's row, the fake's row, the row that trains
    assert [names for _, names, _ in calls] == [("style",), ("base",), ("base",)] * 4
    assert rig.runs.moved(trained, rig.runs.sms(styled, source, cfg=1.0)) > 1e-2 * rig.runs.moved(trained, source)


def test_trained_fake_beside_a_second_checkpoint_equals_the_gate(rig, micro, styled, path):
    source = rig.runs.latent()
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    gate, two = rig.runs.sms(styled, source, trained=True), rig.runs.sms(micro, source, second, trained=True)
    assert rig.runs.moved(gate, two) < 1e-2 * rig.runs.moved(gate, source)
    assert second.model.current_patcher is None


def test_trained_fake_below_the_lowest_published_level(rig, styled):
    """SIGMAS may leave no range to draw the training level from."""
    result = rig.runs.sms(styled, rig.runs.latent(), sigmas=torch.tensor([0.1, 0.08, 0.0]), trained=True)
    assert torch.isfinite(result).all()
