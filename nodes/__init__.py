"""The pack's face towards ComfyUI: one file per family of nodes, no mathematics."""

from comfy_api.latest import ComfyExtension, io

from .sms import StylizeSMS
from .style_lora import StylizeStyleLoRA

NODES: list[type[io.ComfyNode]] = [StylizeStyleLoRA, StylizeSMS]


class StylizationExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
