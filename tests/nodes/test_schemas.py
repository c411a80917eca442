"""What every node of the pack shows to its user."""

from __future__ import annotations

import asyncio
import inspect
import json

import pytest
from stylization_host import load, snapshots

FROZEN = sorted(json.loads(snapshots.SCHEMAS.read_text(encoding="utf-8")))
"""Ids of the nodes; tests/host/test_object_info.py compares whole schemas with that file, on a server."""

PAGES = load.ROOT / "web" / "docs"


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


def test_the_nodes_are_those_whose_schemas_are_frozen(schemas):
    assert sorted(schemas) == FROZEN


def choices(schema) -> dict[str, list[str]]:
    """Options of the inputs that offer some, but for those that list files."""
    found = {one.id: one.options for one in schema.inputs if getattr(one, "options", None) is not None}
    return {key: options for key, options in found.items() if key != "lora_name"}


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


def test_every_node_has_a_help_page_and_every_page_a_node(schemas):
    assert {path.stem for path in PAGES.glob("*.md")} == set(schemas)


@pytest.mark.parametrize("node_id", FROZEN)
def test_help_page_names_the_node_its_inputs_and_their_options(schemas, node_id):
    text, schema = (PAGES / f"{node_id}.md").read_text(encoding="utf-8"), schemas[node_id]
    assert text.startswith(f"# {schema.display_name}\n")
    assert [one.id for one in schema.inputs if f"`{one.id}`" not in text] == []
    offered = [option for options in choices(schema).values() for option in options]
    assert [option for option in offered if f"*{option}*" not in text] == []


def test_defaults_lie_inside_their_ranges(schemas):
    for schema in schemas.values():
        for one in schema.inputs:
            if getattr(one, "min", None) is not None:
                assert one.min <= one.default <= one.max, f"{schema.node_id}.{one.id}"


def test_parameters_of_execute_are_the_inputs(pack_nodes):
    for node in pack_nodes.NODES:
        schema = node.GET_SCHEMA()
        parameters = inspect.signature(node.execute).parameters.values()
        names = [one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD]
        inputs = [one.id for one in _by_requirement(schema.inputs)]
        if len(names) == len(parameters):
            assert names == inputs
        else:  # the others go on as they are, by name
            assert names == [name for name in inputs if name in names]


def _by_requirement(inputs: list) -> list:
    return sorted(inputs, key=lambda one: bool(one.optional))
