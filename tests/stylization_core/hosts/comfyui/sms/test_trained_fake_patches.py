"""The fake score that is trained inside ComfyUI: inference tensors and other nodes."""

from __future__ import annotations

import pytest
import torch


def test_everything_may_be_an_inference_tensor(rig, comfy, trial, wiring_files):
    """As in a real run: loader nodes, prompts and latents all come from inference mode."""
    with torch.inference_mode():
        patcher, _vae = comfy.load_checkpoint(wiring_files.path("wiring_sdxl.safetensors"))
        conditionings = rig.runs.pair(2048, 1280)

    def body(trial):
        assert torch.is_inference_mode_enabled()
        network = trial.inner.diffusion_model
        assert all(p.is_inference() for p in network.parameters())
        assert trial.clean.is_inference() and trial.noised.is_inference() and trial.level.is_inference()
        fake = trial.fake()
        assert not any(p.is_inference() for p in fake._twin.diffusion_model.parameters())
        assert not any(b.is_inference() for b in fake._twin.diffusion_model.buffers())
        losses = trial.train(fake, 4)
        # usable as any tensor of the run
        found = trial.predict(fake)[0].mul_(2).add_(trial.clean)
        assert torch.is_inference_mode_enabled() and torch.isfinite(found).all()
        return losses

    assert rig.trials.falls(trial(patcher, body, conditionings))


def test_works_outside_inference_mode_too(rig, trial):
    def body(trial):
        with torch.inference_mode(False):
            trial.clean, trial.noise = trial.clean.clone(), trial.noise.clone()
            fake = trial.fake()
            losses = trial.train(fake, 3)
            found = trial.predict(fake)[0]
            assert not found.requires_grad
            return losses

    assert rig.trials.falls(trial(rig.micro.unet(), body))


def test_patches_that_keep_inference_tensors_and_weights_of_their_own(rig, trial):
    """As IPAdapter and shared attention do: keys, values and projections that a patch has made in inference mode."""
    from comfy.ldm.modules.attention import optimized_attention

    patcher, added = rig.micro.unet(), torch.nn.Linear(64, 64)
    with torch.inference_mode():
        keys, values, own = torch.randn(1, 5, 64), torch.randn(1, 5, 64), torch.nn.Linear(64, 64)

    def replace(q, k, v, extra_options):
        rows, heads = q.shape[0], extra_options["n_heads"]
        # no transformer_options: what is attended to here comes past the override
        extra = optimized_attention(own(q), keys.expand(rows, -1, -1), values.expand(rows, -1, -1), heads)
        return optimized_attention(added(q), k, v, heads) + extra

    patcher.set_model_attn2_replace(replace, "input", 1, 0)

    def body(trial):
        fake = trial.fake()
        assert torch.equal(trial.predict(fake)[0], trial.base()[0])
        return trial.train(fake, 4)

    assert rig.trials.falls(trial(patcher, body))
    assert own.weight.grad is None and added.weight.grad is None


def test_patch_that_writes_into_a_tensor_of_the_network(rig, trial):
    """FreeU and others do; autograd refuses the first attempt, and the fake then keeps copies."""
    patcher = rig.micro.unet()

    def patch(h, hsp, transformer_options):
        h = torch.sigmoid(h)
        h[:, ::2] *= 1.1
        return h, hsp

    patcher.set_model_output_block_patch(patch)

    def body(trial):
        fake = trial.fake()
        losses = trial.train(fake, 4)
        assert fake._gradients.overwriting
        return losses

    assert rig.trials.falls(trial(patcher, body))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_controlnet_reaches_the_fake_and_is_not_trained(rig, comfy, trial, wiring_model, wiring_files, family):
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES as known

    made = known[family]
    with torch.inference_mode():
        control = comfy.controlnet.load_controlnet(str(wiring_files.path(made.controlnet)))
        control.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, (0.0, 1.0))
    bare = rig.runs.pair(made.width, made.pooled)
    pair = {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in bare.items()}

    def body(trial):
        fake = trial.fake()
        base, first = trial.base()[0], trial.predict(fake)[0]
        losses = trial.train(fake, 4)
        return base, first, losses, trial.base()[0]

    base, first, losses, after = trial(wiring_model(family), body, pair)
    without = trial(wiring_model(family), lambda trial: trial.base()[0], bare)
    assert torch.equal(base, first) and torch.equal(base, after)
    assert (base - without).abs().max() > 1e-3
    assert rig.trials.falls(losses)
    assert all(parameter.grad is None for parameter in control.control_model.parameters())


def test_loss_sees_the_controlnet(rig, trial):
    """The residuals are part of the trained prediction: the first loss is that of the base under control."""
    control = residual_control(rig)

    def body(trial):
        loss = trial.train(trial.fake(), 1, weight=1.0)[0]
        return loss, float(torch.mean((trial.base()[0] - trial.clean) ** 2))

    controlled, expected = trial(rig.micro.unet(), body, {"positive": rig.runs.conditioning(1, control=control)})
    plain, _ = trial(rig.micro.unet(), body, {"positive": rig.runs.conditioning(1)})
    assert controlled == pytest.approx(expected, rel=1e-4)
    assert abs(controlled - plain) > 1e-3


def residual_control(rig):
    """A control whose network has weights that ask for gradients, which autograd must not follow."""
    import comfy.controlnet

    layer = torch.nn.Conv2d(4, 128, 1)
    with torch.no_grad():
        layer.weight.copy_(rig.runs.drawn(128, 4, 1, 1, seed=6))

    class Residual(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            assert not torch.is_grad_enabled()
            inner = torch.nn.functional.interpolate(layer(x_noisy), scale_factor=0.5)
            return self.control_merge({"middle": [inner]}, None, x_noisy.dtype)

    control = Residual()
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 50.0, (0.0, 1.0))
    return control


def test_prompt_of_two_areas_and_a_mask(rig, trial):
    with torch.inference_mode():
        mask = torch.ones(1, 64, 64)
        mask[..., 32:] = 0
        left = rig.runs.conditioning(1, mask=mask, mask_strength=0.8, set_area_to_bounds=False)
        right = rig.runs.conditioning(2, area=(8, 4, 0, 4), strength=0.7)

    def body(trial):
        fake = trial.fake()
        assert torch.equal(trial.predict(fake)[0], trial.base()[0])
        return trial.train(fake, 4)

    assert rig.trials.falls(trial(rig.micro.unet(), body, {"positive": left + right}))


def test_attention_of_the_run_is_kept_in_predictions_and_replaced_in_training(rig, trial):
    patcher, calls = rig.micro.unet(), []

    def forward_only(attention, *args, **kwargs):
        calls.append(1)
        return attention(*args, **kwargs).detach()

    patcher.model_options["transformer_options"]["optimized_attention_override"] = forward_only

    def body(trial):
        fake = trial.fake()
        trial.predict(fake)
        seen = len(calls)
        trial.train(fake, 2)
        assert 0 < seen == len(calls)
        return rig.trials.factors(fake, "lora_B")

    ups = trial(patcher, body)
    assert all(up.any() for name, up in ups.items())


def test_training_sign_of_newer_comfyui_is_set_and_taken_back(rig, trial, monkeypatch):
    monkeypatch.setattr(rig.model_management, "in_training", False, raising=False)
    patcher, seen, failing = rig.micro.unet(), [], []

    def note(q, k, v, options):
        seen.append(rig.model_management.in_training)
        if failing:
            raise ZeroDivisionError("inside the model")
        return q, k, v

    patcher.set_model_attn1_patch(note)

    def body(trial):
        fake = trial.fake()
        trial.predict(fake)
        assert not any(seen)
        seen.clear()
        trial.train(fake)
        assert seen and all(seen)
        failing.append(1)
        with pytest.raises(ZeroDivisionError):
            trial.train(fake)
        return rig.model_management.in_training

    assert trial(patcher, body) is False


def test_comfyui_without_that_sign_gets_none(rig, trial, monkeypatch):
    monkeypatch.delattr(rig.model_management, "in_training", raising=False)
    trial(rig.micro.unet(), lambda trial: trial.train(trial.fake()))
    assert not hasattr(rig.model_management, "in_training")


def test_clones_on_other_gpus_are_not_asked(rig):
    kept = rig.differentiable.on_one_device({"multigpu_clones": {}, "transformer_options": {}})
    assert kept == {"transformer_options": {}}
