"""Runs references alone beside a sampling run and hands out what their self-attention layers saw.

A consumer says which layers it wants and what to keep of each; one pass per reference, level and half of the guidance
serves them all. The pass runs at the reference's own size under its own conditioning, without ControlNet, without
other nodes' patches and wrappers, and with the weights and the attention backend of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
from torch import Tensor

from ....shared_attention import GroupMoments
from ..model import HALVES, OVERRIDE, Attend, Call, Layer, Levels, process, recording, with_self_attention
from .record_cache import run_key
from .reference import NoisedReference, Reference

KEPT_OPTIONS = (OVERRIDE, "sample_sigmas")


@dataclass(frozen=True)
class Probe:
    """What a consumer wants of a reference.

    Attributes:
        layers: of these.
        keep: (call, attention output before ``to_out``) -> what to keep.
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
    """What one pass of one reference gave.

    Attributes:
        layers: by probe, then by layer, what the probe kept.
        norms: group moments by module name.
    """

    layers: list[dict[Layer, object]]
    norms: dict[str, GroupMoments] = field(default_factory=dict)


class Recorder:
    """The references of one sampling run.

    Args:
        guider: of the run; its conditionings describe references that have none of their own.
        reference: the reference.
        probes: what is wanted of it.
        given: the run's model options.
        seed: the run's.
        device: of the run's latents.
    """

    def __init__(self, guider, reference: Reference, probes: Sequence[Probe], given: dict, seed: int, device):
        self.model, self.probes = guider.inner_model, tuple(probes)
        self.noised = NoisedReference(reference, self.model, Levels(self.model.model_sampling), device)
        self.conds = process(self.model, self.noised.clean, _described(guider, reference), seed)
        options = given.get("transformer_options", {})
        self.options = {"transformer_options": {key: options[key] for key in KEPT_OPTIONS if key in options}}
        self.passes = 0
        self.cache, self._run = reference.cache, None
        if self.cache is not None and all(probe.name for probe in self.probes):
            wanted = tuple(probe.wanted for probe in self.probes)
            self._run = run_key(guider, self.conds, self.options["transformer_options"], wanted, device)
        self._level: float | None = None
        self._kept: dict[int, Record] = {}

    def at(self, sigma: float, half: int) -> Record:
        """What the reference gives at a level under one half of its conditioning; asked of the model once."""
        if sigma != self._level:
            self._level, self._kept = sigma, {}
        if half not in self._kept:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self._kept[half] = self._pass(sigma, half) if self._run is None else self._cached(sigma, half)
        return self._kept[half]

    def _cached(self, sigma: float, half: int) -> Record:
        """From an earlier run, or kept for later ones."""
        found = self.cache.get(self._run, sigma, half, self.noised.device)
        if found is None:
            found = self._pass(sigma, half)
            self.cache.keep(self._run, sigma, half, found)
        return found

    def place(self, name: str) -> int:
        """Where a record keeps what the probe of this name wants."""
        return next(index for index, probe in enumerate(self.probes) if probe.name == name)

    def forget(self) -> None:
        """Free what is kept."""
        self._level, self._kept = None, {}

    def _pass(self, sigma: float, half: int) -> Record:
        self.passes += 1
        record = Record([{} for _ in self.probes])
        wanted = frozenset().union(*(probe.layers for probe in self.probes))

        def watch(call: Call, attend: Attend) -> Tensor:
            out = attend(call.q, call.k, call.v)
            for probe, kept in zip(self.probes, record.layers, strict=True):
                if call.layer in probe.layers:
                    kept[call.layer] = probe.keep(call, out)
            return out

        options = with_self_attention(self.options, wanted, watch)
        if any(probe.norms for probe in self.probes):
            options = recording(options, record.norms)
        x = self.noised.at(sigma)
        level = x.new_full((x.shape[0],), sigma)
        comfy.samplers.calc_cond_batch(self.model, [self.conds[HALVES[half]]], x, level, options)
        return record


def _described(guider, reference: Reference) -> dict[str, list]:
    """Unprocessed conditionings of both halves: the reference's own, or the run's, for the whole picture."""
    found = {}
    for half, given in zip(HALVES.values(), (reference.positive, reference.negative), strict=True):
        if given is not None:
            found[half] = comfy.sampler_helpers.convert_cond(given)
            continue
        placed = ("area", "mask", "mask_strength", "set_area_to_bounds", "hooks", "gligen", "default")
        timed = ("start_percent", "end_percent")
        conds = guider.original_conds
        entries = conds.get(half) or conds.get("positive") or next(iter(conds.values()))
        found[half] = [{k: v for k, v in e.items() if k not in (*placed, *timed)} for e in entries[:1]]
    return found
