"""From a graph as the frontend saves it to API form, by the server's own schemas, without a browser.

Covers what the shipped workflows use: plain nodes, notes, widgets by position. Subgraphs, reroutes and bypassed nodes
are refused by name; the frontend converts those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOTES = {"Note", "MarkdownNote"}
_WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_NEVER, _BYPASS = 2, 4  # modes of a node


class NotConvertible(ValueError):
    """The graph holds something that only the frontend can convert."""


def api_form(graph: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The prompt that the graph stands for.

    :param graph: a saved workflow, ``{"nodes": […], "links": [[id, from, slot, to, slot, type], …]}``.
    :param schemas: ``ComfyClient.object_info()``.
    """
    if (graph.get("definitions") or {}).get("subgraphs"):
        raise NotConvertible("The graph has subgraphs; export it from the frontend in API form.")
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        kind = node["type"]
        if kind in NOTES or node.get("mode") == _NEVER:
            continue
        if kind not in schemas or node.get("mode") == _BYPASS:
            what = "is bypassed" if kind in schemas else "is not known to the server"
            raise NotConvertible(f"Node {node['id']} ({kind}) {what}; export the graph from the frontend in API form.")
        inputs = dict(_widgets(node, schemas[kind]["input"]))
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                inputs[slot["name"]] = links[slot["link"]]
        title = node.get("title") or schemas[kind].get("display_name") or kind
        prompt[str(node["id"])] = {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}
    return prompt


def _widgets(node: Mapping[str, Any], stated: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Names and values of the node's widgets, which are saved in the order of the schema."""
    values = iter(node.get("widgets_values") or [])
    for name, specification in [*stated.get("required", {}).items(), *stated.get("optional", {}).items()]:
        kind, options = specification[0], (specification[1] if len(specification) > 1 else {})
        if not (isinstance(kind, list) or kind in _WIDGET_TYPES) or options.get("forceInput"):
            continue
        try:
            value = next(values)
        except StopIteration:
            return  # a graph saved before the node grew this widget
        yield name, value
        seeded = kind == "INT" and name in ("seed", "noise_seed")
        if options.get("control_after_generate", seeded):
            next(values, None)
