"""Nodes of the Style Matching Score: the style beside its model, the guider, sampler and map, and all in one."""

from .parts import StylizeSMSGuider, StylizeSMSSampler, StylizeSMSSigmas
from .relevance_map import StylizeRelevanceMap
from .style_lora import StylizeStyleLoRA
from .whole import StylizeSMS

__all__ = [
    "StylizeRelevanceMap",
    "StylizeSMS",
    "StylizeSMSGuider",
    "StylizeSMSSampler",
    "StylizeSMSSigmas",
    "StylizeStyleLoRA",
]
