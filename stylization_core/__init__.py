"""Operators of the Stylization pack as pure functions and small classes on tensors.

Nothing in this package imports ComfyUI except ``stylization_core.hosts.comfyui``. Imports point one way:
nodes -> hosts -> operators.
"""

__version__ = "0.1.0"
