"""The pack's face towards ComfyUI: one file per family of nodes, no mathematics."""

from comfy_api.latest import ComfyExtension, io

from .conditioning_batch import StylizeConditioningBatch
from .content_budget import StylizeContentBudget
from .holistic import StylizeHolisticInjector
from .protection import StylizeProtectComposite, StylizeProtectRegion
from .references import StylizeInvertReference, StylizeReference
from .regions import StylizeClassAdaptiveAttention, StylizeRegion, StylizeRegionComposite
from .relevance_map import StylizeRelevanceMap
from .report import StylizeReport
from .sampling import StylizeSemanticRefiner, StylizeSMSGuidance, StylizeSpectrumRegularizer
from .shared_attention import StylizeSharedAttention, StylizeSharedAttentionBatch
from .sms import StylizeSMS
from .sms_parts import StylizeSMSGuider, StylizeSMSSampler, StylizeSMSSigmas
from .style_cards import StylizeLoadStyleCard, StylizeSaveStyleCard
from .style_lora import StylizeStyleLoRA
from .style_score import StylizeStyleScore
from .trained_injector import StylizeLoadHolisticInjector, StylizeTrainHolisticInjector
from .trained_regions import StylizeLoadClassAdaptive, StylizeTrainClassAdaptive

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


class StylizationExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES
