"""Records style cards with the loaded model, and the family that a card belongs to."""

from __future__ import annotations

from collections.abc import Collection

import comfy.samplers
import torch

from ....errors import StylizationError
from ....holistic import Statistics
from ....style_card import StyleCard
from ..model import POLARITIES, Layer, family_of
from ..references import Recorder, References
from .holistic import mixed_records, probe_of_statistics, statistics_name


def check_family(card: StyleCard, patcher, layers: Collection[Layer]) -> frozenset[Layer]:
    """Those of ``layers`` that a card holds.

    Raises:
        StylizationError: the card is of another family, or holds none of them.
    """
    if card.family != family_of(patcher):
        raise StylizationError(
            "card", f"it was made with {card.family}, model is {family_of(patcher)}", "Use a card of the same family"
        )
    found = frozenset(layer for layer in layers if str(layer) in card.names())
    if not found:
        raise StylizationError(
            "card", f"it holds none of the layers asked for, only {', '.join(card.names())}", "Choose other layers"
        )
    return found


class StyleCardSampler(comfy.samplers.Sampler):
    """Asks the model for references at levels spread evenly over its schedule; leaves the card in ``card``.

    Args:
        references: one style, by their weights.
        layers: of these.
        table: with quantiles.
        count: of levels.
    """

    def __init__(self, references: References, layers: frozenset[Layer], table: bool, count: int):
        self.references, self.layers, self.table, self.count = references, layers, table, count
        self.card: StyleCard | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_others, **_named):
        """Called by the guider; the latent comes back as it was."""
        percents = ((k + 0.5) / self.count for k in range(self.count))
        levels = sorted(float(model_wrap.inner_model.model_sampling.percent_to_sigma(one)) for one in percents)
        given, seed = extra_args["model_options"], extra_args.get("seed") or 0
        used = [reference for reference in self.references if reference.weight != 0]
        recorders = [
            Recorder(
                model_wrap,
                reference,
                [probe_of_statistics(self.layers, self.table, reference)],
                given,
                seed,
                noise.device,
            )
            for reference in used
        ]
        by_layer: dict[tuple[str, str], list[Statistics]] = {}
        for number, level in enumerate(levels):
            records = {recorder: recorder.at(level, POLARITIES) for recorder in recorders}
            for polarity, name in POLARITIES.items():
                mixed = mixed_records(recorders, records, polarity, statistics_name(self.table))
                for layer in sorted(self.layers):
                    by_layer.setdefault((name, str(layer)), []).append(mixed(layer))
            if callback is not None:
                callback(number, latent_image, latent_image, self.count)
        layers = {key: _stacked(rows) for key, rows in by_layer.items()}
        summary = {
            "references": sum(len(reference.samples) for reference in used),
            "mode": "quantiles" if self.table else "moments",
            "layers": len(self.layers),
        }
        family = type(model_wrap.inner_model.model_config).__name__
        self.card = StyleCard(family, tuple(levels), layers, summary)
        return latent_image


def _stacked(rows: list[Statistics]) -> Statistics:
    """One record with a row per level."""
    return Statistics(*(None if part[0] is None else torch.cat(part).cpu() for part in zip(*rows, strict=True)))
