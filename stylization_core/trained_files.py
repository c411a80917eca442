"""Small trained networks, one per layer of a model, and their safetensors files.

What a file is stands in its metadata, and others are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from .errors import StylizationError
from .tensor_files import described, read_tensors, whole_number, write_tensors

RESUME = ".resume.safetensors"
"""Files of this name beside a network hold what its training needs to go on."""


ANY = "a training node of this pack"

AGAIN = "Train it again, or get the file once more"
ANEW = "Take that file away; the optimiser then begins anew"

LARGEST = 2**32
"""Bytes of a file; those of all layers of SDXL have a tenth of it."""

WIDEST, MOST_LAYERS, MOST_STEPS = 2**14, 1000, 10**9
"""Of a layer's channels, of layers, of steps."""

LAYER = re.compile(r"(input|middle|output)\.\d{1,3}\.\d{1,3}")
"""Names of layers."""


def resume_path(path: Path) -> Path:
    """Of the file beside a network."""
    return path.with_suffix(RESUME)


def read(path: Path, wanted: str, maker: str = ANY) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file whose format is ``wanted``, as "name/version".

    Args:
        maker: who writes such files, for the message.

    Raises:
        StylizationError: no such file, another format, another version, or damaged.
    """
    tensors, metadata = read_tensors(path, AGAIN, LARGEST)
    name, _, version = metadata.get("format", "").partition("/")
    known, _, known_version = wanted.partition("/")
    if name != known:
        raise StylizationError(path.name, f"it is no file of {maker}", f"Choose a file that {maker} has written")
    if version != known_version:
        raise StylizationError(
            path.name, f"its version is {version or 'missing'}, known is {known_version}", "Update the Stylization pack"
        )
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
        write_tensors(self.parameters(), path, metadata)

    @classmethod
    def load(cls, path: Path, maker: str = ANY):
        """Read them; call it outside inference mode if they are to be trained on.

        Raises:
            StylizationError: no such file, none of this kind, another version, or damaged.
        """
        tensors, metadata = read(path, cls.FORMAT, maker)
        widths = cls._widths(path, metadata, tensors)
        family = metadata.get("base", "")
        if not family or len(family) > 100:
            raise StylizationError(path.name, "its description is damaged: no base model in it", AGAIN)
        steps = whole_number(metadata.get("steps", ""), MOST_STEPS, "number of steps", path, AGAIN)
        made = cls.untrained(family, widths)
        for name, network in made.layers.items():
            _fill(network, tensors, f"{cls.PREFIX}.{name}.")
            network.requires_grad_(False)
        return replace(made, steps=steps, summary=metadata.get("summary", ""))

    @classmethod
    def _widths(cls, path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """Widths of the layers, after every tensor was compared with what networks of these widths hold.

        Nothing is allocated on the way: a description of a few bytes may name widths of any size.
        """
        if "layers" not in metadata:
            raise StylizationError(path.name, "its description is damaged: no layers in it", AGAIN)
        widths = described(metadata, "layers", path, AGAIN)
        if not 0 < len(widths) <= MOST_LAYERS:
            raise StylizationError(path.name, f"its description names {len(widths)} layers", AGAIN)
        wanted: dict[str, tuple[int, ...]] = {}
        for name, width in widths.items():
            if not LAYER.fullmatch(name):
                raise StylizationError(path.name, f"its description names a layer {name[:40]!r}", AGAIN)
            if type(width) is not int or not 0 < width <= WIDEST:
                raise StylizationError(path.name, f"its description gives {name} {str(width)[:40]!r} channels", AGAIN)
            with torch.device("meta"):
                network = cls.network(width, 0)
            wanted.update({f"{cls.PREFIX}.{name}.{part}": tuple(p.shape) for part, p in network.named_parameters()})
        for key in sorted(wanted.keys() ^ tensors.keys()):
            raise StylizationError(path.name, f"{key} is {'missing' if key in wanted else 'not known'}", AGAIN)
        for key, shape in wanted.items():
            if tuple(tensors[key].shape) != shape:
                raise StylizationError(path.name, f"{key} is of shape {tuple(tensors[key].shape)}, not {shape}", AGAIN)
        return widths


def _fill(network: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Copy the tensors below ``prefix``, whose shapes were looked at, into the parameters of the same names."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensors[prefix + name])


def read_state(path: Path, wanted: str, networks: LayerNetworks) -> dict[str, Tensor] | None:
    """What AdamW remembered of the training of ``networks``: per parameter ``step``, ``exp_avg`` and ``exp_avg_sq``.

    Returns:
        None where it is of another step than the networks.

    Raises:
        StylizationError: no such file, of another kind, or it does not fit the networks.
    """
    try:
        tensors, metadata = read(path, wanted)
        if metadata.get("steps") != str(networks.steps):
            return None
        shapes = {}
        for name, parameter in networks.parameters().items():
            shapes |= {f"{name}.step": (), f"{name}.exp_avg": parameter.shape, f"{name}.exp_avg_sq": parameter.shape}
        for key, tensor in tensors.items():
            if key not in shapes:
                raise StylizationError(path.name, f"{key} is not known", ANEW)
            if tensor.shape != torch.Size(shapes[key]):
                found = f"{key} is of shape {tuple(tensor.shape)}, not {tuple(shapes[key])}"
                raise StylizationError(path.name, found, ANEW)
            if not key.endswith(".exp_avg") and bool((tensor < 0).any()):
                raise StylizationError(path.name, f"{key} is negative", ANEW)
        for name in networks.parameters():
            parts = [f"{name}.{part}" in tensors for part in ("step", "exp_avg", "exp_avg_sq")]
            if any(parts) and not all(parts):
                raise StylizationError(path.name, f"of {name} a part is missing", ANEW)
    except StylizationError as error:
        raise StylizationError(error.subject, error.found, ANEW) from error
    return tensors
