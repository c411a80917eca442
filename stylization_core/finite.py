"""The rule on numbers that are none: not finite in, or made on the way, is an error, and never a picture.

Whoever hands on a tensor that a network, a file or a user made asks here. The message names the step and the input;
the caller, who knows the likely cause, gives it as the remedy.
"""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor

from .errors import StylizationError


def check_finite(tensor: Tensor, subject: str, remedy: str = "Look at the node that made it") -> Tensor:
    """``tensor`` itself, where all its values are finite.

    On a GPU this waits for the device: ask once per step, not once per layer.

    Args:
        subject: the input, and the step where it is not the first: ``"content, encoded by vae"``.
        remedy: what to do about the likely cause, as an imperative.

    Raises:
        StylizationError: some are NaN or infinite; says how many.
    """
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return tensor
    broken = int((~torch.isfinite(tensor.detach())).sum())
    if broken:
        raise StylizationError(subject, f"{broken} of its {tensor.numel()} values are NaN or infinite", remedy)
    return tensor


def check_finite_number(value: float, subject: str, remedy: str = "Give a number") -> float:
    """``value`` itself, where it is a finite number.

    Raises:
        StylizationError: it is NaN, infinite, or no number.
    """
    # other packs hand on numpy's scalars, which are numbers of the same kinds
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # a whole number is finite, and one too large for a float would raise here
    if not number or not (isinstance(value, numbers.Integral) or math.isfinite(value)):
        raise StylizationError(subject, f"it is {value!r}" if number else "it is no number", remedy)
    return value
