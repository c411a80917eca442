"""Style Matching Score: the style beside its base, the guider that asks for both, the sampler that descends.

Enters: a MODEL with a style branch or a second MODEL, conditionings, a latent. Leaves: pairs of predictions, an
optimised latent, maps and scores. Imported by ``guidance`` and ``measure``; imports ``model``.
"""

from .guider import FakeScore, ScoreSampler, StyleMatchingGuider
from .lora_files import load_style, load_text
from .relevance_map import NOT_FINITE, RelevanceSampler, ask_pair, precomputed, relevance_mask
from .row_gate import RowGate
from .sampler import StyleMatchingSampler
from .score_ruler import SCORED_TIMESTEPS, style_scores
from .second_model import PROMPT_PAIR, SECOND_MODEL, STYLE, SecondModel
from .settings import (
    PROTECTION,
    REFINEMENT,
    SPECTRUM,
    ProtectedRegion,
    Refinement,
    SpectrumHold,
)
from .style_branch import attach
from .style_source import StyleSource, find_style
from .whole_run import WholeRun, match_style

__all__ = [
    "FakeScore",
    "NOT_FINITE",
    "PROMPT_PAIR",
    "PROTECTION",
    "ProtectedRegion",
    "REFINEMENT",
    "Refinement",
    "RelevanceSampler",
    "RowGate",
    "SECOND_MODEL",
    "SPECTRUM",
    "STYLE",
    "ScoreSampler",
    "SecondModel",
    "SpectrumHold",
    "SCORED_TIMESTEPS",
    "StyleMatchingGuider",
    "StyleMatchingSampler",
    "StyleSource",
    "WholeRun",
    "ask_pair",
    "attach",
    "find_style",
    "load_style",
    "load_text",
    "match_style",
    "precomputed",
    "relevance_mask",
    "style_scores",
]
