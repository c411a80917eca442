"""The pack's nodes as a graph calls them: inputs that are not named have their defaults."""

from __future__ import annotations

import torch

from . import host  # noqa: F401 puts ComfyUI and the pack in place

# isort: split
from stylization.nodes import NODES

BY_ID = {node.define_schema().node_id: node for node in NODES}


def through(node_id: str, *given, **settings):
    """The first output of a node."""
    return outputs(node_id, *given, **settings)[0]


def outputs(node_id: str, *given, **settings) -> tuple:
    """All outputs of a node; what is given by place follows the order of its inputs."""
    node = BY_ID[node_id]
    inputs = node.define_schema().inputs
    defaults = {
        given_input.id: given_input.default
        for given_input in inputs
        if getattr(given_input, "default", None) is not None
    }
    named = dict(zip((given_input.id for given_input in inputs), given, strict=False))
    with torch.inference_mode():
        return node.execute(**{**defaults, **named, **settings}).result
