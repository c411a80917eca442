"""The real frontend in headless Chromium: it loads, takes graphs, and gives them back from a dropped picture."""

from __future__ import annotations

import json

import pytest
from stylization_host import browser, graphs
from stylization_host.api_form import api_form

STOCK = ["CheckpointLoaderSimple", "ProbeConditioning", "ProbeConditioning", "ProbeRandomLatent", "KSampler"]


def picture_graph():
    return graphs.with_picture(graphs.sampling("sd15"))


def test_the_frontend_loads_without_an_error(browser_page):
    assert browser.console_errors(browser_page) == []
    assert browser.dialogs(browser_page) == []


def test_the_packs_nodes_are_registered(browser_page):
    known = browser_page.evaluate("() => Object.keys(window.LiteGraph.registered_node_types)")
    assert "StylizeStyleLoRA" in known


def test_an_api_graph_can_be_loaded_and_comes_back(browser_page):
    graph = {str(number): node for number, node in enumerate(_numbered(picture_graph()).values(), start=1)}
    browser.load_workflow(browser_page, graph)
    assert browser.missing_nodes(browser_page) == []
    assert set(STOCK) <= set(browser.node_types(browser_page))
    sent = browser.api_prompt(browser_page)
    assert sorted(node["class_type"] for node in sent.values()) == sorted(n["class_type"] for n in graph.values())
    assert browser.console_errors(browser_page) == []


def test_a_saved_workflow_file_round_trips(browser_page, tmp_path):
    browser.load_workflow(browser_page, _numbered(picture_graph()))
    saved = browser.serialize(browser_page)
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(saved), encoding="utf-8")
    browser.load_workflow(browser_page, file)
    again = browser.serialize(browser_page)
    assert [node["type"] for node in again["nodes"]] == [node["type"] for node in saved["nodes"]]
    assert len(again["links"]) == len(saved["links"]) > 0


def test_the_converter_agrees_with_the_frontend(browser_page, client):
    """Our own way to API form, which needs no browser, against the frontend's."""
    browser.load_workflow(browser_page, _numbered(picture_graph()))
    ours = api_form(browser.serialize(browser_page), client.object_info())
    theirs = browser.api_prompt(browser_page)
    assert {key: (node["class_type"], node["inputs"]) for key, node in ours.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in theirs.items()
    }


def test_a_dropped_picture_brings_its_graph_back(browser_page, client, server):
    browser.load_workflow(browser_page, _numbered(picture_graph()))
    saved, prompt = browser.serialize(browser_page), browser.api_prompt(browser_page)
    result = client.run(prompt, {"extra_pnginfo": {"workflow": saved}}).expect_success()
    (entry,) = [entry for shown in result.outputs.values() for entry in shown.get("images", [])]
    browser.drop_file(browser_page, server.output / entry["subfolder"] / entry["filename"])
    assert browser.node_types(browser_page) == [node["type"] for node in sorted(saved["nodes"], key=lambda n: n["id"])]
    assert browser.missing_nodes(browser_page) == []
    assert browser.console_errors(browser_page) == []


def test_a_missing_node_is_noticed(browser_page):
    browser.load_workflow(browser_page, _numbered(picture_graph()))
    saved = browser.serialize(browser_page)
    saved["nodes"][0]["type"] = "NobodyKnowsThisNode"
    browser.load_workflow(browser_page, saved)
    assert browser.missing_nodes(browser_page) == ["NobodyKnowsThisNode"]


def _numbered(graph):
    """The graph with numbers for ids, which is what the frontend works with."""
    numbers = {key: str(number) for number, key in enumerate(graph, start=1)}

    def renamed(value):
        return [numbers[value[0]], value[1]] if isinstance(value, list) and value[0] in numbers else value

    return {
        numbers[key]: {**node, "inputs": {name: renamed(value) for name, value in node["inputs"].items()}}
        for key, node in graph.items()
    }


def test_without_chromium_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(browser.NoBrowser, match="apt-get install chromium") as caught:
        browser.executable()
    assert "\n" not in str(caught.value)
