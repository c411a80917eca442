"""The probe nodes do what they say; other tests rest on that."""

from __future__ import annotations

import json

import pytest
import torch
from stylization_host import graphs


def calls(server, name):
    lines = (server.output / "probe" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def recorded(graph, name):
    return graphs.through(graph, "record", "ProbeRecordCalls", name=name)


def reported(result, node):
    return json.loads(result.outputs[node]["text"][0])


def test_both_conditionings_share_a_call(client, server):
    client.run(recorded(graphs.sampling("sd15"), "shared")).expect_success()
    assert [call["cond_or_uncond"] for call in calls(server, "shared")] == [[1, 0], [1, 0]]


def test_split_batch_gives_each_conditioning_a_call(client, server, saved_tensors):
    graph = graphs.through(graphs.sampling("sd15", save="split"), "split", "ProbeSplitBatch")
    client.run(recorded(graph, "split")).expect_success()
    assert sorted(call["cond_or_uncond"] for call in calls(server, "split")) == [[0], [0], [1], [1]]
    client.run(graphs.sampling("sd15", save="merged")).expect_success()
    torch.testing.assert_close(
        saved_tensors("split")["latent"], saved_tensors("merged")["latent"], rtol=1e-3, atol=1e-3
    )


def test_attn2_pair_changes_the_picture(client, saved_tensors):
    client.run(graphs.sampling("sd15", save="plain")).expect_success()
    client.run(
        graphs.through(graphs.sampling("sd15", save="pair"), "pair", "ProbeAttn2Pair", strength=0.5)
    ).expect_success()
    assert not torch.equal(saved_tensors("plain")["latent"], saved_tensors("pair")["latent"])


def test_attn2_pair_raises_at_a_third_branch(client):
    graph = graphs.through(graphs.sampling("sd15"), "pair", "ProbeAttn2Pair", strength=0.5)
    # The stock guider with three conditionings numbers them 0, 1 and 2.
    graph["third"] = graphs.conditioning("sd15", seed=3)
    graph["guider"] = graphs.node(
        "DualCFGGuider",
        model=["pair", 0],
        cond1=["positive", 0],
        cond2=["third", 0],
        negative=["negative", 0],
        cfg_conds=4.0,
        cfg_cond2_negative=3.0,
        style="regular",
    )
    graph["noise"] = graphs.node("RandomNoise", noise_seed=1)
    graph["euler"] = graphs.node("KSamplerSelect", sampler_name="euler")
    graph["sigmas"] = graphs.node("BasicScheduler", model=["model", 0], scheduler="normal", steps=2, denoise=1.0)
    graph["sampler"] = graphs.node(
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["euler", 0],
        sigmas=["sigmas", 0],
        latent_image=["latent", 0],
    )
    result = client.run(graph)
    assert result.status == "error"
    assert result.error.exception_type == "IndexError"


def test_interrupt_ends_the_prompt_at_the_call(client, server):
    graph = graphs.through(graphs.sampling("sd15", steps=4), "interrupt", "ProbeInterrupt", call=2)
    assert client.run(recorded(graph, "interrupted")).status == "interrupted"
    assert len(calls(server, "interrupted")) == 2


def test_nan_latent_reaches_the_output(client, saved_tensors):
    graph = {
        "latent": graphs.node("ProbeRandomLatent", width=8, height=8, channels=4, batch=1, frames=0, seed=0, scale=1.0),
        "nan": graphs.node("ProbeNaNLatent", samples=["latent", 0]),
        "save": graphs.node("ProbeSaveTensor", name="nan", samples=["nan", 0]),
    }
    client.run(graph).expect_success()
    assert torch.isnan(saved_tensors("nan")["latent"]).sum() == 1


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_model_state_is_equal_before_and_after_a_stock_run(client, family):
    before = {"model": graphs.loaded(family)["model"], "state": graphs.node("ProbeModelState", model=["model", 0])}
    first = reported(client.run(before).expect_success(), "state")
    graph = graphs.sampling(family)
    graph["state"] = graphs.node("ProbeModelState", model=["model", 0], after=["sampler", 0])
    second = reported(client.run(graph).expect_success(), "state")
    assert first == second
    assert first["hooks"] == 0 and first["forwards"] == []


def test_model_state_notices_weights_and_options(client):
    graph = graphs.loaded("sd15")
    graph["lora"] = graphs.node(
        "LoraLoaderModelOnly",
        model=["model", 0],
        lora_name="wiring_lora_sd15_kohya.safetensors",
        strength_model=1.0,
    )
    graph["pair"] = graphs.node("ProbeAttn2Pair", model=["lora", 0], strength=0.5)
    graph["plain"] = graphs.node("ProbeModelState", model=["model", 0])
    graph["patched"] = graphs.node("ProbeModelState", model=["pair", 0])
    result = client.run(graph).expect_success()
    plain, patched = reported(result, "plain"), reported(result, "patched")
    assert plain["weights"] != patched["weights"]
    assert patched["options"]["transformer_options"]["patches"] == {"attn2_patch": 1}
    assert "patches" not in plain["options"]["transformer_options"]


def test_a_saved_latent_can_be_loaded_and_compared(client):
    latent = dict(width=8, height=8, channels=4, batch=2, frames=0, seed=5, scale=1.0)
    made = graphs.node("ProbeRandomLatent", **latent)
    client.run(
        {"latent": made, "save": graphs.node("ProbeSaveTensor", name="kept", samples=["latent", 0])}
    ).expect_success()
    result = client.run(
        {
            "latent": made,
            "kept": graphs.node("ProbeLoadLatent", name="kept"),
            "compare": graphs.node("ProbeCompareLatents", first=["latent", 0], second=["kept", 0]),
        }
    ).expect_success()
    assert reported(result, "compare") == {"equal": True, "largest": 0.0, "mean": 0.0, "finite": True}
