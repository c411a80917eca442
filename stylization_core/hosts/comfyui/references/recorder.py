"""Runs a reference alone beside a sampling run and hands out what its self-attention layers saw.

A consumer says which layers it wants and what to keep of each; one model call per reference and level serves them all,
with a row for each polarity that is asked for. The call is made at the reference's own size under its own
conditioning, without ControlNet, without other nodes' patches and wrappers, and with the weights and the attention
backend of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import comfy.model_management
import comfy.samplers
from torch import Tensor

from ....shared_attention import GroupMoments
from ..model import OVERRIDE, POLARITIES, Attend, Call, Layer, Levels, process, recording, with_self_attention
from .description import descriptions, open_at
from .record_cache import run_key
from .reference import NoisedReference, Reference

KEPT_OPTIONS = (OVERRIDE, "sample_sigmas")


@dataclass(frozen=True)
class Probe:
    """What a consumer wants of a reference.

    Attributes:
        layers: of these.
        keep: (call of one polarity, attention output before ``to_out``) -> what to keep.
        norms: keep the moments of all group norms too.
        name: stands for what ``keep`` makes of a reference, so that a later run can use it; "" keeps it to this run.
    """

    layers: frozenset[Layer]
    keep: Callable[[Call, Tensor], object]
    norms: bool = False
    name: str = ""

    def joined(self, other: Probe | None) -> Probe:
        """For the layers of both; ``other`` keeps the same of the same reference."""
        if other is None:
            return self
        return replace(self, layers=self.layers | other.layers, norms=self.norms or other.norms)

    @property
    def wanted(self) -> tuple:
        """What records of this probe are found by."""
        return self.name, tuple(sorted(self.layers)), self.norms


@dataclass
class Record:
    """What a reference gave at one level under one polarity.

    Attributes:
        layers: by name of the probe, then by layer, what the probe kept.
        norms: group moments by module name.
    """

    layers: dict[str, dict[Layer, object]]
    norms: dict[str, GroupMoments] = field(default_factory=dict)


class Recorder:
    """One reference in one sampling run.

    Args:
        guider: of the run; its conditionings describe references that have none of their own.
        reference: the reference.
        probes: what is wanted of it, no two of one name.
        given: the run's model options.
        seed: the run's.
        device: of the run's latents.
    """

    def __init__(self, guider, reference: Reference, probes: Sequence[Probe], given: dict, seed: int, device):
        self.model, self.probes = guider.inner_model, tuple(probes)
        self.noised = NoisedReference(reference, self.model, Levels(self.model.model_sampling), device)
        self.conds = process(self.model, self.noised.clean, descriptions(guider, reference), seed)
        options = given.get("transformer_options", {})
        self.options = {"transformer_options": {key: options[key] for key in KEPT_OPTIONS if key in options}}
        self.passes = 0
        self.cache, self._run = reference.cache, None
        if self.cache is not None and all(probe.name for probe in self.probes):
            wanted = tuple(probe.wanted for probe in self.probes)
            self._run = run_key(guider, self.conds, self.options["transformer_options"], wanted, device)
        self._sigma: float | None = None
        self._kept: dict[int, Record] = {}

    def at(self, sigma: float, polarities: Collection[int]) -> Mapping[int, Record]:
        """What the reference gives at a level, by polarity of its conditioning; each is asked of the model once."""
        if sigma != self._sigma:
            self._sigma, self._kept = sigma, {}
        missing = [polarity for polarity in POLARITIES if polarity in polarities and polarity not in self._kept]
        if missing:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._kept.update(self._recorded(sigma, missing) if self._run is None else self._cached(sigma, missing))
        return {polarity: self._kept[polarity] for polarity in polarities}

    def _cached(self, sigma: float, polarities: Sequence[int]) -> dict[int, Record]:
        """From an earlier run, or recorded now and kept for later ones."""
        kept = {polarity: self.cache.get(self._run, sigma, polarity, self.noised.device) for polarity in polarities}
        if all(record is not None for record in kept.values()):
            return kept
        # all of them, so that a run gives the same bits whatever a cache had room for
        recorded = self._recorded(sigma, polarities)
        for polarity, record in recorded.items():
            if kept[polarity] is None:
                self.cache.keep(self._run, sigma, polarity, record)
        return recorded

    def forget(self) -> None:
        """Free what is kept."""
        self._sigma, self._kept = None, {}

    def _recorded(self, sigma: float, polarities: Sequence[int]) -> dict[int, Record]:
        """One model call with the rows of all ``polarities``; ComfyUI splits it where memory is short."""
        self.passes += 1
        records = {polarity: Record({probe.name: {} for probe in self.probes}) for polarity in polarities}
        layers = frozenset().union(*(probe.layers for probe in self.probes))

        def watch(call: Call, attend: Attend) -> Tensor:
            out = attend(call.q, call.k, call.v)
            for polarity, rows in _rows_by_polarity(polarities, call.options, len(out)):
                part = replace(call, q=call.q[rows], k=call.k[rows], v=call.v[rows])
                for probe in self.probes:
                    if call.layer in probe.layers:
                        records[polarity].layers[probe.name][call.layer] = probe.keep(part, out[rows])
            return out

        def note(name: str, moments: GroupMoments, transformer_options: dict) -> None:
            for polarity, rows in _rows_by_polarity(polarities, transformer_options, len(moments.mean)):
                records[polarity].norms[name] = GroupMoments(*(part[rows] for part in moments))

        options = with_self_attention(self.options, layers, watch)
        if any(probe.norms for probe in self.probes):
            options = recording(options, note)
        x = self.noised.at(sigma)
        level = x.new_full((x.shape[0],), sigma)
        conds = [[open_at(self.conds[POLARITIES[polarity]], sigma)] for polarity in polarities]
        comfy.samplers.calc_cond_batch(self.model, conds, x, level, options)
        return records


def _rows_by_polarity(asked: Sequence[int], transformer_options: dict, rows: int) -> Iterator[tuple[int, slice]]:
    """Rows of a model call of ComfyUI's own, in which chunk after chunk has a row per picture of the reference."""
    chunks = transformer_options["cond_or_uncond"]
    size = rows // len(chunks)
    for place, index in enumerate(chunks):
        yield asked[index], slice(place * size, (place + 1) * size)
