"""Shared attention in a sampling run: with references from outside, or with the first picture of the batch.

One wrapper around the sampler reads what the nodes left on the MODEL and puts a wrapper around the predictions into
the run's own copy of the model options; that one adds the attention hooks call by call. Nothing outlives the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...errors import StylizationError, naming
from ...masks import latent_mask
from ...shared_attention import (
    GroupMoments,
    Moments,
    Tokens,
    full_sharing,
    group_mixture,
    moments,
    shared_attention,
)
from .attention import Attend, Call, with_self_attention
from .branches import BRANCHES, CHUNKS, options_of, with_wrapper
from .dial import dial
from .group_norms import pooling
from .layers import Layer, self_attention_layers
from .percent import NoiseWindow
from .recorder import NEGATIVE, POSITIVE, Probe, Record, Recorder
from .references import Reference
from .settings import (
    SHARED,
    SHARED_ATTENTION,
    SHARED_ATTENTION_BATCH,
    SHARED_BATCH,
    SharedAttention,
    SharedBatch,
    Sharing,
)

KEY = "stylization.shared_attention"

Halves = Sequence[int | None]
"""Half of the guidance of each conditioning of a call; None for one that is not asked for."""


def sharing(patcher):
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
    """What shares in one sampling run."""

    def __init__(self, guider, extra_args: dict, noise: Tensor):
        self.guider, self.noise = guider, noise
        strength = dial(extra_args["model_options"])
        attached = guider.model_patcher.get_attachment
        settings = [one for one in attached(SHARED) or () if one.sharing.weight != 0]
        batch = attached(SHARED_BATCH)
        with naming(SHARED_ATTENTION):
            self.recorders = self._recorders(settings, extra_args)
            self.outside = [_Outside(self, one, strength) for one in settings]
        with naming(SHARED_ATTENTION_BATCH):
            self.inside = None if batch is None or batch.sharing.weight == 0 else _Inside(self, batch, strength)

    def _recorders(self, settings: Sequence[SharedAttention], extra_args: dict) -> dict[int, Recorder]:
        """One per reference (by identity), for all nodes that use it."""
        wanted: dict[int, tuple[Reference, frozenset[Layer], bool]] = {}
        for one in settings:
            for reference in one.references:
                if reference.weight != 0:
                    _, layers, norms = wanted.get(id(reference), (reference, frozenset(), False))
                    wanted[id(reference)] = (reference, layers | one.sharing.layers, norms or one.sharing.norms)
        given, seed = extra_args["model_options"], extra_args.get("seed") or 0
        return {
            key: Recorder(
                self.guider, reference, [Probe(layers, _tokens_of(reference), norms)], given, seed, self.noise.device
            )
            for key, (reference, layers, norms) in wanted.items()
        }

    def window(self, sharing: Sharing) -> NoiseWindow:
        return NoiseWindow(self.guider.inner_model.model_sampling, sharing.start, sharing.end)

    def around_prediction(self, executor, model, conds, x, level, options):
        """CALC_COND_BATCH wrapper."""
        sigma = float(level.max())
        halves = self.halves(conds, options)
        acting = [one for one in self.outside if one.window.open_at(sigma)]
        if acting:
            options = _with_outside(acting, halves, sigma, conds, options)
        if self.inside is not None and self.inside.window.open_at(sigma):
            options = self.inside.options(halves, options)
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


def _tokens_of(reference: Reference) -> Callable[[Call, Tensor], list[Tokens]]:
    """What to keep of a layer: one :class:`Tokens` per picture of the reference."""

    def keep(call: Call, out: Tensor) -> list[Tokens]:
        mask = None if reference.mask is None else _on_grid(reference.mask[None, None].float(), call)[0, :, 0]
        queries, keys = moments(call.q, mask), moments(call.k, mask)

        def row(at: slice) -> Tokens:
            parts = (Moments(*(each[at] for each in one)) for one in (queries, keys))
            return Tokens(call.k[at], call.v[at], *parts, reference.weight, mask=mask)

        return [row(slice(index, index + 1)) for index in range(call.k.shape[0])]

    return keep


def _on_grid(mask: Tensor, call: Call) -> Tensor:
    """(B, N, 1) of a mask (B, 1, H, W) on a layer's token grid, by area average."""
    grid = call.options["activations_shape"][-2:]
    return F.adaptive_avg_pool2d(mask, grid).clamp(0, 1).flatten(2).transpose(1, 2).to(call.q.device)


def _parts(halves: Halves, options: dict, rows: int) -> Iterator[tuple[int, int, slice]]:
    """(chunk, its half, its rows) of a model call.

    Raises:
        RuntimeError: the batch does not divide into the chunks.
    """
    chunks = options.get(CHUNKS)
    found = [chunk.polarity for chunk in chunks] if chunks else [halves[index] for index in options["cond_or_uncond"]]
    size, rest = divmod(rows, len(found))
    if rest:
        raise RuntimeError(
            f"Stylization: an attention layer sees {rows} rows for {len(found)} predictions, which does not divide. "
            "A node on this model regroups the batch; remove it, or share attention without it."
        )
    for index, half in enumerate(found):
        yield index, half, slice(index * size, (index + 1) * size)


class _Outside:
    """One node's sharing with references from outside."""

    def __init__(self, run: _Run, settings: SharedAttention, strength: float):
        self.sharing, self.strength = settings.sharing, strength
        self.window = run.window(settings.sharing)
        used = [id(reference) for reference in settings.references]
        self.recorders = [run.recorders[key] for key in used if key in run.recorders]
        self.mask = latent_mask(settings.mask, run.noise)

    def records(self, half: int, sigma: float) -> list[Record]:
        """What its references give for one half; nothing where it leaves that half alone."""
        if half == NEGATIVE and not self.sharing.both:
            return []
        return [recorder.at(sigma, half) for recorder in self.recorders]

    def tokens(self, record: Record, layer: Layer) -> list[Tokens]:
        """A record's tokens of a layer with this node's weights."""
        if layer not in self.sharing.layers:
            return []
        factor = self.sharing.weight * (1.0 if self.sharing.swap else self.strength)
        return [
            replace(tokens, weight=tokens.weight * factor, scale=self.sharing.score_scale)
            for tokens in record.layers[0][layer]
        ]


def _with_outside(acting: Sequence[_Outside], halves: Halves, sigma: float, conds: list, options: dict) -> dict:
    """Copy of one call's model options in which nodes act: those without a mask together, the others in turn."""
    plain = [one for one in acting if one.mask is None]
    areas = {entry["uuid"]: entry.get("area") for entries in conds if entries for entry in entries if "uuid" in entry}
    for group in [plain, *([one] for one in acting if one.mask is not None)]:
        if not group:
            continue
        group_act = _Group(group, halves, sigma, areas)
        options = with_self_attention(options, group_act.layers, group_act)
        if any(one.sharing.norms for one in group):
            options = pooling(options, group_act.norms, min(1.0, group[0].strength))
    return options


class _Group:
    """Nodes that act together in one call."""

    def __init__(self, nodes: Sequence[_Outside], halves: Halves, sigma: float, areas: dict):
        self.nodes, self.halves, self.areas = nodes, halves, areas
        asked = {half for half in halves if half is not None}
        self.records = {half: [(one, record) for one in nodes for record in one.records(half, sigma)] for half in asked}
        self.layers = frozenset().union(*(one.sharing.layers for one in nodes))

    def __call__(self, call: Call, attend: Attend) -> Tensor:
        """The attention of a layer."""
        tiles = call.q.shape[0] // call.k.shape[0]
        out = []
        for chunk, half, rows in _parts(self.halves, call.options, call.k.shape[0]):
            q = call.q[rows.start * tiles : rows.stop * tiles]
            k, v = call.k[rows], call.v[rows]
            tokens = [t for one, record in self.records.get(half, []) for t in one.tokens(record, call.layer)]
            if not tokens:
                out.append(attend(q, k, v))
                continue
            acting = [one for one in self.nodes if call.layer in one.sharing.layers]
            strength = min(1.0, acting[0].strength)
            shared = _shared(q, k, v, tokens, call.heads, attend, [one.sharing for one in acting], strength)
            mask = self._mask(chunk, q, call)
            out.append(shared if mask is None else torch.lerp(attend(q, k, v), shared, mask.to(shared)))
        return out[0] if len(out) == 1 else torch.cat(out)

    def _mask(self, chunk: int, q: Tensor, call: Call) -> Tensor | None:
        mask = self.nodes[0].mask
        if mask is None:
            return None
        area = self.areas.get(call.options["uuids"][chunk])
        if area is not None:
            height, width, y, x = area
            mask = mask[..., y : y + height, x : x + width]
        mask = _on_grid(mask, call)
        if mask.shape[1] != q.shape[1]:
            raise StylizationError(
                "mask",
                f"a layer has {q.shape[1]} tokens for a grid of {mask.shape[1]}",
                "Remove the node that merges or tiles tokens (ToMe, HyperTile), or the mask",
                node=SHARED_ATTENTION,
            )
        return mask

    def norms(self, name: str, own: GroupMoments, options: dict) -> GroupMoments | None:
        """The references' moments of a group norm for every row; a chunk without a reference meets itself."""
        found = []
        for _, half, rows in _parts(self.halves, options, own.mean.shape[0]):
            records = [(one, record) for one, record in self.records.get(half, []) if one.sharing.norms]
            if not records:
                found.append(GroupMoments(own.mean[rows], own.var[rows]))
                continue
            parts = [record.norms[name] for _, record in records]
            pooled = group_mixture(parts, [one.sharing.weight for one, _ in records])
            found.append(GroupMoments(*(each.expand(rows.stop - rows.start, -1) for each in pooled)))
        return GroupMoments(*(torch.cat(each) for each in zip(*found, strict=True)))


def _shared(
    q, k, v, tokens: list[Tokens], heads: int, attend: Attend, how: Sequence[Sharing], strength: float
) -> Tensor:
    """Shared attention of pictures whose queries may come as tiles of more rows."""
    own = None
    tiles = q.shape[0] // k.shape[0]
    if tiles > 1:
        # statistics belong to the picture; keys are dealt to the tiles as the backends would
        own = (moments(q.reshape(k.shape[0], -1, q.shape[-1])), moments(k))
        own = tuple(Moments(*(each.repeat_interleave(tiles, 0) for each in one)) for one in own)
        k, v = (each.reshape(q.shape[0], -1, each.shape[-1]) for each in (k, v))
    swap = any(one.swap for one in how)
    found = shared_attention(
        q,
        k,
        v,
        tokens,
        heads,
        attend,
        adain_query=max(one.adain_query for one in how) * strength,
        adain_key=max(one.adain_key for one in how) * strength,
        swap=swap,
        own=own,
    )
    return torch.lerp(attend(q, k, v), found, strength) if swap and strength < 1 else found


class _Inside:
    """Sharing with the first picture of the batch."""

    def __init__(self, run: _Run, settings: SharedBatch, strength: float):
        self.settings, self.sharing, self.strength = settings, settings.sharing, strength
        self.window = run.window(settings.sharing)
        if run.noise.shape[0] == 1:
            logging.warning(
                "[Stylization] %s: the batch holds one picture, so there is nothing to share", SHARED_ATTENTION_BATCH
            )

    def options(self, halves: Halves, options: dict) -> dict:
        """Copy of one call's model options."""
        act = lambda call, attend: self.attention(halves, call, attend)  # noqa: E731
        options = with_self_attention(options, self.sharing.layers, act)
        if self.sharing.norms:
            options = pooling(options, lambda _, own, seen: self.norms(halves, own, seen), min(1.0, self.strength))
        if self.settings.uncontrolled:
            options = with_wrapper(options, WrappersMP.APPLY_MODEL, KEY, _first_uncontrolled)
        return options

    def _acts(self, half: int | None) -> bool:
        return half == POSITIVE or self.sharing.both

    def attention(self, halves: Halves, call: Call, attend: Attend) -> Tensor:
        """The attention of a layer; the first picture of each chunk is as it would be alone."""
        tiles = call.q.shape[0] // call.k.shape[0]
        out = []
        for _, half, rows in _parts(halves, call.options, call.k.shape[0]):
            q, k, v = call.q[rows.start * tiles : rows.stop * tiles], call.k[rows], call.v[rows]
            if not self._acts(half) or len(k) == 1:
                out.append(attend(q, k, v))
            elif self.settings.full:
                found = full_sharing(q, k, v, attend)
                out.append(found if self.strength >= 1 else torch.lerp(attend(q, k, v), found, self.strength))
            else:
                out += [attend(q[:tiles], k[:1], v[:1]), self._targets(q, k, v, tiles, call.heads, attend)]
        return torch.cat(out)

    def _targets(self, q: Tensor, k: Tensor, v: Tensor, tiles: int, heads: int, attend: Attend) -> Tensor:
        first = moments(q[:tiles].reshape(1, -1, q.shape[-1])), moments(k[:1])
        factor = self.sharing.weight * (1.0 if self.sharing.swap else self.strength)
        tokens = Tokens(k[:1], v[:1], *first, factor, self.sharing.score_scale)
        return _shared(q[tiles:], k[1:], v[1:], [tokens], heads, attend, [self.sharing], min(1.0, self.strength))

    def norms(self, halves: Halves, own: GroupMoments, options: dict) -> GroupMoments:
        """The first picture's moments of a group norm, for every row of its chunk."""
        found = []
        for _, half, rows in _parts(halves, options, own.mean.shape[0]):
            first = slice(rows.start, rows.start + 1) if self._acts(half) else rows
            found.append([each[first].expand(rows.stop - rows.start, -1) for each in own])
        return GroupMoments(*(torch.cat(each) for each in zip(*found, strict=True)))


def _first_uncontrolled(executor, *args, **kwargs):
    """APPLY_MODEL wrapper: ControlNet residuals of the first picture of each chunk are zero."""
    named = "control" in kwargs
    control = kwargs["control"] if named else args[4] if len(args) > 4 else None
    if not control:
        return executor(*args, **kwargs)
    rows = args[0].shape[0]
    size = rows // len(options_of(args, kwargs)["cond_or_uncond"])

    def freed(residual: Tensor | None) -> Tensor | None:
        if residual is None:
            return None
        residual = residual.expand(rows, *residual.shape[1:]).clone() if residual.shape[0] == 1 else residual.clone()
        residual[::size] = 0
        return residual

    control = {name: [freed(residual) for residual in residuals] for name, residuals in control.items()}
    if named:
        return executor(*args, **{**kwargs, "control": control})
    return executor(*args[:4], control, *args[5:], **kwargs)


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
