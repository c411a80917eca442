"""What Stylize SMS, its parts and guidance in ordinary sampling refuse, through a real server."""

from __future__ import annotations

import pytest
import torch
from stylization_host import graphs
from stylization_host.comfy_client import PromptRefused
from stylization_host.graphs import node
from stylization_host.sms_graphs import GUIDANCE, HOLD, by_parts, sampling, stylizing


def without_style(graph):
    graph["sms"]["inputs"]["model"] = ["model", 0]


def with_equal_models(graph):
    graph["sms"]["inputs"].update(model=["model", 0], style_model=["model", 0])


def with_lora(name):
    def change(graph):
        graph["style"]["inputs"]["lora_name"] = name

    return change


def with_nan(graph):
    graph["nan"] = node("ProbeNaNLatent", samples=["latent", 0])
    graph["sms"]["inputs"]["latent_image"] = ["nan", 0]


def with_empty_latent(graph):
    graph["latent"]["inputs"]["scale"] = 0.0


def with_wrong_mask(graph):
    graph["mask"] = node("ProbeMask", width=64, height=512, value=1.0, right=1.0, batch=1)
    graph["sms"]["inputs"]["mask"] = ["mask", 0]


def with_many_masks(graph):
    graph["mask"] = node("ProbeMask", width=96, height=64, value=1.0, right=1.0, batch=3)
    graph["sms"]["inputs"]["mask"] = ["mask", 0]


def with_video_model(graph):
    graph["model"] = graphs.loaded("wan")["model"]


def with_step_but_no_latent(graph):
    graph["sms"]["inputs"]["resume_step"] = 2


def with_other_size_to_resume(graph):
    graph["other"] = node("ProbeRandomLatent", width=4, height=4, channels=4, batch=1, frames=0, seed=1, scale=1.0)
    graph["sms"]["inputs"].update(resume_latent=["other", 0], resume_step=1)


SMS, STYLE = ("sms", "Stylize SMS"), ("style", "Stylize Style LoRA")
BAD_INPUT = [
    # change, where it is said, the input's name, what was found, what to do
    (without_style, SMS, "model", "carries no style", "Stylize Style LoRA"),
    (with_equal_models, SMS, "model and style_model", "no style is left", "Load LoRA"),
    (with_lora("wiring_lora_flux_kohya.safetensors"), STYLE, "wiring_lora_flux_kohya", "BaseModel", "trained for"),
    (with_lora("wiring_lora_sd15_wrong_shape.safetensors"), STYLE, "wrong_shape", "1024", "trained for"),
    (with_lora("wiring_lora_truncated.safetensors"), STYLE, "wiring_lora_truncated", "bytes", "Download"),
    (with_lora("wiring_lora_sd15_dora.safetensors"), STYLE, "wiring_lora_sd15_dora", "DoRA", "Convert"),
    (with_nan, SMS, "latent_image", "NaN", "VAE"),
    (with_empty_latent, SMS, "latent_image", "empty", "VAE Encode"),
    (with_wrong_mask, SMS, "mask", "64x512", "resize"),
    (with_many_masks, SMS, "mask", "3 entries for 1", "one mask"),
    (with_video_model, STYLE, "model", "WAN", "SDXL"),
    (with_step_but_no_latent, SMS, "resume_step", "no resume_latent", "Connect"),
    (with_other_size_to_resume, SMS, "resume_latent", "(1, 4, 4, 4)", "interrupted run"),
]


@pytest.mark.parametrize(
    ("change", "place", "subject", "found", "remedy"), BAD_INPUT, ids=[f"{case[2]}: {case[3]}" for case in BAD_INPUT]
)
def test_bad_input_is_one_clear_error(change, place, subject, found, remedy, client):
    graph = stylizing()
    change(graph)
    result = client.run(graph)
    assert result.status == "error"
    message = result.error.message
    assert result.error.node_id == place[0]
    assert result.error.exception_type.endswith("StylizationError")
    assert message.startswith(f"{place[1]}, ") and subject in message.split(":")[0]
    assert found in message and remedy in message
    assert len(message) < 400 and "\n" not in message


def with_other_guider(graph):
    graph["guider"] = node("BasicGuider", model=["held", 0], conditioning=["positive", 0])


def without_steps(graph):
    graph["none"] = node("SplitSigmas", sigmas=["sigmas", 0], step=3)
    graph["run"]["inputs"]["sigmas"] = ["none", 1]


def with_turned_range(graph):
    graph["sigmas"]["inputs"].update(t_max=0.1, t_min=0.4)


def with_second_hold(graph):
    graph["held"] = node("StylizeSpectrumRegularizer", model=["hold", 0], **HOLD)


def without_map(graph):
    del graph["held"]["inputs"]["edit"]


PARTS = [
    (with_other_guider, "run", "Stylize SMS Sampler, guider", "not a Guider_Basic", "Stylize SMS Guider"),
    (without_steps, "run", "Stylize SMS Guider, sigmas", "no step", "Stylize SMS Sigmas"),
    (with_turned_range, "sigmas", "Stylize SMS Sigmas, t_max", "0.1 with t_min 0.4", "above t_min"),
    (with_second_hold, "held", "Stylize Spectrum Regularizer, model", "already", "Keep one"),
    (without_map, "held", "Stylize Semantic Refiner, mask", "not connected", "Connect a mask"),
]


@pytest.mark.parametrize(("change", "place", "start", "found", "remedy"), PARTS, ids=[case[2] for case in PARTS])
def test_bad_input_of_the_parts_is_one_clear_error(change, place, start, found, remedy, client):
    graph = by_parts()
    change(graph)
    result = client.run(graph)
    assert result.status == "error"
    assert result.error.node_id == place
    assert result.error.exception_type.endswith("StylizationError")
    message = result.error.message
    assert message.startswith(f"{start}: ") and found in message and remedy in message
    assert len(message) < 400 and "\n" not in message


def test_guidance_of_an_empty_latent_is_one_clear_error(client):
    graph = sampling("nothing", ("StylizeSMSGuidance", GUIDANCE))
    graph["latent"]["inputs"]["scale"] = 0.0
    message = client.run(graph).error.message
    assert message.startswith("Stylize SMS Guidance, ") and "empty latent" in message and "VAE Encode" in message


def test_a_lora_that_is_not_there_is_refused_by_its_name(client):
    """Newer servers check the name against the list before anything runs; on others the node does."""
    graph = stylizing()
    with_lora("nobody_has_this.safetensors")(graph)
    del graph["source"]
    try:
        message = client.run(graph).error.message
    except PromptRefused as refused:
        message = str(refused)
    assert "lora_name" in message and "nobody_has_this" in message


def test_zero_steps_are_refused_before_anything_runs(client):
    graph = stylizing(steps=0)
    # with an output beside it that is valid, the server would run that one and leave the broken one out
    del graph["source"]
    with pytest.raises(PromptRefused, match="steps"):
        client.run(graph)


def test_the_server_works_on_after_bad_input(client, saved_tensors):
    client.run(stylizing(save="before")).expect_success()
    graph = stylizing()
    with_nan(graph)
    assert client.run(graph).status == "error"
    client.run(stylizing(save="after", seed=6)).expect_success()
    client.run(stylizing(save="again")).expect_success()
    assert torch.equal(saved_tensors("before")["latent"], saved_tensors("again")["latent"])
