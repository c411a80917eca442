"""Nodes that measure: report, style score, content budget."""

from .content_budget import StylizeContentBudget
from .report import StylizeReport
from .style_score import StylizeStyleScore

__all__ = [
    "StylizeContentBudget",
    "StylizeReport",
    "StylizeStyleScore",
]
