"""What must hold of a LoRA file's tensors before anything is built from them, and of what nobody took of them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from ....errors import StylizationError

PAIRS = (
    (".lora_up.weight", ".lora_down.weight"),
    (".lora_B.weight", ".lora_A.weight"),
    (".lora_B.default.weight", ".lora_A.default.weight"),
    (".lora_B", ".lora_A"),
    (".lora.up.weight", ".lora.down.weight"),
    ("_lora.up.weight", "_lora.down.weight"),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    (".hada_w1_a", ".hada_w1_b"),
    (".hada_w2_a", ".hada_w2_b"),
    (".hada_w1_a", ".hada_w2_a"),
    (".lokr_w1_a", ".lokr_w1_b"),
    (".lokr_w2_a", ".lokr_w2_b"),
)
"""Endings of factors that come together. What joins the two is the rank, but for LoHa's two products."""

AGAIN = "Download or export it again, or leave it out"


def check_factors(name: str, weights: dict[str, Tensor]) -> None:
    """Refuse a damaged file before a loader multiplies what does not fit, or takes half of a layer.

    Args:
        name: of the file.
        weights: its tensors, by names that ComfyUI knows.

    Raises:
        StylizationError: values that are no numbers, an alpha that is no number alone, a factor without the other,
            rank 0, ranks that differ. Names the file and the key.
    """
    for key, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise StylizationError(name, f"{key} holds NaN or infinite values", AGAIN)
        if key.endswith(".alpha") and value.numel() != 1:
            raise StylizationError(name, f"{key} has shape {list(value.shape)} where one number belongs", AGAIN)
        product = re.search(r"\.lokr_w([12])(_[ab])?$", key)
        if product and not any(
            f"{key[: product.start(1)]}{'21'[int(product[1]) - 1]}{end}" in weights for end in ("", "_a")
        ):
            raise _lacking(name, key, f"{key[: product.start(1)]}{'21'[int(product[1]) - 1]}")
    for first, second in PAIRS:
        for key in weights:
            if key.endswith(first):
                _check_pair(name, weights, key, key.removesuffix(first) + second)
            elif key.endswith(second) and key.removesuffix(second) + first not in weights:
                raise _lacking(name, key, key.removesuffix(second) + first)


def _lacking(name: str, key: str, other: str) -> StylizationError:
    return StylizationError(name, f"it holds {key} but not {other}, so the layer's change is incomplete", AGAIN)


def _check_pair(name: str, weights: dict[str, Tensor], key: str, other: str) -> None:
    if other not in weights:
        raise _lacking(name, key, other)
    up, down = weights[key], weights[other]
    if key.endswith(".hada_w1_a") and other.endswith(".hada_w2_a"):
        return
    layer = key.rpartition(".")[0]
    tucker = "hada" in key and f"{layer}.hada_t1" in weights or ".lokr_w2_a" in key and f"{layer}.lokr_t2" in weights
    if up.ndim < 2 or down.ndim < 2:
        shapes = f"{key} has shape {list(up.shape)}, {other} {list(down.shape)}"
        raise StylizationError(name, f"{shapes}, where two factors of a matrix belong", AGAIN)
    ranks = (up.shape[0] if tucker else up.shape[1], down.shape[0])
    if ranks[0] != ranks[1] or 0 in ranks:
        found = (
            f"{key} has rank {ranks[0]} and {other} rank {ranks[1]}" if ranks[0] != ranks[1] else f"{key} has rank 0"
        )
        raise StylizationError(name, found, AGAIN)


_LOADERS_OWN = re.compile(r"\.scalar$")
"""LyCORIS writes its trained scalar into the factors too; the tensor beside them is 1."""


def check_all_taken(
    name: str, weights: dict[str, Tensor], taken: set[str], known: Iterable[str], foreign: tuple[str, ...]
) -> None:
    """Name what of a file was not taken.

    Args:
        name: of the file.
        weights: its tensors, by names that ComfyUI knows.
        taken: the keys that the loader took.
        known: names of the model's layers in LoRA files.
        foreign: beginnings of keys that belong to another part (text encoder or network).

    Raises:
        StylizationError: a kind of weights for layers of this model that the loader does not know: without them the
            style would be another one.
    """
    left = [key for key in weights if key not in taken and not key.startswith(foreign)]
    left = [key for key in left if not (_LOADERS_OWN.search(key) and bool((weights[key] == 1).all()))]
    if not left:
        return
    layers = {layer for layer in known if any(key.startswith(layer + ".") for key in left)}
    unread = [key for key in left if any(key.startswith(layer + ".") for layer in layers)]
    if unread:
        raise StylizationError(
            name,
            f"{len(unread)} of its {len(weights)} tensors belong to layers of this model but are of a kind that is not "
            f"known, such as {unread[0]}, so the style would be incomplete",
            "Convert the file to a plain LoRA, or merge it into a checkpoint and load that as the style model",
        )
    logging.warning(
        "[Stylization] %s: %d of %d tensors are not used, such as %s", name, len(left), len(weights), left[0]
    )
