"""Nodes that act on self-attention: references, shared attention, holistic injector, style cards, regions."""

from .conditioning_batch import StylizeConditioningBatch
from .holistic import StylizeHolisticInjector
from .references import StylizeInvertReference, StylizeReference
from .regions import StylizeClassAdaptiveAttention, StylizeRegion, StylizeRegionComposite
from .shared_attention import StylizeSharedAttention, StylizeSharedAttentionBatch
from .style_cards import StylizeLoadStyleCard, StylizeSaveStyleCard

__all__ = [
    "StylizeClassAdaptiveAttention",
    "StylizeConditioningBatch",
    "StylizeHolisticInjector",
    "StylizeInvertReference",
    "StylizeLoadStyleCard",
    "StylizeReference",
    "StylizeRegion",
    "StylizeRegionComposite",
    "StylizeSaveStyleCard",
    "StylizeSharedAttention",
    "StylizeSharedAttentionBatch",
]
