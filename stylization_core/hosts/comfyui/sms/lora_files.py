"""Read a LoRA file into a style branch.

ComfyUI's own key maps and adapters do the reading, so every layout that the stock loader knows works here as well
(kohya, diffusers, LyCORIS); layouts saved by peft are renamed first.
"""

from __future__ import annotations

import logging
import os
import re

import comfy.lora
import comfy.lora_convert
from safetensors import SafetensorError, safe_open

from ....errors import StylizationError
from .style_branch import Delta, StyleBranch, check

TEXT_PREFIXES = ("lora_te", "text_encoder", "text_encoders.", "lora_prior_te", "te1_", "te2_")
_PEFT_SUFFIX = re.compile(r"\.lora_(A|B)\.[A-Za-z0-9_-]+\.weight$")
_FACTOR = re.compile(r"\.(lora_[A-Za-z]+|lora\.(up|down)|lora_linear_layer\.(up|down)|alpha|dora_scale)(\.weight)?$")
_SAVED_PREFIXES = ("unet.base_model.model.", "base_model.model.", "unet.", "")


def read(path: str) -> dict:
    """Tensors of a safetensors file.

    Raises:
        StylizationError: not a safetensors file, truncated or damaged, or empty.
    """
    name = os.path.basename(path)
    if not path.endswith(".safetensors"):
        raise StylizationError(name, "only .safetensors files are read", "Convert it to safetensors")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise StylizationError(
            name,
            f"the file cannot be read as safetensors ({os.path.getsize(path)} bytes: {error})",
            "Download or export it again; it is probably truncated",
        ) from error
    if not weights:
        raise StylizationError(name, "the file holds no tensors", "Download or export it again")
    return weights


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
        prefix = next(prefix for prefix in _SAVED_PREFIXES if key.startswith(prefix))
        renamed[_with_known_prefix(key, key[len(prefix) :], known)] = value
    return renamed


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
    weights = normalized(read(path), known)
    loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(weights), known, log_missing=False)
    if not loaded:
        found = next(key for key in sorted(weights, key=lambda key: key.startswith(TEXT_PREFIXES)))
        raise StylizationError(
            name,
            f"none of its {len(weights)} tensors (such as {found}) belongs to this model "
            f"({type(patcher.model).__name__})",
            "Use a LoRA that was trained for this kind of base model",
        )
    _check_share(name, patcher, weights, loaded)
    deltas: dict[str, list[Delta]] = {}
    for place, value in loaded.items():
        key, offset, function = (place, None, None) if isinstance(place, str) else (*place, None)[:3]
        deltas.setdefault(key, []).append(Delta(strength, value, offset, function))
    branch = StyleBranch(name, {key: tuple(parts) for key, parts in deltas.items()})
    check(patcher, branch)
    return branch


def _check_share(name: str, patcher, weights: dict, loaded: dict) -> None:
    """Refuse a file most of whose layers this model lacks (one for a larger relative fits here and there)."""
    layers = {_FACTOR.sub("", key) for key in weights if _FACTOR.search(key) and not key.startswith(TEXT_PREFIXES)}
    if 2 * len(loaded) < len(layers):
        raise StylizationError(
            name,
            f"only {len(loaded)} of its {len(layers)} layers exist in this model ({type(patcher.model).__name__})",
            "Use a LoRA that was trained for this kind of base model",
        )
    if len(loaded) < len(layers):
        missing = len(layers) - len(loaded)
        logging.warning("[Stylization] %s: %d of %d layers are not in this model", name, missing, len(layers))


def load_text(path: str, clip, strength: float):
    """A clone of ``clip`` with the file's text-encoder part at ``strength``; ``clip`` itself at 0 or without a part.

    Raises:
        StylizationError: unreadable file, or asked for at a non-zero strength while the file has no text part.
    """
    if clip is None or strength == 0:
        return clip
    known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    weights = normalized(read(path), known)
    loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(weights), known, log_missing=False)
    if not loaded:
        raise StylizationError(
            os.path.basename(path), "it has no text-encoder part for this CLIP", "Set the CLIP strength to 0"
        )
    clone = clip.clone()
    clone.add_patches(loaded, strength)
    return clone
