"""Nodes that act in the steps of an ordinary sampler: style score, spectrum regularizer, refiner, protection."""

from .holds import StylizeSemanticRefiner, StylizeSpectrumRegularizer
from .protection import StylizeProtectComposite, StylizeProtectRegion
from .score import StylizeSMSGuidance

__all__ = [
    "StylizeProtectComposite",
    "StylizeProtectRegion",
    "StylizeSMSGuidance",
    "StylizeSemanticRefiner",
    "StylizeSpectrumRegularizer",
]
