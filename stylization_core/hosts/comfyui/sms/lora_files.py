"""Read a LoRA file into a style branch.

ComfyUI's own key maps and adapters do the reading, so every layout that the stock loader knows works here as well
(kohya, diffusers, LyCORIS); layouts saved by peft are renamed first.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from typing import NamedTuple

import comfy.lora
import comfy.lora_convert
import torch
from safetensors import SafetensorError, safe_open

from ....errors import StylizationError
from .lora_checks import AGAIN, check_all_taken, check_factors
from .style_branch import Delta, StyleBranch, check

TEXT_PREFIXES = ("lora_te", "text_encoder", "text_encoders.", "lora_prior_te", "te1_", "te2_")
NETWORK_PREFIXES = ("lora_unet", "unet.", "diffusion_model.", "transformer.", "lora_transformer", "base_model.model.")
ADAPTER_METADATA = "lora_adapter_metadata"
"""Key of a file's metadata under which diffusers keeps what peft was configured with, as JSON."""
_PEFT_SUFFIX = re.compile(r"\.lora_(A|B)\.[A-Za-z0-9_-]+\.weight$")
_MAGNITUDE = re.compile(r"\.lora_magnitude_vector(\.[A-Za-z0-9_-]+)*$")
MAGNITUDE = ".lora_magnitude_vector"
_DOWN = re.compile(r"(\.lora_A|\.lora_A\.[A-Za-z0-9_-]+|\.lora\.down|_lora\.down|\.lora_linear_layer\.down)\.weight$")
_FACTOR = re.compile(r"\.(lora_[A-Za-z_]+|lora\.(up|down)|lora_linear_layer\.(up|down)|alpha|dora_scale)(\.weight)?$")
_SAVED_PREFIXES = ("unet.base_model.model.", "base_model.model.", "unet.", "")


def read(path: str) -> dict:
    """Tensors of a safetensors file.

    Raises:
        StylizationError: not a safetensors file, truncated or damaged, or empty.
    """
    return _opened(path)[0]


def _opened(path: str) -> tuple[dict, dict]:
    """Tensors and metadata of a safetensors file; raises as :func:`read`."""
    name = os.path.basename(path)
    if not path.endswith(".safetensors"):
        raise StylizationError(name, "only .safetensors files are read", "Convert it to safetensors")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            weights, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise StylizationError(
            name,
            f"the file cannot be read as safetensors ({os.path.getsize(path)} bytes: {error})",
            "Download or export it again; it is probably truncated",
        ) from error
    if not weights:
        raise StylizationError(name, "the file holds no tensors", "Download or export it again")
    return weights, metadata


def with_alphas(name: str, weights: dict, metadata: dict) -> dict:
    """The tensors with an ``alpha`` for each layer that has it in the file's metadata alone.

    diffusers writes ``lora_alpha``, ``alpha_pattern`` (by name, or by the end of a name as a regular expression) and
    ``use_rslora`` of each part under the part's name, such as ``unet.lora_alpha``. ComfyUI scales by alpha / rank.

    Args:
        name: of the file.

    Raises:
        StylizationError: the metadata cannot be read.
    """
    if ADAPTER_METADATA not in metadata:
        return weights
    try:
        adapter = json.loads(metadata[ADAPTER_METADATA])
        if not isinstance(adapter, dict):
            raise TypeError("it is no table")
        parts = {key.rpartition(".")[0] for key in adapter if key.rpartition(".")[2] == "lora_alpha"}
        extended = dict(weights)
        for key, down in weights.items():
            suffix = _DOWN.search(key)
            part = next((part for part in sorted(parts, reverse=True) if key.startswith(part)), None)
            if suffix is None or part is None or f"{key[: suffix.start()]}.alpha" in weights:
                continue
            module, prefix = key[: suffix.start()], f"{part}." if part else ""
            alpha = float(adapter[f"{prefix}lora_alpha"])
            for pattern, own in (adapter.get(f"{prefix}alpha_pattern") or {}).items():
                if re.fullmatch(rf"(.*\.)?({pattern})", module):
                    alpha = float(own)
            if adapter.get(f"{prefix}use_rslora"):
                alpha *= math.sqrt(down.shape[0])
            extended[f"{module}.alpha"] = torch.tensor(alpha)
    except (ValueError, TypeError, AttributeError, KeyError, re.error) as error:
        cause = f"{type(error).__name__}: {error}"
        raise StylizationError(name, f"its metadata {ADAPTER_METADATA} cannot be read ({cause})", AGAIN) from error
    return extended


def normalized(weights: dict, known: dict) -> dict:
    """Rename keys saved by peft and diffusers to names that ComfyUI's key map knows.

    peft writes ``base_model.model.<module>.lora_A[.<adapter>].weight``, diffusers ``unet.<module>.lora.down.weight``,
    with ``<module>`` in diffusers' or in the model's own names.

    Args:
        known: ComfyUI's map from LoRA names to model keys.
    """
    renamed = {}
    for key, value in weights.items():
        key = _PEFT_SUFFIX.sub(r".lora_\1.weight", key)
        key = _MAGNITUDE.sub(MAGNITUDE, key)
        prefix = next(prefix for prefix in _SAVED_PREFIXES if key.startswith(prefix))
        renamed[_with_known_prefix(key, key[len(prefix) :], known)] = value
    return renamed


class _Noting(dict):
    """Tensors that note which of their keys a loader took."""

    def __init__(self, weights: dict):
        super().__init__(weights)
        self.taken: set[str] = set()

    def __getitem__(self, key):
        self.taken.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        return self[key] if key in self else default


class Loaded(NamedTuple):
    """What ComfyUI's loader makes of a file.

    Attributes:
        adapters: by key of the model, or by (key, offset, function).
        magnitudes: of peft's DoRA, (out,), by the same; ComfyUI's loader does not know them.
        weights: the file's other tensors by ComfyUI's names.
    """

    adapters: dict
    magnitudes: dict
    weights: dict


def loaded(path: str, known: dict, foreign: tuple[str, ...]) -> Loaded:
    """Read, check and load a file.

    Args:
        known: ComfyUI's map from LoRA names to keys of a model.
        foreign: beginnings of the file's keys that belong to another part.

    Raises:
        StylizationError: an unreadable or damaged file; kinds of weights that the loader does not know.
    """
    name = os.path.basename(path)
    weights, metadata = _opened(path)
    weights = normalized(with_alphas(name, weights, metadata), known)
    check_factors(name, weights)
    magnitudes = {}
    for layer, place in known.items():
        if layer + MAGNITUDE in weights:
            magnitudes[place] = weights.pop(layer + MAGNITUDE).flatten()
    weights = _Noting(comfy.lora_convert.convert_lora(weights))
    try:
        adapters = comfy.lora.load_lora(weights, known, log_missing=False)
    except (KeyError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise StylizationError(name, f"ComfyUI's loader cannot read it ({cause})", AGAIN) from error
    if adapters:
        check_all_taken(name, weights, weights.taken, known, foreign)
    left = [place for place in magnitudes if getattr(adapters.get(place), "name", None) != "lora"]
    if left:
        found = f"it holds a DoRA magnitude for {left[0]} but no low-rank factors, so the layer's change is incomplete"
        raise StylizationError(name, found, AGAIN)
    return Loaded(adapters, magnitudes, weights)


def _with_known_prefix(key: str, rest: str, known: dict) -> str:
    suffix = _FACTOR.search(rest)
    if suffix is None:
        return key
    module, factor = rest[: suffix.start()], suffix.group()
    # ComfyUI knows attention layers of UNets by the names of diffusers' old attention processors
    processor = module.replace(".to_", ".processor.to_")
    for prefix in ("unet.", "diffusion_model.", "transformer.", ""):
        for name in (module, processor, processor.removesuffix(".0")):
            if prefix + name in known:
                return prefix + name + factor
    return key


def load_style(path: str, patcher, strength: float) -> StyleBranch:
    """The UNet or transformer part of a LoRA file as a style branch of ``patcher``'s network.

    Raises:
        StylizationError: unreadable file, nothing that fits this model, or adapters that rows cannot carry.
    """
    name = os.path.basename(path)
    known = comfy.lora.model_lora_keys_unet(patcher.model, {})
    adapters, magnitudes, weights = loaded(path, known, TEXT_PREFIXES)
    if not adapters:
        found = next(key for key in sorted(weights, key=lambda key: key.startswith(TEXT_PREFIXES)))
        raise StylizationError(
            name,
            f"none of its {len(weights)} tensors (such as {found}) belongs to this model "
            f"({type(patcher.model).__name__})",
            "Use a LoRA that was trained for this kind of base model",
        )
    _check_share(name, patcher, weights, adapters)
    deltas: dict[str, list[Delta]] = {}
    for place, value in adapters.items():
        key, offset, function = (place, None, None) if isinstance(place, str) else (*place, None)[:3]
        deltas.setdefault(key, []).append(Delta(strength, value, offset, function, magnitudes.get(place)))
    branch = StyleBranch(name, {key: tuple(parts) for key, parts in deltas.items()})
    check(patcher, branch)
    return branch


def _check_share(name: str, patcher, weights: dict, adapters: dict) -> None:
    """Refuse a file most of whose layers this model lacks (one for a larger relative fits here and there)."""
    layers = {_FACTOR.sub("", key) for key in weights if _FACTOR.search(key) and not key.startswith(TEXT_PREFIXES)}
    if 2 * len(adapters) < len(layers):
        raise StylizationError(
            name,
            f"only {len(adapters)} of its {len(layers)} layers exist in this model ({type(patcher.model).__name__})",
            "Use a LoRA that was trained for this kind of base model",
        )
    if len(adapters) < len(layers):
        missing = len(layers) - len(adapters)
        logging.warning("[Stylization] %s: %d of %d layers are not in this model", name, missing, len(layers))


def load_text(path: str, clip, strength: float):
    """A clone of ``clip`` with the file's text-encoder part at ``strength``; ``clip`` itself at 0 or without a part.

    Raises:
        StylizationError: unreadable file, or asked for at a non-zero strength while the file has no text part.
    """
    if clip is None or strength == 0:
        return clip
    known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    adapters, magnitudes, _ = loaded(path, known, NETWORK_PREFIXES)
    if not adapters:
        raise StylizationError(
            os.path.basename(path), "it has no text-encoder part for this CLIP", "Set the CLIP strength to 0"
        )
    if magnitudes:
        raise StylizationError(
            os.path.basename(path), "its text-encoder part is a DoRA as peft saves it", "Set the CLIP strength to 0"
        )
    clone = clip.clone()
    clone.add_patches(adapters, strength)
    return clone
