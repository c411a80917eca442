"""What acts in the steps of an ordinary sampler: style score, refiner, regularizer, protected region.

Enters: settings that nodes left on the MODEL. Leaves: a MODEL whose runs obey them. Imported by ``measure``; imports
``model`` and ``sms``.
"""

from .run import acting
from .score import log_guidance
from .settings import GUIDANCE, ScoreGuidance

__all__ = [
    "GUIDANCE",
    "ScoreGuidance",
    "acting",
    "log_guidance",
]
