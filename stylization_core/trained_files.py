"""Small trained networks as safetensors files: what they are stands in the metadata, and others are refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import StylizationError

RESUME = ".resume.safetensors"
"""Files of this name beside a network hold what its training needs to go on."""


def resume_path(path: Path) -> Path:
    """Of the file beside a network."""
    return path.with_suffix(RESUME)


def write(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file as a whole: it is there complete, or not at all."""
    part = path.with_suffix(".part")
    kept = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    save_file(kept, str(part), metadata=dict(metadata))
    os.replace(part, path)


def read(path: Path, wanted: str, maker: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file whose format is ``wanted``, as "name/version".

    Args:
        maker: display name of the node that writes such files.

    Raises:
        StylizationError: no such file, another format, another version, or damaged.
    """
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 no mapping
    except (OSError, SafetensorError) as error:
        raise StylizationError(path.name, f"it cannot be read: {error}", "Train it again") from error
    name, _, version = metadata.get("format", "").partition("/")
    known, _, known_version = wanted.partition("/")
    if name != known:
        raise StylizationError(path.name, f"it is no file of {maker}", f"Choose a file that {maker} has written")
    if version != known_version:
        raise StylizationError(
            path.name, f"its version is {version or 'missing'}, known is {known_version}", "Update the Stylization pack"
        )
    if not all(one.isfinite().all() for one in tensors.values() if one.is_floating_point()):
        raise StylizationError(path.name, "it holds NaN or infinite values", "Train it again")
    return tensors, metadata


def filled(module: torch.nn.Module, tensors: Mapping[str, Tensor], prefix: str, subject: str) -> None:
    """Copy the tensors below ``prefix`` into a module's parameters of the same names.

    Raises:
        StylizationError: one is missing or of another shape; ``subject`` is the file.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            found = tensors.get(prefix + name)
            if found is None or found.shape != parameter.shape:
                what = "missing" if found is None else f"of shape {tuple(found.shape)}, not {tuple(parameter.shape)}"
                raise StylizationError(subject, f"{prefix}{name} is {what}", "Train it again")
            parameter.copy_(found)
