"""What acts on self-attention while pictures are sampled: shared attention, holistic injection, regions.

Enters: settings that nodes left on the MODEL, and records of references. Leaves: a MODEL whose runs inject them; style
cards. Imported by ``measure``; imports ``model`` and ``references``.
"""

from .run import reference_memory, with_attention_run
from .settings import (
    CLASS_ADAPTIVE,
    HOLISTIC,
    HOLISTIC_INJECTOR,
    REGIONS,
    SHARED,
    SHARED_ATTENTION,
    SHARED_ATTENTION_BATCH,
    SHARED_BATCH,
    Holistic,
    Region,
    Regions,
    SharedAttention,
    SharedBatch,
    Sharing,
)
from .style_cards import StyleCardSampler, check_family
from .trained import check_trained

__all__ = [
    "CLASS_ADAPTIVE",
    "HOLISTIC",
    "HOLISTIC_INJECTOR",
    "Holistic",
    "REGIONS",
    "Region",
    "Regions",
    "SHARED",
    "SHARED_ATTENTION",
    "SHARED_ATTENTION_BATCH",
    "SHARED_BATCH",
    "SharedAttention",
    "SharedBatch",
    "Sharing",
    "StyleCardSampler",
    "check_family",
    "check_trained",
    "reference_memory",
    "with_attention_run",
]
