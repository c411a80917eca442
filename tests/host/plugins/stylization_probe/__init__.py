"""Test plug-in for ComfyUI: makes odd inputs, disturbs a model on purpose, and reports what a model looks like.

Belongs to the test host; it is linked into a test server's ``custom_nodes`` and never shipped to users.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from . import disturb, inputs, report

        return [*inputs.NODES, *disturb.NODES, *report.NODES]


async def comfy_entrypoint() -> ComfyExtension:
    return ProbeExtension()
