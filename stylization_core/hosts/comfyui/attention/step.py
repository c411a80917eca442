"""The first of three steps, *record*: what the references give at this level, as a plain value.

*Record* (here) asks the model about the references. *Operate* (``operate``) computes one prediction's attention from
what they gave. *Inject* (``inject``) hooks layers and rows of the run's own model call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ..model import Layer
from ..references import Record, Recorder
from .class_adaptive import ClassAdaptive
from .holistic import HolisticInjection
from .operators import Operator
from .sharing import BatchSharing, ReferenceSharing, SharedReference

Injection = HolisticInjection | ClassAdaptive
"""Operators on attention outputs."""

Polarities = Sequence[int | None]
"""Polarity of each conditioning of a question; None for one that is not asked for."""


@dataclass(frozen=True)
class OpenOperators:
    """The operators whose windows are open.

    Attributes:
        sharing: those that share with references.
        batch: the one that shares with the first picture, or None.
        injections: those on attention outputs, in their order.
    """

    sharing: Sequence[ReferenceSharing] = ()
    batch: BatchSharing | None = None
    injections: Sequence[Injection] = ()

    def __bool__(self) -> bool:
        return bool(self.sharing or self.injections or self.batch is not None)


@dataclass(frozen=True)
class Given:
    """What acts on predictions of one polarity.

    Attributes:
        shared: by operator, what its references give.
        injections: operators with what they inject, by layer.
    """

    shared: Mapping[ReferenceSharing, Sequence[SharedReference]] = field(default_factory=dict)
    injections: Sequence[tuple[Injection, object]] = ()

    def everywhere(self) -> list[SharedReference]:
        """Of all operators without a mask, which share as one."""
        return [one for operator, references in self.shared.items() if operator.mask is None for one in references]

    def masked(self) -> list[tuple[ReferenceSharing, Sequence[SharedReference]]]:
        """Operators with a mask, each by itself."""
        return [(one, references) for one, references in self.shared.items() if one.mask is not None and references]


@dataclass(frozen=True)
class Step:
    """One question to the model, with all that the references give for it.

    Attributes:
        polarities: of its conditionings.
        given: by polarity.
        batch: sharing with the first picture, or None.
        strength: share of the change by shared attention.
        areas: part of the picture that a conditioning entry is about, (height, width, y, x), by its uuid.
        size: (h, w) of the run's latent.
    """

    polarities: Polarities
    given: Mapping[int, Given]
    batch: BatchSharing | None
    strength: float
    areas: Mapping[UUID, tuple[int, int, int, int] | None]
    size: tuple[int, int]

    @property
    def layers(self) -> frozenset[Layer]:
        """In which something acts."""
        sharing = {operator.sharing for given in self.given.values() for operator in given.shared}
        sharing |= set() if self.batch is None else {self.batch.sharing}
        injected = [one.settings.layers for given in self.given.values() for one, _ in given.injections]
        return frozenset().union(*(one.layers for one in sharing), *injected)

    @property
    def norms(self) -> bool:
        """Whether group norms are shared."""
        if self.batch is not None and self.batch.sharing.norms:
            return True
        return any(operator.sharing.norms for given in self.given.values() for operator in given.shared)


def record(opened: OpenOperators, sigma: float, polarities: Collection[int]) -> dict[Recorder, Mapping[int, Record]]:
    """What the references of all operators give at a level: one call of the model for each reference."""
    wanted: dict[Recorder, set[int]] = {}
    operators: list[Operator] = [*opened.sharing, *opened.injections]
    for operator in operators:
        needed = {polarity for polarity in polarities if operator.acts(polarity)}
        for recorder in operator.recorders:
            wanted.setdefault(recorder, set()).update(needed)
    return {recorder: recorder.at(sigma, needed) for recorder, needed in wanted.items() if needed}


def step_of(
    opened: OpenOperators, sigma: float, polarities: Polarities, conds: Sequence, size: tuple[int, int]
) -> Step:
    """Record, and hand each polarity what is for it.

    Args:
        conds: processed conditionings of the question.
        size: (h, w) of the run's latent.
    """
    asked = {polarity for polarity in polarities if polarity is not None}
    records = record(opened, sigma, asked)
    given = {}
    for polarity in asked:
        shared = {operator: operator.shared(records, polarity) for operator in opened.sharing}
        injections = [one for one in opened.injections if one.acts(polarity)]
        prepared = [(one, one.prepare(records, polarity, sigma)) for one in injections]
        given[polarity] = Given(shared, [(one, styles) for one, styles in prepared if styles is not None])
    entries = [entry for entries in conds if entries for entry in entries]
    return Step(
        polarities,
        given,
        opened.batch,
        min([1.0, *(one.strength for one in (*opened.sharing, opened.batch) if one is not None)]),
        {entry["uuid"]: entry.get("area") for entry in entries if "uuid" in entry},
        size,
    )
