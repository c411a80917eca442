"""What the fake score that is trained leaves alone, and what it frees."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch


def anatomy(patcher) -> dict:
    """Modules with their attributes by name, and the tensors by identity."""
    named = dict(patcher.model.named_modules())
    return {
        "modules": {name: (id(one), sorted(vars(one)), sorted(one._modules)) for name, one in named.items()},
        "parameters": {name: (id(one), one.requires_grad) for name, one in patcher.model.named_parameters()},
    }


@pytest.mark.parametrize("ending", ["success", "exception"])
def test_loaded_model_is_left_alone(rig, trial, ending):
    patcher = rig.micro.unet() if ending == "success" else rig.endings.failing_after(rig.micro.unet(), 60)
    if ending == "success":
        trial(patcher, lambda trial: trial.base())  # ComfyUI itself marks a module that it has loaded once

    def body(trial):
        before = rig.leaks.state(patcher), anatomy(patcher)
        options = rig.leaks._tree(trial.options)
        if ending == "success":
            with trial.fake() as fake:
                trial.train(fake, 3)
                trial.predict(fake)
        else:
            with pytest.raises(ZeroDivisionError), trial.fake() as fake:
                trial.train(fake, 99)
        assert (rig.leaks.state(patcher), anatomy(patcher)) == before
        assert rig.leaks._tree(trial.options) == options
        assert all(p.grad is None for p in patcher.model.parameters())

    trial(patcher, body)
    assert rig.leaks.network(patcher)["hooks"] == []
    assert patcher.model.current_patcher is None


def test_twin_shares_no_module_table_and_no_weight_with_the_loaded_model(rig, trial):
    def body(trial):
        twin = trial.fake()._twin
        assert type(twin) is type(trial.inner) and twin.model_sampling is trial.inner.model_sampling
        assert twin._modules is not trial.inner._modules and twin.current_patcher is trial.inner.current_patcher
        ours = {p.data_ptr() for p in trial.inner.diffusion_model.parameters()}
        assert not ours & {p.data_ptr() for p in twin.diffusion_model.parameters()}
        assert trial.inner.diffusion_model is not twin.diffusion_model

    trial(rig.micro.unet(), body)


def test_stock_lora_still_lands_after_a_run(rig, trial, tmp_path):
    used, fresh = rig.micro.unet(), rig.micro.unet()
    trial(used, lambda trial: trial.train(trial.fake(), 2))
    path = rig.loras.saved(rig.loras.kohya(fresh), tmp_path / "style.safetensors")
    x = rig.runs.drawn(1, 4, 8, 8)
    one, two = (
        rig.runs.plain(rig.loras.weight_patched(patcher, path, 0.8), rig.runs.pair(), x) for patcher in (used, fresh)
    )
    without = rig.runs.plain(fresh, rig.runs.pair(), x)
    assert torch.equal(one["positive"], two["positive"])
    assert not torch.equal(one["positive"], without["positive"])


def test_stock_lora_of_the_base_belongs_to_the_fakes_base(rig, trial, tmp_path):
    path = rig.loras.saved(rig.loras.kohya(rig.micro.unet()), tmp_path / "base.safetensors")
    patched = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    base, fake = trial(patched, lambda trial: (trial.base()[0], trial.predict(trial.fake())[0]))
    assert torch.equal(base, fake)


def test_close_frees_the_copy(rig, trial):
    def body(trial):
        fake = trial.fake()
        trial.train(fake, 2)
        network = weakref.ref(fake._twin.diffusion_model)
        moments = weakref.ref(next(iter(fake._optimizer.state.values()))["exp_avg"])
        fake.close()
        gc.collect()
        assert network() is None and moments() is None
        fake.close()
        with pytest.raises(RuntimeError, match="closed"):
            trial.predict(fake)
        with pytest.raises(RuntimeError, match="closed"):
            trial.train(fake)

    trial(rig.micro.unet(), body)


def test_ten_fakes_leave_no_more_tensors_than_one(rig, trial):
    def body(trial):
        def once():
            with trial.fake() as fake:
                trial.train(fake, 2)

        once()
        before = rig.leaks.tensors()
        for _ in range(9):
            once()
        assert rig.leaks.tensors() <= before

    trial(rig.micro.unet(), body)


def test_training_bytes_are_what_is_held(rig, trial):
    def body(trial):
        fake = trial.fake()
        trial.train(fake)
        network, moments = fake._twin.diffusion_model, fake._optimizer.state
        held = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        held += sum(state[name].nbytes for state in moments.values() for name in ("exp_avg", "exp_avg_sq"))
        held += sum(factor.nbytes for factor in fake._factors)  # the gradients of a step
        return held

    patcher = rig.micro.unet()
    assert rig.trained_fake.training_bytes(patcher) == trial(patcher, body)
