"""Stylize SMS, its parts and its relatives in ordinary sampling, through a real server.

On the SD1.5 wiring model, and what concerns the whole node on the pocket model with its own text encoder too.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from stylization_host import comfy_base, graphs
from stylization_host.graphs import node
from stylization_host.sms_graphs import (
    CONTROL,
    GUIDANCE,
    HOLD,
    LORA,
    PHOTO,
    PLACE,
    SIZE,
    before_sms,
    by_parts,
    prompts,
    sampling,
    stylizing,
)

BASES = ("wiring", "pocket")
ODD = (25, 17)
on_both = pytest.mark.parametrize("base", BASES)


@pytest.fixture(scope="module", autouse=True)
def pocket_files():
    for folder, name in (("loras", LORA["pocket"]), ("controlnet", CONTROL["pocket"])):
        assert (comfy_base.POCKET_MODELS / folder / name).is_file(), f"pocket/models/{folder}/{name} is missing"


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
