"""The schemas that saved workflows rely on stay as they are, and every node explains itself."""

from __future__ import annotations

import json
import re

import pytest
from stylization_host import snapshots
from stylization_host.load import ROOT

FROZEN = json.loads(snapshots.SCHEMAS.read_text(encoding="utf-8"))
HELP = ROOT / "web" / "docs"
NODES = sorted(FROZEN)


def inputs_of(schema: dict) -> dict[str, list]:
    """What users see; nodes that save are also handed the workflow."""
    shown = (inputs for kind, inputs in schema["input"].items() if kind != "hidden")
    return {key: stated for inputs in shown for key, stated in inputs.items()}


def test_the_schemas_are_as_frozen(client):
    """Renew on purpose only: see snapshots.py."""
    found = snapshots.pack_schemas(client)
    assert json.loads(snapshots.written(found)) == FROZEN


def test_every_node_of_the_pack_has_its_prefix_and_category():
    assert NODES
    assert all(name.startswith("Stylize") for name in NODES)
    assert all(FROZEN[name]["category"].startswith("stylization/") for name in NODES)


@pytest.mark.parametrize("node", NODES)
def test_every_input_and_output_has_a_tooltip(node):
    schema = FROZEN[node]
    assert [key for key, stated in inputs_of(schema).items() if not stated[1].get("tooltip")] == []
    assert all(schema["output_tooltips"]) and len(schema["output_tooltips"]) == len(schema["output"])
    assert schema["description"]


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_help_page_that_names_all_inputs(node, client):
    page = HELP / f"{node}.md"
    assert page.is_file(), f"write web/docs/{node}.md"
    text = page.read_text(encoding="utf-8")
    assert [key for key in inputs_of(FROZEN[node]) if f"`{key}`" not in text] == []
    served = client.get(f"/extensions/stylization/docs/{node}.md")
    assert served.content.decode("utf-8") == text


@pytest.mark.parametrize("page", sorted(HELP.glob("*.md")), ids=lambda page: page.stem)
def test_pictures_of_a_help_page_are_there(page, client):
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (HELP / name).is_file()
        assert client.get(f"/extensions/stylization/docs/{name}").headers["content-type"].startswith("image/")
