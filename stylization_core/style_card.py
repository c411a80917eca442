"""Style cards: what a reference's features are like at several noise levels, as a small file without pixels.

A card holds, per polarity and layer, the statistics of :mod:`holistic` at rising levels. It loads into any
model of the family it was made with, whatever the picture's size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .errors import StylizationError
from .finite import check_finite
from .holistic import LEVELS, Statistics
from .tensor_files import described, read_tensors, write_tensors

FORMAT, VERSION = "stylization-style-card", 1
PARTS = ("mean", "std", "skewness", "kurtosis", "quantiles")
POLARITIES = ("positive", "negative")
KEY = re.compile(rf"({'|'.join(POLARITIES)})/((?:input|middle|output)\.\d{{1,3}}\.\d{{1,3}})/({'|'.join(PARTS)})")
"""Names of a card's tensors but for the levels."""

LARGEST, WIDEST, MOST_LEVELS = 2**30, 2**14, 1000
"""Of bytes, of channels, of noise levels."""

AGAIN = "Save the card again, or get the file once more"
UNSOUND = "Look at the reference and the VAE; a model in half precision may overflow, load it in bf16 or fp32"

LEAST = 1e-6
"""Spreads are at least this where their logarithm is taken."""


@dataclass(frozen=True, eq=False)
class StyleCard:
    """A recorded style.

    Attributes:
        family: of the model, for instance ``SDXL``.
        levels: rising noise levels (sigma) of the record.
        layers: by polarity ("positive", "negative") and layer name, :class:`Statistics` with a row per level:
            (S, 1, C), and (S, P, C) for quantiles.
        summary: what it was made of, for people.
    """

    family: str
    levels: tuple[float, ...]
    layers: Mapping[tuple[str, str], Statistics]
    summary: dict = field(default_factory=dict)

    def to(self, device: torch.device) -> StyleCard:
        """The same card with its statistics on a device."""
        moved = {
            key: Statistics(*(part if part is None else part.to(device) for part in record))
            for key, record in self.layers.items()
        }
        return replace(self, layers=moved)

    def at(self, level: float, polarity: str, layer: str) -> Statistics:
        """Statistics at any level, (1, ., C): linear in its logarithm between the recorded ones, constant beyond.

        Spreads are interpolated as logarithms.
        """
        record = self.layers[polarity, layer]
        logs = [math.log(max(one, 1e-12)) for one in self.levels]
        place = math.log(max(level, 1e-12))
        after = next((k for k, one in enumerate(logs) if one >= place), len(logs) - 1)
        before = max(after - 1, 0)
        width = logs[after] - logs[before]
        share = 0.0 if width <= 0 else min(max((place - logs[before]) / width, 0.0), 1.0)
        if place >= logs[-1]:
            before = after
        return _blended([record.row(before), record.row(after)], [1 - share, share])

    def names(self) -> list[str]:
        """Layers that it holds."""
        return sorted({layer for _, layer in self.layers})

    def bytes(self) -> int:
        """Size of its tensors as they are saved, in half precision."""
        return sum(2 * part.numel() for one in self.layers.values() for part in one if part is not None)


def _blended(parts: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Weighted on means and logarithms of spreads; shapes by the weights that are not negative."""
    mean = sum(w * one.mean for w, one in zip(weights, parts, strict=True))
    log = sum(w * one.std.clamp_min(LEAST).log() for w, one in zip(weights, parts, strict=True))
    std = log.exp()
    kept = [max(w, 0.0) for w in weights]
    shares = [w / sum(kept) for w in kept]
    skewness = sum(w * one.skewness for w, one in zip(shares, parts, strict=True))
    kurtosis = sum(w * one.kurtosis for w, one in zip(shares, parts, strict=True)).clamp_min(skewness**2 + 1)
    table = None
    if all(one.quantiles is not None for one in parts):
        # the mean of standardised tables: the barycentre of the shapes
        standard = [(one.quantiles - one.mean) / one.std.clamp_min(LEAST) for one in parts]
        table = sum(w * each for w, each in zip(shares, standard, strict=True)) * std + mean
    return Statistics(mean, std, skewness, kurtosis, table)


def mixed(cards: Sequence[StyleCard], weights: Sequence[float]) -> StyleCard:
    """One card out of several; weights are brought to the sum 1, and negative ones lead away from a style.

    Means and logarithms of spreads are weighted, so that no spread turns negative.

    Raises:
        StylizationError: cards of different families or without common layers; weights whose sum is not above 0.
    """
    total = sum(weights)
    if not math.isfinite(total) or total <= 1e-6:
        raise StylizationError("card", f"its weights' sum is {total:g}", "Give cards weights whose sum is above 0")
    first = cards[0]
    for one in cards[1:]:
        if one.family != first.family:
            raise StylizationError(
                "card", f"it was made with {one.family}, the other with {first.family}", "Mix cards of one family"
            )
    common = set(first.layers).intersection(*(one.layers for one in cards))
    if not common:
        raise StylizationError("card", "it shares no layer with the other", "Make both with the same layers")
    shares = [weight / total for weight in weights]
    layers = {}
    for polarity, layer in sorted(common):
        rows = [_blended([one.at(level, polarity, layer) for one in cards], shares) for level in first.levels]
        layers[polarity, layer] = Statistics(
            *(None if part[0] is None else torch.cat(part) for part in zip(*rows, strict=True))
        )
    summary = {"mixed": [{"share": share, **one.summary} for share, one in zip(shares, cards, strict=True)]}
    return StyleCard(first.family, first.levels, layers, summary)


def save(card: StyleCard, path: Path) -> None:
    """Write a card as safetensors, in half precision.

    Raises:
        StylizationError: it holds values that are not finite, or too large for half precision.
        OSError: the disk refuses.
    """
    tensors: dict[str, Tensor] = {"levels": torch.tensor(card.levels)}
    for (polarity, layer), record in card.layers.items():
        for name, part in zip(PARTS, record, strict=True):
            if part is not None:
                kept = part.to("cpu", torch.float16)
                tensors[f"{polarity}/{layer}/{name}"] = check_finite(
                    kept, f"reference, {name} of {layer} under the {polarity} prompt", UNSOUND
                )
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "family": card.family,
        "summary": json.dumps(card.summary, ensure_ascii=False),
    }
    write_tensors(tensors, path, metadata)


def load(path: Path) -> StyleCard:
    """Read a card; everything in it is looked at before it is a card.

    Raises:
        StylizationError: no such file, no style card, a newer version, or damaged.
    """
    tensors, metadata = read_tensors(path, AGAIN, LARGEST)
    if metadata.get("format") != FORMAT:
        raise StylizationError(
            path.name, "it is no style card", "Choose a file that 'Stylize Save Style Card' has written"
        )
    if metadata.get("version") != str(VERSION):
        raise StylizationError(
            path.name, f"its version is {metadata.get('version')}, known is {VERSION}", "Update the Stylization pack"
        )
    family = metadata.get("family", "")
    if not family or len(family) > 100:
        raise StylizationError(path.name, "it does not say which model family it is of", AGAIN)
    try:
        return StyleCard(family, *_sound(tensors), described(metadata, "summary", path, AGAIN))
    except _Damaged as error:
        raise StylizationError(path.name, str(error), AGAIN) from error


class _Damaged(Exception):
    """What is wrong with a card."""


def _sound(tensors: Mapping[str, Tensor]) -> tuple[tuple[float, ...], dict[tuple[str, str], Statistics]]:
    """Levels and layers of a card's tensors.

    Raises:
        _Damaged: something is missing, unknown, of a wrong shape, or out of its range.
    """
    levels = tensors.get("levels")
    if levels is None or levels.ndim != 1 or not 0 < len(levels) <= MOST_LEVELS:
        raise _Damaged("parts of it are missing: noise levels")
    if not (levels > 0).all() or not (levels.diff() > 0).all():
        raise _Damaged("its noise levels do not rise from above 0")
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key == "levels":
            continue
        found = KEY.fullmatch(key)
        if found is None:
            raise _Damaged(f"it holds {key[:60]!r}, which is not known")
        polarity, layer, name = found.groups()
        parts.setdefault((polarity, layer), {})[name] = tensor.float()
    names = {layer for _, layer in parts}
    if not names or {(polarity, layer) for polarity in POLARITIES for layer in names} != parts.keys():
        raise _Damaged("parts of it are missing: a layer under one of the prompts")
    for (polarity, layer), record in parts.items():
        _check_record(f"{polarity}/{layer}", record, len(levels))
    if len({PARTS[4] in record for record in parts.values()}) > 1:
        raise _Damaged("parts of it are missing: quantiles of some layers")
    kept = {key: Statistics(*(record.get(name) for name in PARTS)) for key, record in parts.items()}
    return tuple(float(level) for level in levels), kept


def _check_record(where: str, record: Mapping[str, Tensor], levels: int) -> None:
    for name in PARTS[:4]:
        if name not in record:
            raise _Damaged(f"parts of it are missing: {where}/{name}")
    width = record["mean"].shape[-1] if record["mean"].ndim else 0
    if not 0 < width <= WIDEST:
        raise _Damaged(f"{where}/mean is of shape {tuple(record['mean'].shape)}")
    for name, part in record.items():
        rows = LEVELS if name == "quantiles" else 1
        if tuple(part.shape) != (levels, rows, width):
            raise _Damaged(f"{where}/{name} is of shape {tuple(part.shape)}, not {(levels, rows, width)}")
    for name in ("std", "kurtosis"):
        if (record[name] < 0).any():
            raise _Damaged(f"{where}/{name} is negative")
    if "quantiles" in record and (record["quantiles"].diff(dim=1) < 0).any():
        raise _Damaged(f"{where}/quantiles do not rise")
