"""Stylize SMS, its parts and its relatives in ordinary sampling, through a real server.

On the SD1.5 wiring model, and what concerns the whole node on the pocket model with its own text encoder too.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from stylization_host import comfy_base, graphs
from stylization_host.comfy_client import PromptRefused
from stylization_host.graphs import node

BASES = ("wiring", "pocket")
LORA = {"wiring": "wiring_lora_sd15_kohya.safetensors", "pocket": "pocket_starry.safetensors"}
CONTROL = {"wiring": "wiring_control_sd15.safetensors", "pocket": "stylization_pocket_edges.safetensors"}
PHOTO = "neuschwanstein_castle.jpg"
SIZE, ODD = (12, 8), (25, 17)
on_both = pytest.mark.parametrize("base", BASES)


@pytest.fixture(scope="module", autouse=True)
def pocket_files():
    for folder, name in (("loras", LORA["pocket"]), ("controlnet", CONTROL["pocket"])):
        assert (comfy_base.POCKET_MODELS / folder / name).is_file(), f"pocket/models/{folder}/{name} is missing"


def loaded(base: str, size: tuple[int, int], batch: int) -> graphs.Graph:
    """``model``, ``positive``, ``negative`` and ``latent`` of a base; ``size`` counts latent cells."""
    if base == "wiring":
        latent = node(
            "ProbeRandomLatent", width=size[0], height=size[1], channels=4, batch=batch, frames=0, seed=3, scale=1.0
        )
        return {**graphs.loaded("sd15"), "latent": latent}
    scale = {"upscale_method": "area", "width": 8 * size[0], "height": 8 * size[1], "crop": "center"}
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="stylization_pocket.safetensors"),
        "positive": node("CLIPTextEncode", text="starry style, castle", clip=["model", 1]),
        "negative": node("CLIPTextEncode", text="", clip=["model", 1]),
        "photo": node("LoadImage", image=PHOTO),
        "small": node("ImageScale", image=["photo", 0], **scale),
        "encoded": node("VAEEncode", pixels=["small", 0], vae=["model", 2]),
        "latent": node("RepeatLatentBatch", samples=["encoded", 0], amount=batch),
    }


def stylizing(base: str = "wiring", *, size=SIZE, batch: int = 1, save: str = "sms", **inputs) -> graphs.Graph:
    """Style LoRA and SMS on a base, three steps; ``inputs`` replace those of the node ``sms``."""
    settings = {
        "model": ["style", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
        "seed": 5,
        "steps": 3,
        "cfg": 4.5,
        "strength": 1.0,
        "step_size": 0.1,
        "spectrum": 1.0,
        "relevance": "off",
        "relevance_floor": 0.1,
    }
    return {
        **loaded(base, size, batch),
        "style": node("StylizeStyleLoRA", model=["model", 0], lora_name=LORA[base], strength=0.8, clip_strength=0.0),
        "sms": node("StylizeSMS", **{**settings, **inputs}),
        "save": node("ProbeSaveTensor", name=save, samples=["sms", 0]),
        "source": node("ProbeSaveTensor", name=f"{save}_source", samples=["latent", 0]),
    }


def before_sms(graph: graphs.Graph, kind: str, **inputs) -> graphs.Graph:
    """The graph with a node MODEL -> MODEL in front of SMS."""
    sms = graph["sms"]
    put = node(kind, model=sms["inputs"]["model"], **inputs)
    return {**graph, "between": put, "sms": {**sms, "inputs": {**sms["inputs"], "model": ["between", 0]}}}


def calls(server, name: str) -> list[dict]:
    lines = (server.output / "probe" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# -- a whole run ----------------------------------------------------------------------------------------------------


@on_both
def test_a_run_moves_the_latent_and_reports_on_its_way(base, client, saved_tensors):
    result = client.run(stylizing(base, relevance="precomputed")).expect_success()
    source, reached = saved_tensors("sms_source")["latent"], saved_tensors("sms")["latent"]
    assert reached.shape == source.shape and torch.isfinite(reached).all()
    assert not torch.equal(reached, source)
    steps = [value for name, value, _ in result.progress if name == "sms"]
    assert steps == sorted(steps) and steps[-1] == 3
    assert result.previews > 0


@on_both
def test_stock_load_lora_as_style_model_is_the_same_run(base, client, saved_tensors):
    client.run(stylizing(base, save="gated")).expect_success()
    graph = stylizing(base, save="lifted", model=["model", 0], style_model=["stock", 0])
    graph["stock"] = node("LoraLoaderModelOnly", model=["model", 0], lora_name=LORA[base], strength_model=0.8)
    del graph["style"]
    client.run(graph).expect_success()
    assert torch.equal(saved_tensors("gated")["latent"], saved_tensors("lifted")["latent"])


@on_both
def test_a_run_repeats_bit_for_bit_after_everything_was_unloaded(base, client, saved_tensors):
    client.run(stylizing(base, save="first")).expect_success()
    client.free()
    client.run(stylizing(base, save="second")).expect_success()
    assert torch.equal(saved_tensors("first")["latent"], saved_tensors("second")["latent"])


@on_both
def test_strength_zero_returns_the_input_bit_for_bit(base, client, saved_tensors):
    client.run(stylizing(base, strength=0.0)).expect_success()
    assert torch.equal(saved_tensors("sms")["latent"], saved_tensors("sms_source")["latent"])


@on_both
@pytest.mark.parametrize(
    ("settings", "rows"),
    [({"size": ODD}, 4), ({"cfg": 1.0}, 2), ({"batch": 2}, 8), ({"spectrum": 0.0}, 4)],
    ids=["200x136", "cfg 1", "batch 2", "no spectrum"],
)
def test_sizes_batches_and_guidance(base, settings, rows, client, server, saved_tensors):
    graph = before_sms(stylizing(base, **settings), "ProbeRecordCalls", name="rows")
    client.run(graph).expect_success()
    source, reached = saved_tensors("sms_source")["latent"], saved_tensors("sms")["latent"]
    assert reached.shape == source.shape and torch.isfinite(reached).all()
    assert [call["rows"] for call in calls(server, "rows")] == [rows] * 3
    # whatever their number, other patches see positive and negative only
    assert {polarity for call in calls(server, "rows") for polarity in call["cond_or_uncond"]} <= {0, 1}


@on_both
@pytest.mark.parametrize("way", ["noise mask", "mask"])
def test_masks_keep_what_is_black(base, way, client, saved_tensors):
    graph = stylizing(base)
    graph["half"] = node("ProbeMask", width=8 * SIZE[0], height=8 * SIZE[1], value=1.0, right=0.0, batch=1)
    if way == "mask":
        graph["sms"]["inputs"]["mask"] = ["half", 0]
    else:
        graph["masked"] = node("SetLatentNoiseMask", samples=["latent", 0], mask=["half", 0])
        graph["sms"]["inputs"]["latent_image"] = ["masked", 0]
    client.run(graph).expect_success()
    source, reached = saved_tensors("sms_source")["latent"], saved_tensors("sms")["latent"]
    middle = SIZE[0] // 2
    torch.testing.assert_close(reached[..., middle:], source[..., middle:], rtol=0, atol=1e-6)
    assert (reached[..., :middle] - source[..., :middle]).abs().max() > 1e-3


@on_both
@pytest.mark.parametrize(("end", "open_steps"), [(1.0, 4), (0.5, 2)])
def test_controlnet_reaches_all_rows_and_its_window_follows_the_run(
    base, end, open_steps, client, server, saved_tensors
):
    client.run(stylizing(base, steps=4, save="plain")).expect_success()
    graph = before_sms(stylizing(base, steps=4, save="held"), "ProbeRecordCalls", name="control")
    graph["net"] = node("ControlNetLoader", control_net_name=CONTROL[base])
    graph["hint"] = node("LoadImage", image=PHOTO)
    graph["held"] = node(
        "ControlNetApplyAdvanced",
        positive=["positive", 0],
        negative=["negative", 0],
        control_net=["net", 0],
        image=["hint", 0],
        strength=1.0,
        start_percent=0.0,
        end_percent=end,
    )
    graph["sms"]["inputs"].update(positive=["held", 0], negative=["held", 1])
    client.run(graph).expect_success()
    made = calls(server, "control")
    assert [call["control"] for call in made] == [True] * open_steps + [False] * (4 - open_steps)
    assert {call["rows"] for call in made} == {4}
    assert not torch.equal(saved_tensors("plain")["latent"], saved_tensors("held")["latent"])


# -- the parts, and ordinary samplers -------------------------------------------------------------------------------

WINDOW = {"start_percent": 0.0, "end_percent": 1.0}
HOLD = {"weight": 1.0, "hold": 0.5, "band": 1.0, "form": "gradient", "color_hold": 1.0, **WINDOW}
PLACE = {"floor": 0.1, "map": "precomputed", **WINDOW}
GUIDANCE = {"strength": 1.0, "mode": "edit", **WINDOW}
SIGMAS = {"steps": 3, "t_max": 0.5, "t_min": 0.02, "narrowing": "linear"}
SAMPLER = {"strength": 1.0, "step_size": 0.1, "levels": "drawn"}


def prompts() -> graphs.Graph:
    """Conditionings for a map: ``edit``, and ``negative`` as the empty prompt."""
    return {"edit": graphs.conditioning("sd15", seed=9)}


def by_parts(*, save: str = "parts", guider=None, sigmas=None, sampler=None) -> graphs.Graph:
    """SamplerCustomAdvanced with our guider, levels and sampler on ``held``, the MODEL with a hold and a map."""
    graph = {**stylizing(), **prompts()}
    del graph["sms"], graph["source"]
    conditionings = {"positive": ["positive", 0], "negative": ["negative", 0]}
    links = {"noise": "noise", "guider": "guider", "sampler": "sampler", "sigmas": "sigmas", "latent_image": "latent"}
    return {
        **graph,
        "hold": node("StylizeSpectrumRegularizer", model=["style", 0], **HOLD),
        "held": node("StylizeSemanticRefiner", model=["hold", 0], edit=["edit", 0], empty=["negative", 0], **PLACE),
        "guider": node("StylizeSMSGuider", model=["held", 0], **conditionings, **{"cfg": 4.5, **(guider or {})}),
        "sigmas": node("StylizeSMSSigmas", model=["held", 0], **{**SIGMAS, **(sigmas or {})}),
        "sampler": node("StylizeSMSSampler", **{**SAMPLER, **(sampler or {})}),
        "noise": node("RandomNoise", noise_seed=5),
        "run": node("SamplerCustomAdvanced", **{key: [name, 0] for key, name in links.items()}),
        "save": node("ProbeSaveTensor", name=save, samples=["run", 0]),
    }


def sampling(save: str = "sampled", *put: tuple[str, dict], steps: int = 3, **settings) -> graphs.Graph:
    """KSampler from a latent at half its noise, on the MODEL with a style and the nodes of ``put`` behind it."""
    graph = {**graphs.sampling("sd15", steps=steps, denoise=0.5, save=save, **settings), **prompts()}
    lora = {"lora_name": LORA["wiring"], "strength": 0.8, "clip_strength": 0.0}
    graph = graphs.through(graph, "style", "StylizeStyleLoRA", **lora)
    for kind, inputs in put:
        graph = graphs.through(graph, kind, kind, **inputs)
    return graph


def test_the_parts_under_the_stock_sampler_are_the_node(client, saved_tensors):
    graph = stylizing(save="one", spectrum=1.0, relevance="precomputed", edit=["edit", 0])
    client.run({**graph, **prompts()}).expect_success()
    result = client.run(by_parts()).expect_success()
    assert torch.equal(saved_tensors("parts")["latent"], saved_tensors("one")["latent"])
    assert not torch.equal(saved_tensors("parts")["latent"], saved_tensors("one_source")["latent"])
    assert [value for name, value, _ in result.progress if name == "run"][-1] == 3


def test_a_trained_fake_score_runs_on_the_servers_weights(client, saved_tensors):
    """A loader node has made them in inference mode, which autograd refuses."""
    client.run(stylizing(save="frozen")).expect_success()
    client.run(stylizing(save="trained", fake_score="trained")).expect_success()
    frozen, trained = (saved_tensors(name)["latent"] for name in ("frozen", "trained"))
    assert torch.isfinite(trained).all()
    assert (trained - frozen).abs().max() > 1e-3


@pytest.mark.parametrize(("mode", "rows"), [("edit", 2), ("add", 3)])
def test_the_relatives_act_in_ksampler_and_leave_the_model_as_it_was(mode, rows, client, server, saved_tensors):
    client.run(sampling(f"{mode}_before")).expect_success()
    refined = {**PLACE, "edit": ["edit", 0], "empty": ["negative", 0]}
    graph = sampling(
        f"{mode}_all",
        ("StylizeSMSGuidance", {**GUIDANCE, "mode": mode}),
        ("StylizeSpectrumRegularizer", HOLD),
        ("StylizeSemanticRefiner", refined),
        ("ProbeRecordCalls", {"name": mode}),
    )
    client.run(graph).expect_success()
    # the map is made before the first step
    assert [call["rows"] for call in calls(server, mode)] == [2] * 4 + [rows] * 3
    assert {polarity for call in calls(server, mode) for polarity in call["cond_or_uncond"]} <= {0, 1}
    client.run(sampling(f"{mode}_after")).expect_success()
    before, found, after = (saved_tensors(f"{mode}_{name}")["latent"] for name in ("before", "all", "after"))
    assert torch.isfinite(found).all() and (found - before).abs().max() > 1e-2
    assert torch.equal(before, after)


def test_a_relevance_map_places_what_ksampler_does(client, saved_tensors):
    graph = sampling("placed", ("StylizeSemanticRefiner", {**PLACE, "floor": 0.0, "mask": ["map", 0]}))
    settings = {"seed": 1, "noises": 1, "floor": 0.0, "clip": 2.0, "blur": 0.7}
    links = {"model": ["style", 0], "latent_image": ["latent", 0], "edit": ["edit", 0], "empty": ["negative", 0]}
    graph["map"] = node("StylizeRelevanceMap", **links, **settings)
    graph["seen"] = node("ProbeSaveTensor", name="map", mask=["map", 0])
    graph["source"] = node("ProbeSaveTensor", name="placed_source", samples=["latent", 0])
    result = client.run(graph).expect_success()
    assert [one["type"] for one in result.outputs["map"]["images"]] == ["temp"]
    mask, found = saved_tensors("map")["mask"], saved_tensors("placed")["latent"]
    assert mask.shape == (1, 8 * found.shape[2], 8 * found.shape[3])
    change = (found - saved_tensors("placed_source")["latent"]).abs().mean((0, 1))
    cells = torch.nn.functional.adaptive_avg_pool2d(mask, found.shape[2:])[0]
    assert change[cells < 0.1].mean() < 0.3 * change[cells > 0.5].mean()


# -- the end of a run -----------------------------------------------------------------------------------------------


def state(client, graph: graphs.Graph) -> dict:
    """What ProbeModelState says of the checkpoint after the graph's other outputs."""
    graph = {**graph, "state": node("ProbeModelState", model=["model", 0])}
    return json.loads(client.run(graph).expect_success().outputs["state"]["text"][0])


def test_nothing_is_left_on_the_model(client):
    plain = {"model": graphs.loaded("sd15")["model"]}
    first = state(client, plain)
    client.run(stylizing()).expect_success()
    assert state(client, plain) == first
    raising = before_sms(stylizing(relevance="precomputed"), "ProbeRaise", call=6, message="on purpose")
    assert "on purpose" in client.run(raising).error.message
    assert state(client, plain) == first


def test_interrupt_keeps_what_was_reached_and_the_run_goes_on_from_it(client, server, saved_tensors):
    plain = {"model": graphs.loaded("sd15")["model"]}
    first = state(client, plain)
    client.run(stylizing(steps=6, save="whole")).expect_success()
    shutil.rmtree(server.output / "stylization", ignore_errors=True)

    stopped = before_sms(stylizing(steps=6, save="stopped"), "ProbeInterrupt", call=4)
    assert client.run(stopped).status == "interrupted"
    assert state(client, plain) == first
    (kept,) = (server.output / "stylization").glob("*.latent")
    assert "stopped_at_3_of_6" in kept.name

    shutil.copy(kept, server.base / "input" / kept.name)
    graph = stylizing(steps=6, save="resumed", resume_latent=["kept", 0], resume_step=3)
    graph["kept"] = node("LoadLatent", latent=kept.name)
    client.run(graph).expect_success()
    resumed, whole = (saved_tensors(name)["latent"] for name in ("resumed", "whole"))
    source = saved_tensors("resumed_source")["latent"]
    # the optimiser's moments start anew, so the end is near the uninterrupted one, not the same
    assert torch.isfinite(resumed).all()
    assert (resumed - whole).abs().mean() < (source - whole).abs().mean()


def test_a_user_can_interrupt_between_two_steps(client):
    def at_second_step(kind, data):
        if kind == "progress" and data["value"] >= 2:
            client.interrupt()

    result = client.run(stylizing(steps=50), on_message=at_second_step)
    assert result.status == "interrupted"
    client.run(stylizing()).expect_success()


# -- bad input ------------------------------------------------------------------------------------------------------


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
