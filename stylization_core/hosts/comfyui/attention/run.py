"""Operators on self-attention in a sampling run: shared attention, holistic injection, regions.

One wrapper around the sampler reads what the nodes left on the MODEL and puts a wrapper around the predictions into
the run's own copy of the model options. For each question to the model that one goes three steps: *record* what the
references give at this level (``step``), *operate* on each prediction (``operate``), *inject* into layers and rows of
the model call (``inject``). Nothing outlives the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....errors import StylizationError, naming
from ..model import (
    BATCH,
    BRANCHES,
    NEGATIVE,
    POSITIVE,
    Layer,
    StepLevel,
    dial,
    self_attention_layers,
    with_batch,
    with_wrapper,
)
from ..references import Probe, Recorder, Reference
from .class_adaptive import ClassAdaptive, probe_of_regions
from .holistic import probe_of_statistics
from .inject import inject
from .operators import RunContext
from .settings import HOLISTIC, REGIONS, SHARED, SHARED_BATCH, Holistic, Regions, SharedAttention
from .sharing import BatchSharing, ReferenceSharing, probe_of_tokens
from .step import OpenOperators, Polarities, step_of
from .trained_injection import injection_of, probe_of_injector

KEY = "stylization.attention"

Consumer = SharedAttention | Holistic | Regions
"""Settings that want something of references."""


def with_attention_run(patcher):
    """The MODEL (a clone already) with the wrappers that make its attached settings act."""
    if not patcher.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _around_sampler)
        # read from the options before ComfyUI adds the MODEL's own wrappers to them
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.PREPARE_SAMPLING, KEY, _reserve, patcher.model_options, is_model_options=True
        )
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


def _consumers(attached) -> list[Consumer]:
    """Settings on a MODEL that read references; ``attached`` gives what is left under a key."""
    shared = [settings for settings in attached(SHARED) or () if settings.sharing.weight != 0]
    holistic = [settings for settings in attached(HOLISTIC) or () if settings.strength != 0]
    return [*shared, *holistic, *(settings for settings in attached(REGIONS) or () if settings.strength != 0)]


def _check_latent(noise: Tensor) -> None:
    """Refuse what a UNet's self-attention cannot be about.

    Raises:
        StylizationError: video, sound, or no picture at all.
    """
    if noise.ndim != 4 or not noise.numel():
        raise StylizationError(
            "latent_image",
            f"the run's latent is {tuple(noise.shape)}, not pictures (B, C, H, W)",
            "Connect an image's latent to the sampler",
        )


class _Run:
    """What acts on self-attention in one sampling run."""

    def __init__(self, guider, extra_args: dict, noise: Tensor):
        self.guider, self.size, self.level = guider, tuple(noise.shape[-2:]), StepLevel()
        attached = guider.model_patcher.get_attachment
        consumers, batch = _consumers(attached), attached(SHARED_BATCH)
        for settings in (*consumers, *([] if batch is None else [batch])):
            with naming(settings.node):
                _check_latent(noise)
        self.recorders = self._recorders(consumers, extra_args, noise)
        sampling, strength = guider.inner_model.model_sampling, dial(extra_args["model_options"])
        context = RunContext(sampling, noise, strength, self.recorders)
        self.sharing: list[ReferenceSharing] = []
        self.injections: list = []
        for settings in consumers:
            if isinstance(settings, SharedAttention):
                with naming(settings.node):
                    self.sharing.append(ReferenceSharing(settings, context))
                continue
            with naming(settings.node):
                make = ClassAdaptive if isinstance(settings, Regions) else injection_of
                self.injections.append(make(settings, context))
        self.batch = None
        if batch is not None and batch.sharing.weight != 0:
            with naming(batch.node):
                self.batch = BatchSharing(batch, context)

    def _recorders(self, consumers: Sequence[Consumer], extra_args: dict, noise: Tensor) -> dict[int, Recorder]:
        """One per reference (by identity), for all nodes that use it."""
        wanted: dict[int, tuple[Reference, str, dict[str, Probe]]] = {}
        for settings in consumers:
            for reference in settings.references:
                if reference.weight != 0:
                    *_, probes = wanted.setdefault(id(reference), (reference, settings.node, {}))
                    probe = probe_of(settings, reference)
                    probes[probe.name] = probe.joined(probes.get(probe.name))
        given, seed = extra_args["model_options"], extra_args.get("seed") or 0
        recorders = {}
        for key, (reference, node, probes) in wanted.items():
            with naming(node):
                recorders[key] = Recorder(self.guider, reference, list(probes.values()), given, seed, noise.device)
        return recorders

    def around_prediction(self, executor, model, conds, x, level, options):
        """CALC_COND_BATCH wrapper: record, then inject what operates."""
        sigma = self.level(level)
        operators = self._open(sigma)
        if operators:
            step = step_of(operators, sigma, self._polarities(conds, options), conds, self.size)
            if BATCH not in options.get("transformer_options", {}):
                options = with_batch(options, len(x))
            options = inject(options, step)
        return executor(model, conds, x, level, options)

    def _open(self, sigma: float) -> OpenOperators:
        """What acts at a level."""
        return OpenOperators(
            [one for one in self.sharing if one.recorders and one.window.open_at(sigma)],
            self.batch if self.batch is not None and self.batch.window.open_at(sigma) else None,
            [one for one in self.injections if one.window.open_at(sigma)],
        )

    def _polarities(self, conds: list, options: dict) -> Polarities:
        """Polarity of each conditioning of a question; None where it is not asked for."""
        branches = options.get("transformer_options", {}).get(BRANCHES)
        if branches is not None:
            return tuple(branch.polarity for branch in branches)
        names = {id(entries): name for name, entries in self.guider.conds.items()}
        polarities: list[int | None] = []
        for index, entries in enumerate(conds):
            # by name: other guiders list negative prompts first, or ask for a single one
            name = names.get(id(entries), "negative" if index else "positive")
            polarities.append(None if entries is None else NEGATIVE if "negative" in name else POSITIVE)
        return tuple(polarities)

    def close(self) -> None:
        """Free what references gave."""
        for recorder in self.recorders.values():
            recorder.forget()


def probe_of(settings: Consumer, reference: Reference) -> Probe:
    """What a node's settings want of a reference."""
    if isinstance(settings, Holistic):
        if settings.injector is not None:
            return probe_of_injector(settings.injector, settings.layers, reference)
        return probe_of_statistics(settings.layers, settings.table, reference)
    if isinstance(settings, Regions):
        return probe_of_regions(settings, reference)
    return probe_of_tokens(settings.sharing, reference)


def reference_memory(patcher, references: Sequence[Reference], layers: frozenset[Layer]) -> int:
    """Bytes of keys and values kept for one step and both polarities."""
    places = self_attention_layers(patcher.model.diffusion_model)
    size = torch.finfo(patcher.model_dtype()).bits // 8
    cells = [(len(r.samples), r.samples.shape[-2:]) for r in references if r.weight != 0]
    tokens = lambda grid, level: -(-grid[0] // 2**level) * -(-grid[1] // 2**level)  # noqa: E731
    return sum(
        4 * size * count * tokens(grid, places[layer].level) * places[layer].width
        for count, grid in cells
        for layer in layers
    )


class _Reserved:
    """Stands beside the ControlNets of a run while ComfyUI adds up what inference needs beside the weights."""

    def __init__(self, size: int):
        self.size = size

    def get_models(self) -> list:
        """No network comes with it."""
        return []

    def inference_memory_requirements(self, dtype) -> int:
        """Bytes."""
        return self.size


def _reserve(executor, model, noise_shape, conds, *others, **named):
    """PREPARE_SAMPLING wrapper: room for the records, before ComfyUI decides how much of the weights to load."""
    needed = sum(
        reference_memory(model, settings.references, settings.sharing.layers)
        for settings in _consumers(model.get_attachment)
        if isinstance(settings, SharedAttention)
    )
    # for further devices ComfyUI copies ControlNets, and would ask for a copy of what stands beside them
    if not needed or model.get_additional_models_with_key("multigpu"):
        return executor(model, noise_shape, conds, *others, **named)
    asked = {**conds, KEY: [{"control": _Reserved(needed)}]}
    loaded, _, models = executor(model, noise_shape, asked, *others, **named)
    return loaded, conds, models
