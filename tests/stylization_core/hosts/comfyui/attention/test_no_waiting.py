"""Nothing that acts on self-attention waits for the device: one reading of the level in a step, and no more.

On a CPU nothing waits, so what would make a GPU wait is counted by operation: reading a number, and finding places by
values, which decides the size of a result.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# in inference mode a reading is one operation, elsewhere it is taken apart
READING = {"aten.item.default", "aten._local_scalar_dense.default"}
WAITING = READING | {
    "aten.nonzero.default",
    "aten.masked_select.default",
    "aten.unique_consecutive.default",
    "aten._unique2.default",
    "aten.equal.default",
}


class Watch(TorchDispatchMode):
    """Notes operations that a device would be waited for."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        indices = args[1] if str(func) == "aten.index.Tensor" else ()
        by_mask = any(one is not None and one.dtype == torch.bool for one in indices)
        if str(func) in WAITING or by_mask:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def forms(rig, model) -> dict:
    mask = torch.linspace(0, 1, 96).view(1, 96, 1).expand(1, 96, 80)
    part = torch.zeros(50, 70)
    part[10:30, 20:60] = 0.7
    masked = rig.sharing.described(mask=part)
    return {
        "shared": rig.sharing.shared(model, masked, mask=mask, weight=2.0, norms=True),
        "swap": rig.sharing.shared(model, masked, swap=True),
        "batch": rig.sharing.in_batch(model, norms=True),
        "holistic": rig.effects.injecting(model, masked, mask=mask),
        "quantiles": rig.effects.injecting(model, table=True),
        "regions": rig.effects.regional(model),
        "regions, holistic": rig.effects.regional(model, holistic=True),
        "together": rig.effects.regional(rig.effects.injecting(rig.sharing.shared(model, masked), masked)),
    }


@pytest.fixture
def waits(rig, monkeypatch):
    """``waits(model)``: operations that would wait, in each question to the model of one run."""

    def run(model) -> list[list[str]]:
        found: list[list[str]] = []
        original = rig.attention_run._Run.around_prediction

        def watched(self, *args):
            with Watch() as watch:
                result = original(self, *args)
            found.append(watch.seen)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(rig.attention_run._Run, "around_prediction", watched)
            rig.ordinary.sample(model, rig.runs.latent())
        return found

    return run


@pytest.mark.parametrize(
    "form", ["shared", "swap", "batch", "holistic", "quantiles", "regions", "regions, holistic", "together"]
)
def test_a_step_reads_its_level_once_and_waits_for_nothing_else(rig, micro, waits, form):
    first, *others = waits(forms(rig, micro)[form])
    assert len(others) == 3
    for seen in others:
        assert len(seen) <= 1 and set(seen) <= READING, form
    # masks of references are decided where they lie, once for each grid of a run
    assert len(first) < 30


@pytest.mark.parametrize("inference", [True, False])
def test_the_watch_sees_what_waits(inference):
    with torch.inference_mode(inference), Watch() as watch:
        x = torch.ones(4)
        float(x.sum())
        x[x > 0]
        (x > 0).nonzero()
    assert watch.seen[0] in READING and watch.seen[1:] == ["aten.index.Tensor", "aten.nonzero.default"]
