"""Seeded CPU generators, one stream per purpose, so that switching one operator on leaves another's noise alone."""

from __future__ import annotations

import zlib

import torch


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for ``purpose``; streams of one seed are independent of each other and of the global one."""
    return torch.Generator(device="cpu").manual_seed((int(seed) * 2654435761 + zlib.crc32(purpose.encode())) % 2**63)
