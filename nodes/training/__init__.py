"""Nodes that train small networks in the graph, and load them."""

from .class_adapter import StylizeLoadClassAdaptive, StylizeTrainClassAdaptive
from .injector import StylizeLoadHolisticInjector, StylizeTrainHolisticInjector

__all__ = [
    "StylizeLoadClassAdaptive",
    "StylizeLoadHolisticInjector",
    "StylizeTrainClassAdaptive",
    "StylizeTrainHolisticInjector",
]
