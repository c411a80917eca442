"""NaN in an SMS run is an error that names step, input and likely cause; what was there before it is kept."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file


def breaking(rig, model, step: int, name: str):
    """A clone whose rows of a branch are NaN from the n-th call on."""
    clone, calls = model.clone(), []

    def spoil(executor, *args, **kwargs):
        calls.append(1)
        found = executor(*args, **kwargs)
        options = rig.rows.options_of(args, kwargs)
        if len(calls) > step:
            for rows in rig.rows.rows_of(name, options[rig.rows.CHUNKS], len(found)):
                found[rows.start, 0, 0, 0] = float("nan")
        return found

    clone.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.spoil", spoil)
    return clone


def refused(rig, run) -> str:
    with pytest.raises(rig.rows.StylizationError) as caught:
        run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "found", "remedy"),
    [
        ("style", "model: the prediction with the style is NaN or infinite", "strength of the style's LoRA"),
        ("base", "model: the prediction without it is NaN or infinite", "ControlNets"),
    ],
)
def test_network_that_gives_nan(rig, styled, outputs, name, found, remedy):
    source, seen = rig.runs.latent(), {}
    rig.runs.sms(styled, source, steps=9, callback=lambda step, x0, x, total: seen.update({step: x.clone()}))
    run = lambda: rig.runs.sms(breaking(rig, styled, 4, name), source, steps=9)  # noqa: E731
    message = refused(rig, run)
    assert message.startswith(found)
    assert "step 5 of 9 (sigma " in message and remedy in message and "is saved" in message
    (path,) = outputs.glob("*.latent")
    assert path.name.startswith("sms_stopped_at_4_of_9")
    kept = load_file(path)["latent_tensor"]
    assert torch.equal(kept, styled.model.process_latent_out(seen[3]))


def test_second_model_that_gives_nan_is_named(rig, micro, outputs):
    other = rig.micro.unet(seed=1)
    next(iter(other.model.diffusion_model.parameters())).data[0] = float("nan")
    message = refused(rig, lambda: rig.runs.sms(micro, rig.runs.latent(), other))
    assert message.startswith("style_model: the prediction with the style is NaN or infinite at step 1 of 4")
    assert "is saved" not in message
    assert not outputs.exists()


def test_lora_that_gives_nan(rig, micro, tmp_path, outputs):
    weights = rig.loras.kohya(micro)
    key = next(name for name in weights if name.endswith("lora_up.weight"))
    weights[key] = weights[key] * 1e30
    path = rig.loras.saved(weights, tmp_path / "overflowing.safetensors")
    styled = rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 1e9))
    message = refused(rig, lambda: rig.runs.sms(styled, rig.runs.latent()))
    assert message.startswith("model: the prediction with the style") and "step 1 of 4" in message


def test_prompt_that_is_nan(rig, styled, outputs):
    prompts = rig.runs.pair()
    prompts["negative"][0][0][0, 0, 0] = float("nan")
    message = refused(rig, lambda: rig.runs.sms(styled, rig.runs.latent(), conditionings=prompts))
    assert message.startswith("model: the prediction with the style") or "prompts" in message
    assert "step 1 of 4" in message


def test_latent_that_is_nan_does_not_start(rig, styled, outputs):
    source = rig.runs.latent()
    source[1, 2, 3, 4] = float("inf")
    message = refused(rig, lambda: rig.runs.sms(styled, source))
    assert message.startswith("latent_image:") and "1 of its" in message
    assert not outputs.exists()


def test_trained_fake_that_gives_nan(rig, styled, outputs):
    message = refused(rig, lambda: rig.runs.sms(breaking(rig, styled, 6, "base"), rig.runs.latent(), trained=True))
    assert message.startswith("model: the prediction without it is NaN")


def test_run_after_one_that_failed_is_as_if_nothing_had_happened(rig, styled, outputs):
    source = rig.runs.latent()
    before, state = rig.runs.sms(styled, source), rig.leaks.network(styled)
    refused(rig, lambda: rig.runs.sms(breaking(rig, styled, 2, "base"), source))
    assert torch.equal(rig.runs.sms(styled, source), before)
    assert rig.leaks.network(styled) == state


def test_levels_of_a_run_are_read_off_the_device_once(rig, styled, monkeypatch):
    reads = []
    sampling = styled.get_model_object("model_sampling")
    levels = rig.noise_levels.Levels(sampling)
    kind = type(sampling)
    plain = kind.sigma_min
    monkeypatch.setattr(kind, "sigma_min", property(lambda self: reads.append(1) or plain.fget(self)))
    for sigma in (0.1, 0.5, 2.0):
        levels.model(sigma)
    assert len(reads) == 1
