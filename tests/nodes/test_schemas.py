"""What every node of the pack shows to its user, and what saved workflows rely on."""

from __future__ import annotations

import asyncio

import pytest
from stylization_host import load

INPUTS = {
    "StylizeStyleLoRA": ["model", "lora_name", "strength", "clip_strength", "clip"],
    "StylizeSMS": [
        "model",
        "positive",
        "negative",
        "latent_image",
        "seed",
        "steps",
        "cfg",
        "strength",
        "step_size",
        "spectrum",
        "relevance",
        "relevance_floor",
        "style_model",
        "edit",
        "mask",
        "resume_latent",
        "resume_step",
    ],
}
"""Ids in their order: saved workflows hold widget values by place. New inputs go to the end."""

OUTPUTS = {"StylizeStyleLoRA": ["MODEL", "CLIP"], "StylizeSMS": ["LATENT"]}


@pytest.fixture(scope="module")
def schemas(pack_nodes) -> dict:
    return {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in pack_nodes.NODES)}


def test_extension_gives_comfyui_all_nodes(pack, pack_nodes):
    async def nodes():
        return await (await pack.comfy_entrypoint()).get_node_list()

    assert asyncio.run(nodes()) == pack_nodes.NODES


def test_ids_are_distinct_and_carry_the_packs_name(pack_nodes, schemas):
    assert len(schemas) == len(pack_nodes.NODES)
    assert all(node_id.startswith("Stylize") for node_id in schemas)


def test_nodes_that_were_released_are_still_there(schemas):
    assert set(INPUTS) <= set(schemas)


@pytest.mark.parametrize("node_id", INPUTS)
def test_inputs_keep_their_ids_and_places(schemas, node_id):
    found = [one.id for one in schemas[node_id].inputs]
    assert found[: len(INPUTS[node_id])] == INPUTS[node_id]


@pytest.mark.parametrize("node_id", OUTPUTS)
def test_outputs_keep_their_names_and_places(schemas, node_id):
    found = [one.display_name for one in schemas[node_id].outputs]
    assert found[: len(OUTPUTS[node_id])] == OUTPUTS[node_id]


def test_every_input_and_output_has_a_tooltip(schemas):
    bare = [
        f"{node_id}.{one.id or one.display_name}"
        for node_id, schema in schemas.items()
        for one in (*schema.inputs, *schema.outputs)
        if not (one.tooltip or "").strip()
    ]
    assert bare == []


def test_every_node_says_what_it_does_and_where_it_belongs(schemas):
    for schema in schemas.values():
        assert schema.description
        assert schema.display_name.startswith("Stylize ")
        assert schema.category.startswith("stylization/")


def test_every_node_has_a_help_page(schemas):
    pages = {path.stem for path in (load.ROOT / "web" / "docs").glob("*.md")}
    assert set(schemas) - pages == set()


def test_defaults_lie_inside_their_ranges(schemas):
    for schema in schemas.values():
        for one in schema.inputs:
            if getattr(one, "min", None) is not None:
                assert one.min <= one.default <= one.max, f"{schema.node_id}.{one.id}"


def test_parameters_of_execute_are_the_inputs(pack_nodes):
    for node in pack_nodes.NODES:
        schema = node.GET_SCHEMA()
        code = node.execute.__func__.__code__
        assert list(code.co_varnames[1 : code.co_argcount]) == [one.id for one in _by_requirement(schema.inputs)]


def _by_requirement(inputs: list) -> list:
    return sorted(inputs, key=lambda one: bool(one.optional))
