"""What acts on self-attention while pictures are sampled: shared attention, holistic injection, regions.

Enters: settings that nodes left on the MODEL, and records of references. Leaves: a MODEL whose runs inject them; style
cards. Imported by ``measure``; imports ``model`` and ``references``.
"""

from .run import reference_memory, with_attention_run
from .settings import (
    HOLISTIC,
    REGIONS,
    SHARED,
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
    "HOLISTIC",
    "Holistic",
    "REGIONS",
    "Region",
    "Regions",
    "SHARED",
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
