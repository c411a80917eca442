"""The pack's face towards ComfyUI: one room per kind of work, no mathematics."""

import folder_paths
from comfy_api.latest import ComfyExtension, io

from ..stylization_core import charts
from .attention import (
    StylizeClassAdaptiveAttention,
    StylizeConditioningBatch,
    StylizeHolisticInjector,
    StylizeInvertReference,
    StylizeLoadStyleCard,
    StylizeReference,
    StylizeRegion,
    StylizeRegionComposite,
    StylizeSaveStyleCard,
    StylizeSharedAttention,
    StylizeSharedAttentionBatch,
)
from .guard import guarded
from .guidance import (
    StylizeProtectComposite,
    StylizeProtectRegion,
    StylizeSemanticRefiner,
    StylizeSMSGuidance,
    StylizeSpectrumRegularizer,
)
from .measure import StylizeContentBudget, StylizeReport, StylizeStyleScore
from .sms import (
    StylizeRelevanceMap,
    StylizeSMS,
    StylizeSMSGuider,
    StylizeSMSSampler,
    StylizeSMSSigmas,
    StylizeStyleLoRA,
)
from .training import (
    StylizeLoadClassAdaptive,
    StylizeLoadHolisticInjector,
    StylizeTrainClassAdaptive,
    StylizeTrainHolisticInjector,
)

charts.caches_below = folder_paths.get_temp_directory

NODES: list[type[io.ComfyNode]] = [
    StylizeStyleLoRA,
    StylizeSMS,
    StylizeSMSGuider,
    StylizeSMSSigmas,
    StylizeSMSSampler,
    StylizeSMSGuidance,
    StylizeSpectrumRegularizer,
    StylizeRelevanceMap,
    StylizeSemanticRefiner,
    StylizeReference,
    StylizeInvertReference,
    StylizeSharedAttention,
    StylizeSharedAttentionBatch,
    StylizeConditioningBatch,
    StylizeHolisticInjector,
    StylizeSaveStyleCard,
    StylizeLoadStyleCard,
    StylizeRegion,
    StylizeClassAdaptiveAttention,
    StylizeRegionComposite,
    StylizeTrainHolisticInjector,
    StylizeLoadHolisticInjector,
    StylizeTrainClassAdaptive,
    StylizeLoadClassAdaptive,
    StylizeProtectRegion,
    StylizeProtectComposite,
    StylizeStyleScore,
    StylizeReport,
    StylizeContentBudget,
]
NODES = [guarded(node) for node in NODES]


class StylizationExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
