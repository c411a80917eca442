"""Measures runs and pictures with the loaded models: content budget, tokens of vision models.

Enters: guiders, samplers, pictures. Leaves: results by strength, scores, features. Imported by nodes alone;
imports ``model``, ``sms``, ``guidance`` and ``attention``.
"""

from .budget import Runs, refuse_idle
from .content import ContentRulers
from .scores import Asked, scored, summed
from .search import Search, within_budget
from .vision_tokens import token_material

__all__ = [
    "Asked",
    "ContentRulers",
    "Runs",
    "Search",
    "refuse_idle",
    "scored",
    "summed",
    "token_material",
    "within_budget",
]
