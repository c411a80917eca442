"""StylizeSMS in process."""

from __future__ import annotations

import importlib

import pytest
import torch


@pytest.fixture(scope="module")
def sms(pack_nodes):
    return importlib.import_module("stylization.nodes.sms.whole")


@pytest.fixture
def execute(rig, sms):
    """Runs the node as ComfyUI does, with small defaults; returns the LATENT."""

    def run(model, **given) -> dict:
        arguments = {
            **rig.runs.pair(),
            "latent_image": {"samples": picture(rig)},
            "seed": 3,
            "steps": 4,
            "cfg": 4.5,
            "strength": 1.0,
            "step_size": 0.1,
            "spectrum": 1.0,
            "relevance": "off",
            "relevance_floor": 0.1,
            **given,
        }
        with torch.inference_mode():
            return sms.StylizeSMS.execute(model, **arguments).result[0]

    return run


@pytest.fixture
def refused(execute, refusal):
    """The message with which the node refuses what it is given."""
    return lambda model, **given: refusal("Stylize SMS", lambda: execute(model, **given))


def picture(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (2, 4, 12, 10)), seed=11)


def test_node_is_the_run(rig, execute, styled):
    found = execute(styled)["samples"]
    assert torch.equal(found, rig.runs.sms(styled, picture(rig)))


def test_precomputed_relevance_is_the_samplers(rig, execute, styled):
    found = execute(styled, relevance="precomputed", relevance_floor=0.2)["samples"]
    assert torch.equal(found, rig.runs.sms(styled, picture(rig), relevance_floor=0.2))


def test_style_model_and_edit_prompt_are_used(rig, execute, micro, styled, path):
    style = rig.loras.weight_patched(micro, path, 0.8)
    assert torch.equal(execute(micro, style_model=style)["samples"], execute(styled)["samples"])
    edit = rig.runs.conditioning(9)
    one, two = (execute(styled, relevance="precomputed", edit=given)["samples"] for given in (edit, None))
    assert not torch.equal(one, two)


OPTIONS = {
    # inputs of the node, arguments of the run
    "trained fake score": lambda rig: ({"fake_score": "trained"}, {"trained": True}),
    "fake blend": lambda rig: ({"fake_blend": 0.3}, {"blend": 0.3}),
    "source prompt": lambda rig: (
        {"source": rig.runs.conditioning(9)},
        {"conditionings": {**rig.runs.pair(), "source": rig.runs.conditioning(9)}},
    ),
    "proximal spectrum": lambda rig: ({"spectrum_form": "proximal"}, {"proximal": True}),
    "colour hold": lambda rig: ({"color_hold": 0.2}, {"color": 0.2}),
    "content pull": lambda rig: ({"content_pull": 3.0}, {"pull": 3.0}),
    "step scale": lambda rig: ({"step_scale": "per picture"}, {"shared": True}),
    "live relevance": lambda rig: (
        {"relevance": "live", "relevance_floor": 0.2},
        {"relevance_floor": 0.2, "live": True},
    ),
}


@pytest.fixture(scope="module")
def plain_run(rig, tmp_path_factory):
    """The run of the default settings on a model like ``styled``."""
    model = rig.micro.unet()
    path = rig.loras.saved(rig.loras.kohya(model), tmp_path_factory.mktemp("plain") / "style.safetensors")
    return rig.runs.sms(rig.style_branch.attach(model, rig.lora_files.load_style(path, model, 0.8)), picture(rig))


@pytest.mark.parametrize("option", OPTIONS)
def test_options_reach_the_run(rig, execute, styled, plain_run, option):
    inputs, arguments = OPTIONS[option](rig)
    found = execute(styled, **inputs)["samples"]
    assert torch.equal(found, rig.runs.sms(styled, picture(rig), **arguments))
    assert (found - plain_run).abs().max() > 1e-3


def test_what_other_nodes_left_on_the_model_goes_before_the_inputs(rig, execute, styled):
    settings, attach_once = rig.sms_settings, rig.attachments.attach_once
    held = attach_once(styled, settings.SPECTRUM, settings.SpectrumHold(weight=3.0), "a node")
    assert torch.equal(execute(held, spectrum=0.0)["samples"], execute(styled, spectrum=3.0)["samples"])
    mask = torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    placed = attach_once(styled, settings.REFINEMENT, settings.Refinement(0.0, mask=mask), "a node")
    result = execute(placed, spectrum=0.0)["samples"]
    assert torch.equal(result, execute(placed, spectrum=0.0, relevance="precomputed")["samples"])
    assert (result[..., :5] - picture(rig)[..., :5]).abs().max() < 1e-4  # no gradient where the map is 0
    assert (result[..., 5:] - picture(rig)[..., 5:]).abs().max() > 0.05


def test_strength_zero_is_the_latent_itself(rig, execute, styled):
    latent = {"samples": picture(rig), "batch_index": [4, 7]}
    assert execute(styled, latent_image=latent, strength=0.0) is latent


def test_dial_zero_is_the_latent_itself(rig, execute, styled):
    latent = {"samples": picture(rig)}
    styled.model_options["transformer_options"][rig.attachments.DIAL] = 0
    assert execute(styled, latent_image=latent) is latent


def test_other_entries_of_the_latent_are_kept_and_the_input_is_not_written_to(rig, execute, styled):
    samples = picture(rig)
    latent = {"samples": samples, "batch_index": [4, 7]}
    result = execute(styled, latent_image=latent)
    assert result["batch_index"] == [4, 7]
    assert latent["samples"] is samples and torch.equal(samples, picture(rig))


def test_mask_keeps_the_protected_part_exactly(rig, execute, styled):
    mask = torch.zeros(1, 96, 80)
    mask[..., 40:] = 1.0
    result, samples = execute(styled, mask=mask)["samples"], picture(rig)
    assert torch.equal(result[..., :5], samples[..., :5])
    assert (result[..., 5:] - samples[..., 5:]).abs().max() > 0.05


def test_noise_mask_of_the_latent_is_honoured_like_a_mask(rig, execute, styled):
    mask = torch.zeros(1, 1, 96, 80)
    mask[..., :48, :] = 1.0
    by_latent = execute(styled, latent_image={"samples": picture(rig), "noise_mask": mask})
    by_mask = execute(styled, mask=mask[0])
    assert torch.equal(by_latent["samples"], by_mask["samples"])
    assert torch.equal(by_latent["noise_mask"], mask)


def test_mask_and_noise_mask_must_both_allow_a_change(rig, execute, styled):
    left, top = torch.zeros(1, 96, 80), torch.zeros(1, 1, 96, 80)
    left[..., :40], top[..., :48, :] = 1.0, 1.0
    samples = picture(rig)
    result = execute(styled, latent_image={"samples": samples, "noise_mask": top}, mask=left)["samples"]
    changed = (result - samples).abs().amax((0, 1)) > 1e-4
    assert changed[:6, :5].all()
    assert not changed[6:].any() and not changed[:, 5:].any()


@pytest.mark.parametrize("shape", [(1, 4, 13, 9), (3, 4, 8, 24)])
def test_any_size_and_batch(rig, execute, styled, shape):
    result = execute(styled, latent_image={"samples": picture(rig, *shape)}, relevance="precomputed")["samples"]
    assert result.shape == shape and torch.isfinite(result).all()


def test_resuming_goes_on_from_the_connected_latent(rig, execute, styled):
    resume = {"samples": picture(rig) + 0.5}
    result = execute(styled, steps=9, resume_latent=resume, resume_step=8)["samples"]
    assert (result - resume["samples"]).abs().max() < (result - picture(rig)).abs().max()


def broken(rig) -> dict:
    samples = picture(rig)
    samples[0, 0, 0, 0] = float("nan")
    return {"latent_image": {"samples": samples}}


BAD_INPUT = {
    "NaN in the latent": (broken, "latent_image: 1 of its"),
    "empty latent": (lambda rig: {"latent_image": {"samples": torch.zeros(1, 4, 8, 8)}}, "latent_image: it is empty"),
    "video latent": (lambda rig: {"latent_image": {"samples": torch.ones(1, 4, 2, 8, 8)}}, "latent_image: it holds"),
    "mask of another size": (lambda rig: {"mask": torch.ones(1, 64, 64)}, "mask: it is 64x64 pixels"),
    "too many masks": (lambda rig: {"mask": torch.ones(3, 96, 80)}, "mask: it has 3 entries for 2 pictures"),
    "noise mask of another size": (
        lambda rig: {"latent_image": {"samples": picture(rig), "noise_mask": torch.ones(1, 64, 64)}},
        "latent_image: it is 64x64 pixels",
    ),
    "no steps": (lambda rig: {"steps": 0}, "steps: it is 0"),
    "step to resume at but no latent": (lambda rig: {"resume_step": 3}, "resume_step: it is 3 but no resume_latent"),
    "resuming another picture": (
        lambda rig: {"resume_latent": {"samples": picture(rig, 2, 4, 8, 8)}, "resume_step": 1},
        "resume_latent: it is (2, 4, 8, 8), the run's latent is (2, 4, 12, 10)",
    ),
    "nothing left to resume": (
        lambda rig: {"resume_latent": {"samples": picture(rig)}, "resume_step": 4},
        "resume_step: it is 4 of 4 steps",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_names_node_input_finding_and_remedy(rig, refused, styled, case):
    given, expected = BAD_INPUT[case]
    assert refused(styled, **given(rig)).startswith(f"Stylize SMS, {expected}")


def test_missing_style_and_equal_models_name_the_nodes_to_use(rig, refused, micro):
    for given in ({}, {"style_model": micro.clone()}, {"style_model": rig.micro.unet()}):
        message = refused(micro, **given)
        assert "'Stylize Style LoRA'" in message and "'Load LoRA'" in message


def test_refused_family_is_named(refused, wiring_model):
    assert "the model family WAN21" in refused(wiring_model("wan"))


def test_latent_of_another_family_is_refused(rig, refused, styled):
    message = refused(styled, latent_image={"samples": picture(rig, 1, 16, 8, 8)})
    assert "latent_image: it has 16 channels" in message


def test_bad_input_leaves_the_model_as_it_was(rig, refused, styled):
    before = rig.leaks.state(styled)
    refused(styled, **broken(rig))
    assert rig.leaks.state(styled) == before


def test_errors_inside_the_model_pass_unchanged(execute, styled):
    def fail(q, k, v, options):
        raise ZeroDivisionError("inside the model")

    styled.set_model_attn1_patch(fail)
    with pytest.raises(ZeroDivisionError):
        execute(styled)
