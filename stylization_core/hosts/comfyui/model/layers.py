"""Self-attention layers of a loaded UNet by name, and the sets of them that users choose."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample

from ....errors import StylizationError

ALL, LATE, STYLE, CUSTOM = "all", "visual style prompting", "style block", "custom"
PRESETS = (ALL, LATE, STYLE, CUSTOM)

_TOKEN = re.compile(r"^(input|middle|output)(?:[. ](\d+)(?:-(\d+))?)?(?:\.(\d+))?$")


class Layer(NamedTuple):
    """One transformer block; ``stage`` and ``number`` as ComfyUI's ``block``, ``index`` as its ``block_index``."""

    stage: str
    number: int
    index: int

    def __str__(self) -> str:
        return f"{self.stage}.{self.number}.{self.index}"


class Place(NamedTuple):
    """Where a layer stands: how often its grid is halved, and the channels of its keys."""

    level: int
    width: int


def self_attention_layers(network) -> dict[Layer, Place]:
    """The layers of a UNetModel whose first attention is self-attention."""
    found: dict[Layer, Place] = {}
    level = 0
    for stage, blocks in (
        ("input", network.input_blocks),
        ("middle", [network.middle_block]),
        ("output", network.output_blocks),
    ):
        for number, block in enumerate(blocks):
            for module in block:
                if isinstance(module, SpatialTransformer):
                    for index, transformer in enumerate(module.transformer_blocks):
                        if not transformer.disable_self_attn:
                            found[Layer(stage, number, index)] = Place(level, transformer.attn1.to_k.out_features)
                elif isinstance(module, Downsample):
                    level += 1
                elif isinstance(module, Upsample):
                    level -= 1
    return found


def chosen_layers(network, preset: str, custom: str = "") -> frozenset[Layer]:
    """The layers of a preset or of a list.

    Args:
        preset: ``all`` as StyleAligned publishes; ``visual style prompting``: the decoder's layers of the highest
            resolution that has any (SDXL output 3-5, as published there); ``style block``: the middle block of the
            decoder's lowest resolution (SDXL output 1, which B-LoRA and InstantStyle found to carry style);
            ``custom``: what ``custom`` lists.
        custom: words like ``input``, ``input.4``, ``output.3-5``, ``output.1.0``, separated by commas.

    Raises:
        StylizationError: a word names no layer of the network; says which, and what there is.
    """
    layers = self_attention_layers(network)
    decoder = {layer: place.level for layer, place in layers.items() if layer.stage == "output"}
    if preset == ALL:
        return frozenset(layers)
    if preset == LATE:
        return frozenset(layer for layer, level in decoder.items() if level == min(decoder.values()))
    if preset == STYLE:
        numbers = sorted({layer.number for layer, level in decoder.items() if level == max(decoder.values())})
        middle = numbers[(len(numbers) - 1) // 2]
        return frozenset(layer for layer in decoder if layer.number == middle)
    chosen: set[Layer] = set()
    words = [word.strip().lower() for word in re.split(r"[,;\n]", custom) if word.strip()]
    if not words:
        raise StylizationError("custom_layers", "it is empty", f"List layers, for instance {_offer(layers)}")
    for word in words:
        named = _named(word, layers)
        if not named:
            raise StylizationError(
                "custom_layers", f"'{word}' names no self-attention layer of this model", f"There are {_offer(layers)}"
            )
        chosen |= named
    return frozenset(chosen)


def _named(word: str, layers: Iterable[Layer]) -> set[Layer]:
    match = _TOKEN.match(word)
    if match is None:
        return set()
    stage, first, last, index = match.groups()
    numbers = None if first is None else range(int(first), int(last or first) + 1)
    return {
        layer
        for layer in layers
        if layer.stage == stage
        and (numbers is None or layer.number in numbers)
        and (index is None or layer.index == int(index))
    }


def _offer(layers: Iterable[Layer]) -> str:
    """All block names, in the network's order."""
    return ", ".join(dict.fromkeys(f"{layer.stage}.{layer.number}" for layer in layers))
