"""Sharing leaves nothing behind: neither on models and clones, nor hooks, nor memory, however a run ends."""

from __future__ import annotations

import pytest
import torch


def made_of(rig, kind: str, model):
    if kind == "references":
        return rig.sharing.shared(model, norms=True, mask=torch.linspace(0, 1, 120).view(1, 12, 10))
    return rig.sharing.in_batch(model, norms=True)


def run_to(rig, ending: str, model, source) -> None:
    if ending == "success":
        rig.ordinary.sample(model, source)
    elif ending == "interrupt":
        with pytest.raises(rig.model_management.InterruptProcessingException):
            rig.ordinary.sample(model, source, callback=rig.endings.interrupting_at(1))
    elif ending == "exception in the sampler":
        with pytest.raises(ZeroDivisionError):
            rig.ordinary.sample(model, source, callback=lambda *_: 1 / 0)
    else:
        with pytest.raises(ZeroDivisionError):
            rig.ordinary.sample(rig.endings.failing_after(model, 10), source)


ENDINGS = ("success", "exception in the model", "exception in the sampler", "interrupt")


@pytest.mark.parametrize("kind", ["references", "batch"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_left_on_the_model(rig, micro, kind, ending):
    model, source = made_of(rig, kind, micro), rig.runs.latent()
    rig.ordinary.sample(model, source)  # ComfyUI itself marks a module that it has loaded once
    names = {name: set(vars(module)) for name, module in micro.model.named_modules()}
    kept, before = source.clone(), [rig.leaks.state(one) for one in (model, micro)]
    expected = rig.ordinary.sample(model, source)
    run_to(rig, ending, model, source)
    assert [rig.leaks.state(one) for one in (model, micro)] == before
    assert before[0]["hooks"] == [] and before[0]["forwards"] == []
    assert {name: set(vars(module)) for name, module in micro.model.named_modules()} == names
    assert micro.model.current_patcher is None
    assert torch.equal(source, kept)
    assert torch.equal(rig.ordinary.sample(model, source), expected)


def test_removed_node_leaves_the_models_own_output(rig, micro):
    source = rig.runs.latent()
    before = rig.ordinary.sample(micro, source)
    for kind in ("references", "batch"):
        rig.ordinary.sample(made_of(rig, kind, micro), source)
        assert torch.equal(rig.ordinary.sample(micro, source), before)


def test_failed_pass_of_a_reference_takes_its_hooks_down(rig, micro, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("inside the model")

    model = rig.sharing.shared(micro, norms=True)
    block = rig.sharing.blocks(micro)["output", 1, 0]
    with monkeypatch.context() as patch:
        patch.setattr(block.ff, "forward", fail)
        with pytest.raises(ZeroDivisionError):
            rig.ordinary.one_step(model, rig.runs.latent())
    assert rig.leaks.network(micro)["hooks"] == []


def test_clones_do_not_see_each_others_settings(rig, micro):
    run = lambda model: rig.ordinary.one_step(model, rig.runs.latent())  # noqa: E731
    one, two = rig.sharing.shared(micro, weight=2.0), rig.sharing.shared(micro, rig.sharing.described(draw=25))
    three, four = one.clone(), rig.sharing.shared(one, rig.sharing.described(draw=25))
    plain, *alone = [run(model) for model in (micro, one, two, four)]
    again = [run(model) for model in (two, three, four, one, micro)]
    expected = [alone[1], alone[0], alone[2], alone[0], plain]
    assert all(torch.equal(*pair) for pair in zip(again, expected, strict=True))
    results = [plain, *alone]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[i + 1 :])


def test_wrapper_is_added_once(rig, micro):
    model = rig.sharing.in_batch(rig.sharing.shared(rig.sharing.shared(micro)))
    (wrapper,) = model.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.attention_run.KEY)
    assert callable(wrapper)
    assert not micro.get_wrappers(rig.WrappersMP.SAMPLER_SAMPLE, rig.attention_run.KEY)


@pytest.mark.parametrize("kind", ["references", "batch"])
def test_ten_runs_leave_no_more_than_one(rig, micro, kind):
    model, source = made_of(rig, kind, micro), rig.runs.latent()
    run = lambda: rig.ordinary.sample(model, source, sigmas=rig.ordinary.ONE_STEP)  # noqa: E731
    for _ in range(2):
        run()
    before, state = rig.leaks.tensors(), rig.leaks.patcher_state(model)
    for _ in range(10):
        run()
    assert rig.leaks.tensors() <= before
    assert rig.leaks.patcher_state(model) == state


def test_memory_does_not_grow_with_the_steps(rig, micro):
    """One level's keys and values are alive at a time."""
    model, counts = rig.sharing.shared(micro, norms=True), []
    sigmas = torch.linspace(3.0, 0.1, 6).tolist()
    rig.ordinary.sample(
        model, rig.runs.latent(), sigmas=(*sigmas, 0.0), callback=lambda *_: counts.append(rig.leaks.tensors())
    )
    assert len(counts) == 6 and max(counts[2:]) <= counts[1] + 5
