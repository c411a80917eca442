"""The pack's files on disk: one writer, which leaves a file complete or not at all, and one reader, which trusts none.

A safetensors file comes from whoever shared it. The reader looks at its size, its metadata and the types, shapes and
values of its tensors before anything is built from them, and says what is wrong in one error that names the file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import StylizationError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

LARGEST_VALUE = 1e6
"""No statistic and no trained weight of the pack comes near this; what exceeds it would overflow when it acts."""


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` make a file beside ``path`` and put it in its place when it is complete.

    Raises:
        OSError: the disk refuses; nothing is left behind.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        try:
            part.unlink(missing_ok=True)
        except OSError:
            pass


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file as a whole: it is there complete, or not at all.

    Raises:
        OSError: the disk refuses.
    """
    kept = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}

    def write(part: Path) -> None:
        try:
            save_file(kept, str(part), metadata=dict(metadata))
        except OSError:
            raise
        except Exception as error:
            # the library's own error, which moved from version to version, is a full or protected disk here
            raise OSError(str(error)) from error

    write_whole(path, write)


def read_tensors(path: Path, remedy: str, largest: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; all tensors are floats, finite, and of no absurd size.

    Args:
        remedy: what to do about a damaged file.
        largest: bytes that such a file may have.

    Raises:
        StylizationError: no such file, too large, or damaged.
    """
    try:
        size = path.stat().st_size
        if size > largest:
            found = f"it has {size / 2**20:.0f} MiB, such files have at most {largest / 2**20:.0f}"
            raise StylizationError(path.name, found, remedy)
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 no mapping
    except StylizationError:
        raise
    except Exception as error:
        # whatever a version of the library raises, the file is not one that can be read
        raise StylizationError(path.name, f"it cannot be read: {error}", remedy) from error
    for key, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise StylizationError(path.name, f"{key} holds {tensor.dtype}, no floats", remedy)
        if not tensor.isfinite().all():
            raise StylizationError(path.name, f"{key} holds NaN or infinite values", remedy)
        if tensor.numel() and float(tensor.abs().max()) > LARGEST_VALUE:
            raise StylizationError(path.name, f"{key} holds {float(tensor.abs().max()):g}, out of all measure", remedy)
    return tensors, metadata


def described(metadata: Mapping[str, str], key: str, path: Path, remedy: str) -> dict:
    """A JSON object in the metadata, {} where there is none.

    Raises:
        StylizationError: it is damaged.
    """
    try:
        found = json.loads(metadata.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise StylizationError(path.name, f"its description is damaged ({key}): {error}", remedy) from error
    if not isinstance(found, dict):
        raise StylizationError(path.name, f"its description is damaged ({key}): no object", remedy)
    return found


def whole_number(value: object, largest: int, what: str, path: Path, remedy: str) -> int:
    """``value``, a whole number or its text, from 0 to ``largest``.

    Raises:
        StylizationError: it is none.
    """
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else math.inf
    if number > largest:
        raise StylizationError(path.name, f"its {what} is {str(value)[:40]!r}", remedy)
    return number
