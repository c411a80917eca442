"""What the pack's nodes leave on a MODEL for its runs: immutable attachments, one key each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import StylizationError
from .style_source import StyleSource

SPECTRUM = "stylization.spectrum"
REFINEMENT = "stylization.refinement"
GUIDANCE = "stylization.guidance"

# display names, for messages of what acts in a later node's run
REGULARIZER = "Stylize Spectrum Regularizer"
REFINER = "Stylize Semantic Refiner"
SCORE_GUIDANCE = "Stylize SMS Guidance"


@dataclass(frozen=True, eq=False)
class SpectrumHold:
    """Settings of the spectrum regularizer.

    Attributes:
        weight: in SMS, in units of the published one.
        proximal: proximal form instead of the published gradient.
        color: share of the hold on DC.
        band: factor on the held band.
        hold: in ordinary sampling, the share of the low-band difference taken back at each step.
        start, end: percent window of ordinary sampling.
        content: latent as a VAE gives it (B or 1, C, H, W); None is the run's own input.
    """

    weight: float = 1.0
    proximal: bool = False
    color: float = 1.0
    band: float = 1.0
    hold: float = 0.5
    start: float = 0.0
    end: float = 1.0
    content: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Refinement:
    """Settings of the semantic refiner: a map by hand, or two conditionings to make one from.

    Attributes:
        floor: smallest value of the map.
        mask: (B or 1, H, W) in [0, 1] of any size, or None.
        edit, empty: CONDITIONING, when there is no mask.
        live: make the map anew at each step, as published, instead of once before the run.
        start, end: percent window of ordinary sampling.
        content: as for :class:`SpectrumHold`.
    """

    floor: float = 0.1
    mask: Tensor | None = None
    edit: list | None = None
    empty: list | None = None
    live: bool = False
    start: float = 0.0
    end: float = 1.0
    content: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ScoreGuidance:
    """Settings of the style score inside ordinary sampling.

    Attributes:
        style: where the style's prediction comes from.
        strength: factor on the style score.
        edit: start from the run's own input and follow the score alone, instead of adding it to the prediction.
        start, end: percent window.
    """

    style: StyleSource
    strength: float = 1.0
    edit: bool = True
    start: float = 0.0
    end: float = 1.0


def attach_once(patcher, key: str, settings: object, node: str):
    """A clone of ``patcher`` that carries ``settings``.

    Raises:
        StylizationError: the MODEL carries settings of that kind already.
    """
    if patcher.get_attachment(key) is not None:
        raise StylizationError(
            "model", f"it has gone through a '{node}' already", f"Keep one '{node}' on the way to the sampler"
        )
    clone = patcher.clone()
    clone.set_attachments(key, settings)
    return clone
