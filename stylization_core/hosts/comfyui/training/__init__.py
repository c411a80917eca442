"""Trains small networks beside the loaded one, inside the graph.

Enters: a MODEL, pictures, and what is to be learned. Leaves: networks for layers, with the state to go on from.
Imported by nodes alone; imports ``model``.
"""

from .class_adapter import ClassLesson
from .injector import InjectorLesson
from .loop import Lesson, Plan, TrainingSampler, plain_prompt, training_bytes
from .picture_folders import encoded_pictures, input_folder_changed, picture_files

__all__ = [
    "ClassLesson",
    "InjectorLesson",
    "Lesson",
    "Plan",
    "TrainingSampler",
    "encoded_pictures",
    "input_folder_changed",
    "picture_files",
    "plain_prompt",
    "training_bytes",
]
