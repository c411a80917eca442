"""Measures runs and pictures with the loaded models: content budget, tokens of vision models.

Enters: guiders, samplers, pictures. Leaves: results by strength, features. Imported by nodes alone; imports ``model``,
``sms``, ``guidance`` and ``attention``.
"""

from .budget import Runs, decoded, refuse_idle, thinned
from .vision_tokens import token_material

__all__ = [
    "Runs",
    "decoded",
    "refuse_idle",
    "thinned",
    "token_material",
]
