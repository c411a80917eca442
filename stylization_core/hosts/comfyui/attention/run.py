"""Operators on self-attention in a sampling run: shared attention, holistic injection, regions.

One wrapper around the sampler reads what the nodes left on the MODEL and puts a wrapper around the predictions into
the run's own copy of the model options; that one adds the attention hooks call by call. Nothing outlives the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....errors import naming
from ..model import BRANCHES, NEGATIVE, POSITIVE, Layer, NoiseWindow, dial, self_attention_layers, with_wrapper
from ..references import Probe, Recorder, Reference
from .call import Acting, Effect, Halves
from .class_adaptive import ClassAdaptive, probe_of_regions
from .holistic import probe_for
from .settings import (
    CLASS_ADAPTIVE,
    HOLISTIC,
    HOLISTIC_INJECTOR,
    REGIONS,
    SHARED,
    SHARED_ATTENTION,
    SHARED_ATTENTION_BATCH,
    SHARED_BATCH,
    Holistic,
    Regions,
    SharedAttention,
    Sharing,
)
from .sharing import TOKENS, Inside, Outside, tokens_of
from .trained_injection import injection_of, probe_of_injector

KEY = "stylization.attention"

Consumer = SharedAttention | Holistic | Regions
"""Settings that want something of references."""


def with_attention_run(patcher):
    """The MODEL (a clone already) with the wrapper that makes its attached settings act."""
    if not patcher.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _around_sampler)
    return patcher


def _around_sampler(executor, model_wrap, sigmas, extra_args, callback, noise, *others, **named):
    """SAMPLER_SAMPLE wrapper."""
    rest = (callback, noise, *others)
    if dial(extra_args["model_options"]) == 0:
        return executor(model_wrap, sigmas, extra_args, *rest, **named)
    run = _Run(model_wrap, extra_args, noise)
    try:
        options = with_wrapper(extra_args["model_options"], WrappersMP.CALC_COND_BATCH, KEY, run.around_prediction)
        return executor(model_wrap, sigmas, {**extra_args, "model_options": options}, *rest, **named)
    finally:
        run.close()


class _Run:
    """What acts on self-attention in one sampling run."""

    def __init__(self, guider, extra_args: dict, noise: Tensor):
        self.guider, self.noise = guider, noise
        strength = dial(extra_args["model_options"])
        attached = guider.model_patcher.get_attachment
        shared = [one for one in attached(SHARED) or () if one.sharing.weight != 0]
        holistic = [one for one in attached(HOLISTIC) or () if one.strength != 0]
        regions = [one for one in attached(REGIONS) or () if one.strength != 0]
        batch = attached(SHARED_BATCH)
        self.recorders = self._recorders([*shared, *holistic, *regions], extra_args)
        given = {"recorders": self.recorders, "noise": noise, "strength": strength}
        with naming(SHARED_ATTENTION):
            self.outside = [Outside(one, self.window(one.sharing), **given) for one in shared]
        self.effects: list[Effect] = []
        with naming(HOLISTIC_INJECTOR):
            self.effects += [injection_of(one, self.window(one), **given) for one in holistic]
        with naming(CLASS_ADAPTIVE):
            self.effects += [ClassAdaptive(one, self.window(one), **given) for one in regions]
        with naming(SHARED_ATTENTION_BATCH):
            self.inside = None
            if batch is not None and batch.sharing.weight != 0:
                self.inside = Inside(batch, self.window(batch.sharing), noise, strength)

    def _recorders(self, consumers: Sequence[Consumer], extra_args: dict) -> dict[int, Recorder]:
        """One per reference (by identity), for all nodes that use it."""
        wanted: dict[int, tuple[Reference, dict[str, Probe]]] = {}
        for one in consumers:
            for reference in one.references:
                if reference.weight != 0:
                    _, probes = wanted.setdefault(id(reference), (reference, {}))
                    probe = probe_of(one, reference)
                    probes[probe.name] = probe.joined(probes.get(probe.name))
        given, seed = extra_args["model_options"], extra_args.get("seed") or 0
        return {
            key: Recorder(self.guider, reference, list(probes.values()), given, seed, self.noise.device)
            for key, (reference, probes) in wanted.items()
        }

    def window(self, settings: Sharing | Holistic | Regions) -> NoiseWindow:
        return NoiseWindow(self.guider.inner_model.model_sampling, settings.start, settings.end)

    def around_prediction(self, executor, model, conds, x, level, options):
        """CALC_COND_BATCH wrapper."""
        sigma = float(level.max())
        outside = [one for one in self.outside if one.recorders and one.window.open_at(sigma)]
        inside = self.inside if self.inside is not None and self.inside.window.open_at(sigma) else None
        effects = [one for one in self.effects if one.window.open_at(sigma)]
        if outside or effects or inside is not None:
            acting = Acting(outside, inside, effects, self.halves(conds, options), sigma, conds)
            options = acting.options(options)
        return executor(model, conds, x, level, options)

    def halves(self, conds: list, options: dict) -> Halves:
        """Which half each conditioning of a call belongs to."""
        branches = options.get("transformer_options", {}).get(BRANCHES)
        if branches is not None:
            return tuple(branch.polarity for branch in branches)
        names = {id(entries): name for name, entries in self.guider.conds.items()}
        found: list[int | None] = []
        for index, entries in enumerate(conds):
            # by name: other guiders list negative prompts first, or ask for a single one
            name = names.get(id(entries), "negative" if index else "positive")
            found.append(None if entries is None else NEGATIVE if "negative" in name else POSITIVE)
        return tuple(found)

    def close(self) -> None:
        """Free what references gave."""
        for recorder in self.recorders.values():
            recorder.forget()


def probe_of(consumer: Consumer, reference: Reference) -> Probe:
    """What a node's settings want of a reference."""
    if isinstance(consumer, Holistic):
        if consumer.injector is not None:
            return probe_of_injector(consumer.injector, consumer.layers, reference)
        return probe_for(consumer.layers, consumer.table, reference)
    if isinstance(consumer, Regions):
        return probe_of_regions(consumer, reference)
    return Probe(consumer.sharing.layers, tokens_of(reference), consumer.sharing.norms, TOKENS)


def reference_memory(patcher, references: Sequence[Reference], layers: frozenset[Layer]) -> int:
    """Bytes of keys and values kept for one step and both halves."""
    places = self_attention_layers(patcher.model.diffusion_model)
    size = torch.finfo(patcher.model_dtype()).bits // 8
    cells = [(len(r.samples), r.samples.shape[-2:]) for r in references if r.weight != 0]
    tokens = lambda grid, level: -(-grid[0] // 2**level) * -(-grid[1] // 2**level)  # noqa: E731
    return sum(
        4 * size * count * tokens(grid, places[layer].level) * places[layer].width
        for count, grid in cells
        for layer in layers
    )
