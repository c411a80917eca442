"""Small trained networks, one per layer of a model, and their safetensors files.

What a file is stands in its metadata, and others are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import StylizationError

RESUME = ".resume.safetensors"
"""Files of this name beside a network hold what its training needs to go on."""


def resume_path(path: Path) -> Path:
    """Of the file beside a network."""
    return path.with_suffix(RESUME)


def write(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file as a whole: it is there complete, or not at all.

    Raises:
        OSError: the disk refuses.
    """
    part = path.with_suffix(".part")
    kept = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        save_file(kept, str(part), metadata=dict(metadata))
        os.replace(part, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        part.unlink(missing_ok=True)


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


@dataclass(frozen=True, eq=False)
class LayerNetworks(ABC):
    """Networks of the layers of a model family.

    Attributes:
        family: of the model, for instance ``SDXL``.
        widths: channels of each layer, by names such as ``output.3.0``.
        layers: networks by the same names.
        steps: how many they were trained.
        summary: how they were trained, for people.
    """

    PREFIX: ClassVar[str]
    FORMAT: ClassVar[str]
    MAKER: ClassVar[str]
    STATED: ClassVar[Mapping[str, str]] = {}
    """Metadata of every file, for people."""

    family: str
    widths: Mapping[str, int]
    layers: Mapping[str, nn.Module]
    steps: int = 0
    summary: str = ""

    @staticmethod
    @abstractmethod
    def network(width: int, seed: int) -> nn.Module:
        """An untrained network for a layer of so many channels."""

    @classmethod
    def untrained(cls, family: str, widths: Mapping[str, int], seed: int = 0):
        """For layers of these widths."""
        widths = dict(sorted(widths.items()))
        return cls(family, widths, {name: cls.network(width, seed) for name, width in widths.items()})

    def parameters(self) -> dict[str, nn.Parameter]:
        """By the names of the file, ``{PREFIX}.{layer}.{part}``."""
        return {
            f"{self.PREFIX}.{layer}.{name}": parameter
            for layer, network in self.layers.items()
            for name, parameter in network.named_parameters()
        }

    @cached_property
    def digest(self) -> str:
        """Stands for the weights as they are at the first call."""
        state = hashlib.sha256()
        for name, parameter in self.parameters().items():
            state.update(name.encode())
            state.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def save(self, path: Path) -> None:
        """Write them as safetensors."""
        metadata = {
            "format": self.FORMAT,
            "base": self.family,
            "layers": json.dumps(dict(self.widths)),
            "steps": str(self.steps),
            "summary": self.summary,
            **self.STATED,
        }
        write(self.parameters(), path, metadata)

    @classmethod
    def load(cls, path: Path):
        """Read them; call it outside inference mode if they are to be trained on.

        Raises:
            StylizationError: no such file, none of this kind, another version, or damaged.
        """
        tensors, metadata = read(path, cls.FORMAT, cls.MAKER)
        try:
            widths = {str(name): int(width) for name, width in json.loads(metadata["layers"]).items()}
            family, steps = metadata["base"], int(metadata["steps"])
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise StylizationError(path.name, f"its description is damaged: {error}", "Train it again") from error
        made = cls.untrained(family, widths)
        for name, network in made.layers.items():
            _fill(network, tensors, f"{cls.PREFIX}.{name}.", path.name)
            network.requires_grad_(False)
        return replace(made, steps=steps, summary=metadata.get("summary", ""))


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str, subject: str) -> None:
    """Copy the tensors below ``prefix`` into the parameters of the same names."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            found = tensors.get(prefix + name)
            if found is None or found.shape != parameter.shape:
                what = "missing" if found is None else f"of shape {tuple(found.shape)}, not {tuple(parameter.shape)}"
                raise StylizationError(subject, f"{prefix}{name} is {what}", "Train it again")
            parameter.copy_(found)
