"""Reference pictures: what a node gives, and what the model's layers make of them at a noise level.

Enters: latents with their conditionings, and what consumers want to keep of which layers. Leaves: records by level and
polarity. Imported by ``attention``; imports ``model``.
"""

from .grid_weights import GridWeights
from .inversion import InversionSampler
from .record_cache import RecordCache
from .recorder import Probe, Record, Recorder
from .reference import Reference, References

__all__ = [
    "GridWeights",
    "InversionSampler",
    "Probe",
    "Record",
    "RecordCache",
    "Recorder",
    "Reference",
    "References",
]
