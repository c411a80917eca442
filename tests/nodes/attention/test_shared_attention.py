"""StylizeSharedAttention and StylizeSharedAttentionBatch in process, under the stock KSampler."""

from __future__ import annotations

import importlib

import pytest
import torch

NODE, BATCH = "Stylize Shared Attention", "Stylize Shared Attention (Batch)"
COMMON = {
    "weight": 1.0,
    "score_scale": 1.0,
    "adain_queries": 1.0,
    "adain_keys": 1.0,
    "mode": "share",
    "layers": "all",
    "custom_layers": "",
    "polarities": "both",
    "share_norms": False,
    "start_percent": 0.0,
    "end_percent": 1.0,
}
CHANGED = {
    "weight": 2.0,
    "score_scale": 0.5,
    "adain_queries": 0.3,
    "adain_keys": 0.3,
    "mode": "swap",
    "layers": "style block",
    "polarities": "positive",
    "share_norms": True,
    "start_percent": 0.6,
    "end_percent": 0.6,
}
CHANGES = [{name: value} for name, value in CHANGED.items()] + [{"layers": "custom", "custom_layers": "middle"}]


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.attention.shared_attention")


@pytest.fixture
def put(rig, nodes):
    """``put(node, model)``: the MODEL of either node."""

    def run(node, model, **given):
        if node == NODE:
            reference = given.pop("reference", None) or (rig.sharing.described(),)
            return nodes.StylizeSharedAttention.execute(model, reference, **{**COMMON, **given})[0]
        return nodes.StylizeSharedAttentionBatch.execute(model, **{**COMMON, "control_first": False, **given})[0]

    return run


def picture(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (2, 4, 12, 10)), seed=11)


def attached(rig, node, model):
    if node == NODE:
        (settings,) = model.get_attachment(rig.attention_settings.SHARED)
        return settings
    return model.get_attachment(rig.attention_settings.SHARED_BATCH)


@pytest.mark.parametrize("node", [NODE, BATCH])
def test_inputs_become_the_settings(rig, put, micro, node):
    given = {**CHANGED, "layers": "custom", "custom_layers": "input.1, middle", "end_percent": 0.9}
    found = attached(rig, node, put(node, micro, **given)).sharing
    assert {str(layer) for layer in found.layers} == {"input.1.0", "middle.0.0"}
    assert (found.weight, found.score_scale, found.adain_query, found.adain_key) == (2.0, 0.5, 0.3, 0.3)
    assert found.swap and not found.both and found.norms and (found.start, found.end) == (0.6, 0.9)
    plain = attached(rig, node, put(node, micro)).sharing
    assert len(plain.layers) == 7 and not plain.swap and plain.both and not plain.norms
    queries = attached(rig, node, put(node, micro, adain_queries=0.2)).sharing
    assert (queries.adain_query, queries.adain_key) == (0.2, 1.0)


def test_inputs_of_one_node_alone(rig, put, micro):
    references, mask = (rig.sharing.described(), rig.sharing.reference()), torch.ones(1, 96, 80)
    found = attached(rig, NODE, put(NODE, micro, reference=references, mask=mask))
    assert found.references is references and found.mask is mask
    found = attached(rig, BATCH, put(BATCH, micro, mode="full", control_first=True))
    assert found.full and not found.uncontrolled and not found.sharing.swap
    found = attached(rig, BATCH, put(BATCH, micro))
    assert not found.full and found.uncontrolled


@pytest.mark.parametrize("node", [NODE, BATCH])
def test_every_input_changes_the_result(rig, put, ksampler, micro, node):
    samples = picture(rig)
    run = {"steps": 2, "denoise": 0.8}
    results = [ksampler(put(node, micro, **given), samples, **run) for given in ({}, *CHANGES)]
    plain = ksampler(micro, samples, **run)
    for given, result in zip(({}, *CHANGES), results, strict=True):
        empty = given in ({"start_percent": 0.6}, {"end_percent": 0.6})
        assert rig.runs.moved(result, plain) > 1e-3, given
        assert not given or rig.runs.moved(result, results[0]) > 1e-4, given
        assert empty or torch.isfinite(result).all()


@pytest.mark.parametrize("node", [NODE, BATCH])
def test_weight_zero_is_the_model_itself(put, micro, node):
    assert put(node, micro, weight=0.0) is micro
    assert put(node, micro) is not micro


@pytest.mark.parametrize("node", [NODE, BATCH])
def test_model_that_comes_in_stays_as_it_is(rig, put, ksampler, micro, node):
    samples, before = picture(rig), rig.leaks.state(micro)
    plain = ksampler(micro, samples)
    ksampler(put(node, micro, share_norms=True), samples)
    assert rig.leaks.state(micro) == before and torch.equal(ksampler(micro, samples), plain)


def test_nodes_for_references_act_together(rig, put, ksampler, micro):
    one, two = (rig.sharing.described(draw=draw) for draw in (21, 22))
    samples = picture(rig)
    chained = put(NODE, put(NODE, micro, reference=(one,)), reference=(two,))
    both = put(NODE, micro, reference=(one, two))
    assert torch.equal(ksampler(chained, samples), ksampler(both, samples))
    assert rig.runs.moved(ksampler(both, samples), ksampler(put(NODE, micro, reference=(one,)), samples)) > 1e-3


def test_picture_becomes_reference_and_is_inverted_in_a_graph(rig, pack_nodes, put, ksampler, micro):
    """Image to image, from the node that inverts to the sampler."""
    pair, samples = rig.runs.pair(), picture(rig, 1, 4, 8, 14)
    with torch.inference_mode():
        inverted = pack_nodes.StylizeInvertReference.execute(
            micro,
            {"samples": samples},
            **pair,
            sigmas=torch.tensor([9.0, 3.0, 1.0]),
            cfg=2.0,
            refinements=1,
            weight=2.0,
        )[0]
        chained = pack_nodes.StylizeReference.execute(1.0, 3, latent={"samples": samples}, previous=inverted)[0]
    results = [ksampler(put(NODE, micro, reference=one), picture(rig)) for one in (inverted, chained)]
    assert all(torch.isfinite(result).all() for result in results) and rig.runs.moved(*results) > 1e-3


# what it costs


def test_cost_is_said_beforehand(rig, put, micro, caplog):
    references = (rig.sharing.described(), rig.sharing.reference(2, 4, 8, 8), rig.sharing.reference(weight=0.0))
    with caplog.at_level("INFO"):
        put(NODE, micro, reference=references, layers="visual style prompting")
    (message,) = [text for text in caplog.messages if "shared attention" in text]
    assert "6 more model rows a step, in 2 layers; keeps " in message and message.endswith(" MiB")


@pytest.mark.parametrize("preset", ["all", "style block"])
def test_stated_memory_is_what_keys_and_values_take(rig, micro, preset):
    references = (rig.sharing.described(), rig.sharing.reference(2, 4, 9, 7), rig.sharing.reference(weight=0.0))
    layers = rig.layers.chosen_layers(micro.model.diffusion_model, preset)
    taken = 0
    for one in references[:2]:
        x = rig.sharing.noised(micro, one)
        seen = rig.sharing.features(micro, rig.runs.conditioning(5), x)
        taken += 2 * sum(part.nbytes for layer in layers for part in (seen[tuple(layer)].k, seen[tuple(layer)].v))
    assert rig.attention_run.reference_memory(micro, references, layers) == taken


# what is refused


@pytest.mark.parametrize("node", [NODE, BATCH])
@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("flux", "the model family Flux has no UNet whose attention could take a style. Load an SD 1.x"),
        ("sd3", "the model family SD3 has no UNet whose attention could take a style. Load an SD 1.x"),
        ("wan", "the model family WAN21 is not supported. Load an SD 1.x"),
    ],
)
def test_refused_families_are_named(put, refusal, wiring_model, node, family, expected):
    message = refusal(node, lambda: put(node, wiring_model(family)))
    assert message.startswith(f"{node}, model: {expected}")


@pytest.mark.parametrize("node", [NODE, BATCH])
def test_bad_layers_are_named(put, refusal, micro, node):
    message = refusal(node, lambda: put(node, micro, layers="custom", custom_layers="middle, output.9"))
    assert message.startswith(f"{node}, custom_layers: 'output.9' names no self-attention layer of this model.")
    message = refusal(node, lambda: put(node, micro, layers="custom"))
    assert message.startswith(f"{node}, custom_layers: it is empty.")


def test_reference_of_another_model_is_refused(rig, put, refusal, micro):
    other = (rig.sharing.described(), rig.sharing.reference(1, 16, 8, 8))
    message = refusal(NODE, lambda: put(NODE, micro, reference=other))
    assert message.startswith(f"{NODE}, reference: it has 16 channels, latents of model have 4.")


def test_second_batch_node_is_refused(put, refusal, micro):
    once = put(BATCH, micro)
    for weight in (0.0, 1.0):
        message = refusal(BATCH, lambda weight=weight: put(BATCH, once, weight=weight))
        assert message.startswith(f"{BATCH}, model: it has gone through a '{BATCH}' already.")


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (torch.ones(1, 64, 64), "it is 64x64 pixels, the picture about 80x96."),
        (torch.ones(3, 96, 80), "it has 3 entries for 2 pictures."),
        (torch.full((1, 96, 80), float("nan")), "7680 of its 7680 values are NaN or infinite."),
    ],
)
def test_mask_that_does_not_fit_is_refused_in_the_run(rig, put, refusal, ksampler, micro, mask, expected):
    message = refusal(NODE, lambda: ksampler(put(NODE, micro, mask=mask), picture(rig)))
    assert message.startswith(f"{NODE}, mask: {expected}")
