"""Seeded CPU generators, one stream per purpose, so that switching one operator on leaves another's noise alone."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for ``purpose``; streams of one seed are independent of each other and of the global one."""
    return torch.Generator(device="cpu").manual_seed((int(seed) * 2654435761 + zlib.crc32(purpose.encode())) % 2**63)


def on_device(drawn: Tensor, device: torch.device) -> Tensor:
    """What a CPU generator drew, on the run's device; a GPU takes it when it comes to it, and nobody waits for it."""
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)
