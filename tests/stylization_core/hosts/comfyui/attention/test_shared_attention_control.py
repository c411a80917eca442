"""Sharing beside ControlNets, one and two stacked: they reach the pictures and leave the reference alone."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(params=["sd15", "sdxl"])
def controlled(request, rig, comfy, wiring_model, wiring_files):
    """(model, source, ``prompts(stacked)``) of a wiring model; a hint of its own for each of three pictures."""
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES

    known = FAMILIES[request.param]

    def loaded(seed):
        control = comfy.controlnet.load_controlnet(str(wiring_files.path(known.controlnet)))
        hints = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        return control.set_cond_hint(hints, 1.0, (0.0, 1.0))

    def prompts(count: int) -> dict:
        bare = rig.runs.pair(known.width, known.pooled)
        if not count:
            return bare
        control = loaded(0)
        if count == 2:
            control.set_previous_controlnet(loaded(1))
        return {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in bare.items()}

    return wiring_model(request.param), rig.runs.latent(3, 4, 8, 8), prompts


def residuals(rig, model, source, conditionings) -> list[list[torch.Tensor]]:
    """ControlNet residuals that reach the network, in each of its calls with any."""
    seen = []

    def note(executor, x, t, context=None, y=None, control=None, *others, **named):
        if control:
            seen.append([each.clone() for part in control.values() for each in part if each is not None])
        return executor(x, t, context, y, control, *others, **named)

    clone = model.clone()
    clone.add_wrapper_with_key(rig.WrappersMP.DIFFUSION_MODEL, "test.residuals", note)
    rig.ordinary.one_step(clone, source, conditionings=conditionings)
    return seen


@pytest.mark.parametrize("count", [1, 2])
def test_controlnets_reach_the_pictures_and_not_the_reference(rig, monkeypatch, controlled, count):
    model, source, prompts = controlled
    shared = rig.sharing.shared(model, rig.sharing.reference())
    plain, found = (residuals(rig, one, source, prompts(count)) for one in (model, shared))
    assert len(plain) == len(found) == 1 and len(plain[0]) >= 2
    assert all(torch.equal(a, b) and len(a) == 6 and a.any() for a, b in zip(plain[0], found[0], strict=True))
    calls = rig.sharing.asked(monkeypatch, model)
    result = rig.ordinary.one_step(shared, source, conditionings=prompts(count))
    alone = [named for x, _, named in calls if x.shape[-2:] == (10, 14)]
    assert len(alone) == 1 and all(named.get("control") is None for named in alone)
    for without in (
        rig.ordinary.one_step(shared, source, conditionings=prompts(0)),
        rig.ordinary.one_step(model, source, conditionings=prompts(count)),
    ):
        assert rig.runs.moved(result, without) > 1e-4


@pytest.mark.parametrize(("count", "split"), [(1, False), (2, True)])
def test_controlnets_leave_the_first_picture_of_a_batch_alone(rig, monkeypatch, controlled, count, split):
    model, source, prompts = controlled
    if split:
        rig.runs.split_calls(monkeypatch, model)
    free, held = (rig.sharing.in_batch(model, uncontrolled=one) for one in (True, False))
    plain, found, with_first = (residuals(rig, one, source, prompts(count)) for one in (model, free, held))
    chunks = 1 if split else 2
    assert len(found) == len(plain) == 2 // chunks
    for given, ours, theirs in zip(plain, found, with_first, strict=True):
        for a, b, c in zip(given, ours, theirs, strict=True):
            a, b, c = (each.unflatten(0, (chunks, 3)) for each in (a, b, c))
            assert a[:, 0].any() and not b[:, 0].any()
            assert torch.equal(a[:, 1:], b[:, 1:]) and torch.equal(a, c)
    first = rig.ordinary.one_step(free, source, conditionings=prompts(count))[0]
    uncontrolled = rig.ordinary.one_step(model, source, conditionings=prompts(0))[0]
    assert rig.runs.moved(first, uncontrolled) < 1e-5
    controlled_first = rig.ordinary.one_step(held, source, conditionings=prompts(count))[0]
    assert rig.runs.moved(controlled_first, uncontrolled) > 1e-4


def test_residuals_of_one_row_are_spread_over_the_batch(rig, micro):
    """Some controls give one row for all pictures; and what they keep must not be written to."""
    import comfy.controlnet

    kept = torch.ones(1, 128, 6, 5)

    class OneRow(comfy.controlnet.ControlBase):
        def get_control(self, *args):
            return {"input": [], "middle": [kept], "output": [None]}

    control = OneRow().set_cond_hint(torch.rand(1, 3, 96, 80))
    pair = {key: [[tokens, {"control": control}]] for key, [[tokens, _]] in rig.runs.pair().items()}
    ((found,),) = residuals(rig, rig.sharing.in_batch(micro), rig.runs.latent(3, 4, 12, 10), pair)
    assert found.shape[0] == 6 and kept.all()
    assert [bool(row.any()) for row in found] == [False, True, True] * 2
