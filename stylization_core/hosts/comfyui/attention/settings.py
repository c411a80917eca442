"""What the pack's nodes leave on a MODEL for its runs: immutable attachments, one key each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ....class_adapter import ClassAdapter
from ....style_card import StyleCard
from ....trained_injector import TrainedInjector
from ..model import Layer
from ..references import References

SHARED = "stylization.shared_attention"
SHARED_BATCH = "stylization.shared_attention_batch"
HOLISTIC = "stylization.holistic"
REGIONS = "stylization.regions"


@dataclass(frozen=True, eq=False)
class Sharing:
    """How pictures share self-attention with a reference.

    Attributes:
        layers: in which.
        weight: m, the reference's mass counts like m copies; 0 is off.
        score_scale: factor on the reference's keys.
        adain_query, adain_key: strength of AdaIN.
        swap: the reference's keys and values in the place of the picture's own.
        both: under both prompts, instead of the positive one only.
        norms: share group norms too.
        start, end: percent window.
        node: display name of the node.
    """

    layers: frozenset[Layer]
    weight: float = 1.0
    score_scale: float = 1.0
    adain_query: float = 1.0
    adain_key: float = 1.0
    swap: bool = False
    both: bool = True
    norms: bool = False
    start: float = 0.0
    end: float = 1.0
    node: str = ""


@dataclass(frozen=True, eq=False)
class SharedAttention:
    """Sharing with references from outside the batch.

    Attributes:
        references: at least one.
        sharing: how.
        mask: where in the picture, (B or 1, H, W) in [0, 1] of any size; None is everywhere.
    """

    references: References
    sharing: Sharing
    mask: Tensor | None = None

    @property
    def node(self) -> str:
        """Display name of the node."""
        return self.sharing.node


@dataclass(frozen=True, eq=False)
class SharedBatch:
    """Sharing with the first picture of the batch.

    Attributes:
        sharing: how.
        full: all pictures share with all (ablation of the paper), without AdaIN and weights.
        uncontrolled: ControlNets leave the first picture alone.
    """

    sharing: Sharing
    full: bool = False
    uncontrolled: bool = True

    @property
    def node(self) -> str:
        """Display name of the node."""
        return self.sharing.node


@dataclass(frozen=True, eq=False)
class Holistic:
    """Settings of the holistic injection.

    Attributes:
        references: what gives, or none with a card.
        layers: in which; a card holds them all.
        strength: share of the change.
        tone: 1 moves means alone, 0 whole distributions; None goes by likeness.
        table: quantile mode.
        negative: factor on ``strength`` under the negative prompt.
        start, end: percent window.
        mask: where in the picture, (B or 1, H, W) in [0, 1] of any size; None is everywhere.
        card: what gives in the place of references.
        injector: a trained one, which takes the place of ``tone`` and ``table``.
        node: display name of the node.
    """

    references: References
    layers: frozenset[Layer]
    strength: float = 1.0
    tone: float | None = None
    table: bool = False
    negative: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mask: Tensor | None = None
    card: StyleCard | None = None
    injector: TrainedInjector | None = None
    node: str = ""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture with a style of its own.

    Attributes:
        mask: (B or 1, H, W) in [0, 1] of any size.
        references: what gives; none leaves the part as it is, and keeps others out.
        weight: of its tokens among those of all regions, or of its change.
    """

    mask: Tensor
    references: References = ()
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Regions:
    """Settings of the class-adaptive attention.

    Attributes:
        regions: at least one.
        layers: in which.
        strength: share of the change.
        holistic: statistics of each region, in the place of attention.
        adaptivity: how strictly a position keeps to its region; infinity is alone.
        tokens: of a region.
        feather: width of soft borders, in cells of the latent.
        negative: factor on ``strength`` under the negative prompt.
        start, end: percent window.
        adapter: trained keys and values of the tokens, in the layers that it has.
        node: display name of the node.
    """

    regions: tuple[Region, ...]
    layers: frozenset[Layer]
    strength: float = 1.0
    holistic: bool = False
    adaptivity: float = 5.0
    tokens: int = 16
    feather: float = 0.0
    negative: float = 1.0
    start: float = 0.0
    end: float = 1.0
    adapter: ClassAdapter | None = None
    node: str = ""

    @property
    def references(self) -> References:
        """Of all regions."""
        return tuple(reference for region in self.regions for reference in region.references)
