"""Settings of the holds that act in SMS and in ordinary sampling alike."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SPECTRUM = "stylization.spectrum"
REFINEMENT = "stylization.refinement"
PROTECTION = "stylization.protection"


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
        node: display name of the node that made them, for messages.
    """

    weight: float = 1.0
    proximal: bool = False
    color: float = 1.0
    band: float = 1.0
    hold: float = 0.5
    start: float = 0.0
    end: float = 1.0
    content: Tensor | None = None
    node: str = ""


@dataclass(frozen=True, eq=False)
class Refinement:
    """Settings of the semantic refiner: a map by hand, or two conditionings to make one from.

    Attributes:
        floor: smallest value of the map.
        mask: (B or 1, H, W) in [0, 1] of any size, or None.
        edit, empty: CONDITIONING, when there is no mask.
        live: make the map anew at each step, as published, instead of once before the run.
        start, end: percent window of ordinary sampling.
        content, node: as for :class:`SpectrumHold`.
    """

    floor: float = 0.1
    mask: Tensor | None = None
    edit: list | None = None
    empty: list | None = None
    live: bool = False
    start: float = 0.0
    end: float = 1.0
    content: Tensor | None = None
    node: str = ""


@dataclass(frozen=True, eq=False)
class ProtectedRegion:
    """Settings of the protected region.

    Attributes:
        mask: (B or 1, H, W) in [0, 1] of any size.
        band: share of the spectrum left free, from the low end.
        strength: share of the hold. The dial does not scale it: half a style is protected from as wholly as a whole.
        start, end: percent window of ordinary sampling.
        content, node: as for :class:`SpectrumHold`.
    """

    mask: Tensor
    band: float = 0.0
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    content: Tensor | None = None
    node: str = ""
