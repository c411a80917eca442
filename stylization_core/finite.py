"""Not finite in, or made on the way, is an error; this is where that is said."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import StylizationError

REMEDY = "Look at the node that made it"


def check_finite(tensor: Tensor, subject: str, remedy: str = REMEDY) -> Tensor:
    """The tensor, if all of it is finite.

    Args:
        subject: the input, or the step that made it.

    Raises:
        StylizationError: names how many values are not.
    """
    broken = tensor.numel() - int(torch.isfinite(tensor).sum())
    if broken:
        raise StylizationError(subject, f"{broken} of its {tensor.numel()} values are NaN or infinite", remedy)
    return tensor


def check_finite_number(value: float, subject: str) -> float:
    """The number, if it is finite.

    Raises:
        StylizationError: shows it.
    """
    if not math.isfinite(value):
        raise StylizationError(subject, f"it is {value}", "Give a finite number")
    return value
