"""Every shipped graph loads in the real frontend, comes back from its own picture, and runs through the server.

Each file of ``workflows/`` is covered without being named here.
"""

from __future__ import annotations

import json

import pytest
from PIL import Image
from stylization_host import browser, snapshots
from stylization_host.api_form import api_form
from stylization_host.comfy_base import PACK

WORKFLOWS = snapshots.workflows()
SHORT = 3

pytestmark = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)


def saved(path):
    return json.loads(path.read_text(encoding="utf-8"))


def types_of(graph) -> list[str]:
    return [node["type"] for node in sorted(graph["nodes"], key=lambda node: int(node["id"]))]


def sent(prompt: dict, info: dict) -> dict:
    """What of a prompt the server acts on: the frontend adds widgets of its own, such as that of Preview as Text."""

    def known(node: dict) -> dict:
        ids = {key for part in info[node["class_type"]]["input"].values() for key in part}
        return {key: value for key, value in node["inputs"].items() if key in ids}

    return {key: (node["class_type"], known(node)) for key, node in prompt.items()}


def shortened(prompt: dict) -> dict:
    """The prompt with few steps: whether it runs is asked here, not how it looks."""
    short = json.loads(json.dumps(prompt))
    for node in short.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = min(node["inputs"]["steps"], SHORT)
    return short


@pytest.fixture(scope="module")
def finished(server):
    """``finished(workflow)`` runs a graph once, as the frontend would send it, and gives (client, result)."""
    kept = {}

    def run(workflow):
        if workflow not in kept:
            client, graph = server.client(), saved(workflow)
            prompt = shortened(api_form(graph, client.object_info()))
            kept[workflow] = client, client.run(prompt, {"extra_pnginfo": {"workflow": graph}}).expect_success()
        return kept[workflow]

    return run


def test_it_explains_itself(workflow):
    graph = saved(workflow)
    assert graph["version"] == 0.4
    notes = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] in ("Note", "MarkdownNote")]
    assert notes and all(notes)
    assert any(kind.startswith("Stylize") for kind in types_of(graph))


def test_it_has_a_thumbnail(workflow):
    with Image.open(workflow.with_suffix(".jpg")) as thumbnail:
        assert min(thumbnail.size) >= 256


def test_it_is_served_as_a_template(workflow, client):
    """No folder example(s)/ may stand beside workflows/: ComfyUI would serve that one in its place."""
    assert workflow.stem in client.get("/api/workflow_templates").json()[PACK]
    for name in (workflow.name, workflow.with_suffix(".jpg").name):
        assert client.get(f"/api/workflow_templates/{PACK}/{name}").status_code == 200


def test_it_loads_in_the_frontend(workflow, browser_page):
    browser.load_workflow(browser_page, workflow)
    browser_page.wait_for_timeout(1000)
    assert browser.missing_nodes(browser_page) == []
    assert browser.dialogs(browser_page) == []
    # such as "Invalid workflow against zod schema"
    assert browser_page.locator("[role=alert]").all_inner_texts() == []
    assert browser.console_errors(browser_page) == []
    assert browser.node_types(browser_page) == types_of(saved(workflow))


def test_its_api_form_is_what_the_frontend_would_send(workflow, browser_page, client):
    browser.load_workflow(browser_page, workflow)
    info = client.object_info()
    ours, theirs = api_form(saved(workflow), info), browser.api_prompt(browser_page)
    assert sent(ours, info) == sent(theirs, info)


def test_it_runs_through_the_server(workflow, finished):
    client, result = finished(workflow)
    pictures = client.images(result)
    assert pictures
    for picture in pictures:
        assert len(picture.getcolors(2**24) or [0, 0]) > 1, "the picture is of one colour"


def test_it_comes_back_from_its_own_picture(workflow, finished, browser_page, tmp_path):
    client, result = finished(workflow)
    shown = [entry for output in result.outputs.values() for entry in output.get("images", [])]
    # a saved picture, not a preview: those carry no graph
    entry = next(entry for entry in shown if entry["type"] == "output")
    picture = tmp_path / "dropped.png"
    picture.write_bytes(client.view(entry))
    browser.drop_file(browser_page, picture)
    assert browser.missing_nodes(browser_page) == []
    assert browser.node_types(browser_page) == types_of(saved(workflow))
    info = client.object_info()
    assert sent(browser.api_prompt(browser_page), info) == sent(api_form(saved(workflow), info), info)
