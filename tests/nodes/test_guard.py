"""What every node is given is looked at by its own schema, before the node begins."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="module")
def guard(pack_nodes):
    return importlib.import_module("stylization.nodes.guard")


@pytest.fixture(scope="module")
def kinds(pack_nodes):
    from comfy_api.latest import io

    return io


@pytest.fixture(scope="module", autouse=True)
def files(pack_nodes, tmp_path_factory):
    """One file in each folder of the pack, so that there is a choice."""
    import folder_paths

    place = tmp_path_factory.mktemp("files")
    (place / "some.safetensors").write_bytes(b"")
    folders = ("style_cards", "style_injectors", "style_class_adapters")
    for folder in folders:
        folder_paths.add_model_folder_path(folder, str(place))
    yield
    for folder in folders:
        folder_paths.folder_names_and_paths[folder][0].remove(str(place))
        folder_paths.filename_list_cache.pop(folder, None)  # it does not see that a folder is gone


NAN, INF = float("nan"), float("inf")
HALF_AN_EMOJI = "styles/\ud83d"


def good(io, one):
    """A value that fits an input; sockets of other kinds get a stand-in."""
    if isinstance(one, io.Combo.Input):
        return one.options[0]
    if isinstance(one, (io.Float.Input, io.Int.Input, io.Boolean.Input, io.String.Input)):
        return one.default
    return {
        io.Image.Input: torch.rand(1, 64, 64, 3),
        io.Mask.Input: torch.ones(1, 64, 64),
        io.Latent.Input: {"samples": torch.randn(1, 4, 8, 8)},
        io.Sigmas.Input: torch.linspace(10, 0, 5),
        io.Conditioning.Input: [[torch.randn(1, 7, 8), {}]],
    }.get(type(one), object())


def like(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


PICTURE, MASK = torch.full((1, 64, 64, 3), 0.5), torch.full((1, 64, 64), 0.5)
LATENT, PROMPT = torch.ones(1, 4, 8, 8), torch.ones(1, 7, 8)


def bad(io, one) -> Iterator:
    """Values that must not reach a node."""
    if isinstance(one, (io.Float.Input, io.Int.Input)):
        yield from (NAN, INF, -INF, "0.5", True)
        yield from (end for end in (one.min - 1, one.max + 1))
        if isinstance(one, io.Int.Input):
            yield one.min + 0.5
    elif isinstance(one, io.Boolean.Input):
        yield from ("false", NAN, 2)
    elif isinstance(one, io.Combo.Input):
        yield from ("no such choice", "", 0, NAN, HALF_AN_EMOJI, "../up.safetensors")
    elif isinstance(one, io.String.Input):
        yield from (HALF_AN_EMOJI, "nul\0", 3, ["a"])
    elif isinstance(one, io.Image.Input):
        yield from (like(PICTURE, NAN), like(PICTURE, INF), PICTURE[:0], PICTURE[None], PICTURE[0])
        yield from (PICTURE[..., :1], PICTURE[..., :2], PICTURE[:, :0], (PICTURE * 255).to(torch.uint8), PICTURE * 255)
        yield "picture"
    elif isinstance(one, io.Mask.Input):
        yield from (like(MASK, NAN), like(MASK, INF), MASK[:0], MASK[..., None], MASK * 255, MASK * 0)
        yield torch.zeros(1, 64, 64)
    elif isinstance(one, io.Latent.Input):
        broken = (like(LATENT, NAN), like(LATENT, -INF), LATENT[:0], LATENT[0], LATENT[:, :, None], LATENT.int())
        yield from ({"samples": samples} for samples in broken)
        yield from ({}, LATENT, {"samples": LATENT, "noise_mask": like(MASK, NAN)})
    elif isinstance(one, io.Sigmas.Input):
        sigmas = torch.linspace(10, 0, 5)
        yield from (like(sigmas, NAN), like(sigmas, INF), like(sigmas, -1.0), sigmas[None], [1.0, 0.0])
    elif isinstance(one, io.Conditioning.Input):
        yield from ([], [[like(PROMPT, NAN), {}]], [[PROMPT, {"pooled_output": torch.full((1, 8), INF)}]])


NODES = 29


@pytest.mark.parametrize("index", range(NODES))
def test_a_value_that_does_not_fit_names_node_and_input(pack_nodes, kinds, index):
    node = pack_nodes.NODES[index]
    schema = node.GET_SCHEMA()
    fitting = {one.id: good(kinds, one) for one in schema.inputs}
    for one in schema.inputs:
        for value in bad(kinds, one):
            if (schema.node_id, one.id) == ("StylizeRegion", "mask") and torch.equal(value, MASK * 0):
                continue  # a graph that finds regions may find none of a kind
            with pytest.raises(ValueError) as caught:
                node.execute(**{**fitting, one.id: value})
            message = str(caught.value)
            assert message.startswith(f"{schema.display_name}, {one.id}: "), (message, value)
            assert message.endswith(".") and len(message) < 400 and message.isprintable(), message


def test_every_node_is_looked_at(pack_nodes):
    assert len(pack_nodes.NODES) == NODES


@pytest.mark.parametrize("index", range(NODES))
def test_values_that_fit_pass(pack_nodes, guard, kinds, index):
    schema = pack_nodes.NODES[index].GET_SCHEMA()
    fitting = {one.id: good(kinds, one) for one in schema.inputs}
    guard.check_inputs(schema, fitting)
    for one in schema.inputs:
        for end in (one.min, one.max) if isinstance(one, (kinds.Float.Input, kinds.Int.Input)) else ():
            guard.check_inputs(schema, {one.id: end})


@pytest.mark.parametrize("index", range(NODES))
def test_a_required_input_that_gives_nothing_is_named(pack_nodes, kinds, index):
    """As the VAE of a checkpoint without one."""
    node = pack_nodes.NODES[index]
    schema = node.GET_SCHEMA()
    fitting = {one.id: good(kinds, one) for one in schema.inputs}
    for one in schema.inputs:
        if not one.optional:
            with pytest.raises(
                ValueError, match=f"^{re.escape(schema.display_name)}, {one.id}: what is connected gives nothing"
            ):
                node.execute(**{**fitting, one.id: None})


def test_a_file_that_came_after_the_start_is_among_the_choices(pack_nodes, guard, tmp_path):
    import folder_paths

    folder_paths.add_model_folder_path("style_cards", str(tmp_path))
    try:
        schema = pack_nodes.StylizeLoadStyleCard.GET_SCHEMA()
        with pytest.raises(ValueError, match="not among its choices"):
            guard.check_inputs(schema, {"card_name": "late.safetensors"})
        (tmp_path / "late.safetensors").write_bytes(b"")
        guard.check_inputs(pack_nodes.StylizeLoadStyleCard.GET_SCHEMA(), {"card_name": "late.safetensors"})
    finally:
        folder_paths.folder_names_and_paths["style_cards"][0].remove(str(tmp_path))
        folder_paths.filename_list_cache.pop("style_cards", None)


def test_a_mask_of_load_image_without_transparency_is_named_as_such(guard):
    with pytest.raises(ValueError, match="64x64 zeros, as Load Image gives for a picture without transparency"):
        guard.check_marked(torch.zeros(1, 64, 64), "mask")
    with pytest.raises(ValueError, match="it is empty, nothing is marked"):
        guard.check_marked(torch.zeros(1, 64, 65), "mask")
    guard.check_marked(like(torch.zeros(1, 64, 64), 0.01), "mask")
    guard.check_marked(torch.zeros(1, 64, 65), "mask", may_be_empty=True)
    with pytest.raises(ValueError, match="as Load Image gives"):
        guard.check_marked(torch.zeros(1, 64, 64), "mask", may_be_empty=True)


def test_inputs_that_a_node_takes_together_are_looked_at_too(guard, kinds):
    class Node(kinds.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [kinds.Int.Input(name, default=1, min=0, max=3) for name in ("first", "second")]
            return kinds.Schema(node_id="Node", display_name="The Node", category="test", inputs=inputs, outputs=[])

        @classmethod
        def execute(cls, first, **settings):
            return kinds.NodeOutput(first, settings)

    node = guard.guarded(Node)
    assert node.execute(1, second=2).result == (1, {"second": 2})
    for given, name in (({"first": 9, "second": 2}, "first"), ({"first": 1, "second": 9}, "second")):
        with pytest.raises(ValueError, match=f"^The Node, {name}: it is 9"):
            node.execute(**given)


def test_an_error_of_a_node_carries_its_name_wherever_it_comes_from(guard, kinds):
    errors = importlib.import_module("stylization.stylization_core.errors")

    class Node(kinds.ComfyNode):
        @classmethod
        def define_schema(cls):
            inputs = [kinds.Int.Input("count", default=1, min=0, max=3)]
            return kinds.Schema(node_id="Node", display_name="The Node", category="test", inputs=inputs, outputs=[])

        @classmethod
        def execute(cls, count):
            if count == 2:
                raise errors.StylizationError("count", "it is two", "Give another")
            return kinds.NodeOutput(cls, count)

    node = guard.guarded(Node)
    assert node is Node
    assert Node.execute(1).result == (Node, 1)
    assert Node.execute(count=3).result == (Node, 3)
    with pytest.raises(ValueError, match=r"^The Node, count: it is two\. Give another\.$"):
        Node.execute(2)
    clone = Node.PREPARE_CLASS_CLONE(None)
    assert Node.execute.__func__(clone, 1).result == (clone, 1)
