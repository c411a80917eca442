"""Packages that are imported only where they are needed, and the command that brings them."""

from __future__ import annotations

import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
TRAINING = "peft>=0.18.0"
DIFFUSERS = "diffusers>=0.35.2"
"""The last two as pyproject.toml has them among its extras."""


def command(*wanted: str) -> str:
    """What to run so that pip installs into the Python that runs this, for instance ``command("peft>=0.18.0")``."""
    return " ".join(_quoted(word) for word in (sys.executable, "-m", "pip", "install", *wanted))


def _quoted(word: str) -> str:
    return f'"{word}"' if set(word) & set(" <>&()[]") else word
