"""The evidence there is, by name.

A page is a module that needs no model: tests write it from the records in docs/. The runs are loaded when asked for.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

EVIDENCES = ("operators", "sms", "budget", "holistic", "protection", "regions", "shared_attention")
"""Each has its runs in ``NAME.py`` (``EVIDENCE``), its page in ``NAME_page.py``, cells in ``.host/evidence/NAME``."""


def page_of(name: str) -> ModuleType:
    """The module of a page."""
    return import_module(f"{__package__}.{name}_page")


def evidence_of(name: str):
    """The :class:`~..common.evidence.Evidence` of that name; puts ComfyUI in place."""
    return import_module(f"{__package__}.{name}").EVIDENCE
