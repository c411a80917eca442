"""Trains small networks beside the loaded one, inside the graph.

Enters: a MODEL, pictures, and what is to be learned. Leaves: networks for layers, with the state to go on from.
Imported by nodes alone; imports ``model``, and of ``attention`` what says whether networks fit a model.
"""

from .class_adapter import ClassObjective
from .injector import InjectorObjective
from .loop import Plan
from .picture_folders import input_folder_changed
from .run import Training, loaded_networks, networks_to_train

__all__ = [
    "ClassObjective",
    "InjectorObjective",
    "Plan",
    "Training",
    "input_folder_changed",
    "loaded_networks",
    "networks_to_train",
]
