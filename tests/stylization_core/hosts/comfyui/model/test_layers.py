"""Self-attention layers of UNets by name, and how users choose them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

SD15 = {
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 8,
    "num_head_channels": -1,
}
SDXL = {
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": 2048,
    "num_heads": -1,
    "num_head_channels": 64,
}
# StyleAligned's layers at native size: (stage, numbers, depth, halvings of the latent, channels)
SD15_TABLE = [
    ("input", (1, 2), 1, 0, 320),
    ("output", (9, 10, 11), 1, 0, 320),
    ("input", (4, 5), 1, 1, 640),
    ("output", (6, 7, 8), 1, 1, 640),
    ("input", (7, 8), 1, 2, 1280),
    ("output", (3, 4, 5), 1, 2, 1280),
    ("middle", (0,), 1, 3, 1280),
]
SDXL_TABLE = [
    ("input", (4, 5), 2, 1, 640),
    ("output", (3, 4, 5), 2, 1, 640),
    ("input", (7, 8), 10, 2, 1280),
    ("middle", (0,), 10, 2, 1280),
    ("output", (0, 1, 2), 10, 2, 1280),
]


def on_meta_device(config: dict):
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    more = {"image_size": 32, "out_channels": 4, "use_spatial_transformer": True, "legacy": False}
    return UNetModel(**config, **more, use_linear_in_transformer=True, device="meta", dtype=torch.float32)


@pytest.fixture(scope="module")
def networks(rig):
    """The layouts of SD1.5 and SDXL at full size, without weights."""
    return {"sd15": on_meta_device(SD15), "sdxl": on_meta_device(SDXL)}


def listed(table: list) -> dict:
    return {
        (stage, number, index): (level, width)
        for stage, numbers, depth, level, width in table
        for number in numbers
        for index in range(depth)
    }


def words(layers) -> set[str]:
    return {str(layer) for layer in layers}


@pytest.mark.parametrize(("name", "table", "count"), [("sd15", SD15_TABLE, 16), ("sdxl", SDXL_TABLE, 70)])
def test_layers_of_the_real_networks(rig, networks, name, table, count):
    found = rig.layers.self_attention_layers(networks[name])
    assert len(found) == count
    assert {tuple(layer): tuple(place) for layer, place in found.items()} == listed(table)


@pytest.mark.parametrize("family", ["micro", "sd15", "sd15_two_levels", "sdxl"])
def test_layers_are_those_that_comfyui_names(rig, micro, wiring_model, family):
    """Every self-attention that a patch sees in a call is listed, with its grid and its channels, and no other."""
    from stylization_host.wiring import FAMILIES

    model, seen = (micro if family == "micro" else wiring_model(family)).clone(), {}

    def note(q, k, v, options):
        grid = tuple(options["activations_shape"][-2:])
        seen[(*options["block"], options["block_index"])] = (grid, k.shape[-1], q.shape[1])
        return q, k, v

    model.set_model_attn1_patch(note)
    known = FAMILIES.get(family, SimpleNamespace(width=64, pooled=0))
    rig.runs.plain(model, rig.runs.pair(known.width, known.pooled), rig.runs.latent(1, 4, 13, 18))
    found = rig.layers.self_attention_layers(model.model.diffusion_model)
    assert set(seen) == {tuple(layer) for layer in found} == set(rig.sharing.blocks(model))
    for layer, place in found.items():
        grid = tuple(-(-size // 2**place.level) for size in (13, 18))
        assert seen[tuple(layer)] == (grid, place.width, grid[0] * grid[1])


def test_presets_of_the_real_networks(rig, networks):
    chosen = rig.layers.chosen_layers
    sdxl = networks["sdxl"]
    assert len(chosen(sdxl, "all")) == 70 and len(chosen(networks["sd15"], "all")) == 16
    late = {f"output.{number}.{index}" for number in (3, 4, 5) for index in (0, 1)}
    assert words(chosen(sdxl, "visual style prompting")) == late
    assert words(chosen(sdxl, "style block")) == {f"output.1.{index}" for index in range(10)}
    late = {f"output.{number}.0" for number in (9, 10, 11)}
    assert words(chosen(networks["sd15"], "visual style prompting")) == late
    assert words(chosen(networks["sd15"], "style block")) == {"output.4.0"}


@pytest.mark.parametrize("preset", ["all", "visual style prompting", "style block"])
def test_presets_name_layers_of_every_network(rig, micro, wiring_model, preset):
    for model in (micro, *map(wiring_model, ("sd15", "sd15_two_levels", "sdxl"))):
        network = model.model.diffusion_model
        found = rig.layers.chosen_layers(network, preset)
        assert found and found <= set(rig.layers.self_attention_layers(network))


@pytest.mark.parametrize(
    ("custom", "expected"),
    [
        ("middle", {f"middle.0.{index}" for index in range(10)}),
        ("input.4", {"input.4.0", "input.4.1"}),
        ("output.1.0", {"output.1.0"}),
        ("input 7.3", {"input.7.3"}),
        ("output.4-5", {f"output.{number}.{index}" for number in (4, 5) for index in (0, 1)}),
        ("output.0-2.9", {f"output.{number}.9" for number in (0, 1, 2)}),
        (" INPUT.4 ,, Output.1.0;middle.0.2\n", {"input.4.0", "input.4.1", "output.1.0", "middle.0.2"}),
        ("input.4, input", {f"input.{n}.{i}" for n, depth in ((4, 2), (5, 2), (7, 10), (8, 10)) for i in range(depth)}),
    ],
)
def test_words_of_a_list(rig, networks, custom, expected):
    assert words(rig.layers.chosen_layers(networks["sdxl"], "custom", custom)) == expected


@pytest.mark.parametrize(
    "word",
    ["encoder", "input.0", "input.4.2", "output.6-8", "output.5-3", "middle.1", "input.x", "4", "input.", "in.4"],
)
def test_word_that_names_nothing_is_named(rig, networks, word):
    with pytest.raises(ValueError) as caught:
        rig.layers.chosen_layers(networks["sdxl"], "custom", f"middle, {word}")
    assert str(caught.value) == (
        f"custom_layers: '{word}' names no self-attention layer of this model. There are input.4, input.5, input.7, "
        "input.8, middle.0, output.0, output.1, output.2, output.3, output.4, output.5."
    )


@pytest.mark.parametrize("custom", ["", " , ;\n"])
def test_empty_list_is_refused(rig, micro, custom):
    with pytest.raises(ValueError, match=r"^custom_layers: it is empty\. List layers, for instance input\."):
        rig.layers.chosen_layers(micro.model.diffusion_model, "custom", custom)


def test_list_is_read_for_custom_only(rig, micro):
    network = micro.model.diffusion_model
    assert rig.layers.chosen_layers(network, "all", "nonsense") == rig.layers.chosen_layers(network, "all")
