"""Shared attention in a sampling run: with references from outside, or with the first picture of the batch.

One wrapper around the sampler reads what the nodes left on the MODEL and puts a wrapper around the predictions into
the run's own copy of the model options; that one adds the attention hooks call by call. Nothing outlives the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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
from .group_norms import Pooled, pooling
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
                self.guider,
                reference,
                [Probe(layers, _tokens_of(reference), norms, "tokens")],
                given,
                seed,
                self.noise.device,
            )
            for key, (reference, layers, norms) in wanted.items()
        }

    def window(self, sharing: Sharing) -> NoiseWindow:
        return NoiseWindow(self.guider.inner_model.model_sampling, sharing.start, sharing.end)

    def around_prediction(self, executor, model, conds, x, level, options):
        """CALC_COND_BATCH wrapper."""
        sigma = float(level.max())
        outside = [one for one in self.outside if one.recorders and one.window.open_at(sigma)]
        inside = self.inside if self.inside is not None and self.inside.window.open_at(sigma) else None
        if outside or inside is not None:
            options = _Acting(outside, inside, self.halves(conds, options), sigma, conds).options(options)
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
        mask = None
        if reference.mask is not None:
            # stays where the mask is: which tokens count is decided there, without waiting for the device
            grid = call.options["activations_shape"][-2:]
            mask = _on_grid(reference.mask[None, None].float(), grid, reference.mask).flatten()
        queries, keys = moments(call.q, mask), moments(call.k, mask)

        def row(at: slice) -> Tokens:
            parts = (Moments(*(each[at] for each in one)) for one in (queries, keys))
            return Tokens(call.k[at], call.v[at], *parts, reference.weight, mask=mask)

        return [row(slice(index, index + 1)) for index in range(call.k.shape[0])]

    return keep


def _on_grid(mask: Tensor, grid: Sequence[int], like: Tensor) -> Tensor:
    """(B, 1, h, w) of a mask (B, 1, H, W) on a layer's grid, by area average."""
    return F.adaptive_avg_pool2d(mask.clamp(0, 1), tuple(grid)).to(like.device)


def _per_token(mask: Tensor, call: Call) -> Tensor:
    """(B, N, 1) of a mask (B, 1, H, W), one value per token of a layer's grid."""
    return _on_grid(mask, call.options["activations_shape"][-2:], call.q).flatten(2).transpose(1, 2)


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

    def gifts(self, half: int, sigma: float) -> list[_Gift]:
        """What its references give for one half; nothing where it leaves that half alone."""
        if half == NEGATIVE and not self.sharing.both:
            return []
        return [_Gift(self, recorder.at(sigma, half), recorder.noised.reference) for recorder in self.recorders]


class _Gift(NamedTuple):
    """What one reference gives to one node for one half."""

    node: _Outside
    record: Record
    reference: Reference

    def tokens(self, layer: Layer) -> list[Tokens]:
        """Of a layer, with the node's weights; one per picture of the reference."""
        sharing = self.node.sharing
        if layer not in sharing.layers:
            return []
        factor = sharing.weight * (1.0 if sharing.swap else self.node.strength)
        kept = self.record.layers[0][layer]
        return [replace(one, weight=one.weight * factor, scale=sharing.score_scale) for one in kept]

    def norms(self, name: str) -> tuple[GroupMoments, float] | None:
        """Of a group norm, with a weight by which each of its pictures counts once."""
        if not self.node.sharing.norms:
            return None
        found = self.record.norms[name]
        return found, self.node.sharing.weight * self.reference.weight * len(found.mean)


class _Acting:
    """All that shares in one call: nodes without a mask together, then the others in turn, each in its mask."""

    def __init__(
        self, outside: Sequence[_Outside], inside: _Inside | None, halves: Halves, sigma: float, conds: Sequence
    ):
        self.inside, self.halves = inside, halves
        self.masked = [one for one in outside if one.mask is not None]
        self.strength = min(1.0, next(one.strength for one in (*outside, inside) if one is not None))
        asked = {half for half in halves if half is not None}
        self.gifts = {half: [gift for one in outside for gift in one.gifts(half, sigma)] for half in asked}
        entries = [entry for each in conds if each for entry in each]
        self.areas = {entry["uuid"]: entry.get("area") for entry in entries if "uuid" in entry}
        self.sharings = [one.sharing for one in (*outside, inside) if one is not None]

    def options(self, options: dict) -> dict:
        """Copy of the call's model options."""
        layers = frozenset().union(*(one.layers for one in self.sharings))
        options = with_self_attention(options, layers, self.attention)
        if any(one.norms for one in self.sharings):
            options = pooling(options, self.norms, self.strength)
        if self.inside is not None and self.inside.settings.uncontrolled:
            options = with_wrapper(options, WrappersMP.APPLY_MODEL, KEY, _first_uncontrolled)
        return options

    def _given(self, half: int | None, node: _Outside | None) -> list[_Gift]:
        """What a node with a mask gives, or all nodes without one."""
        return [one for one in self.gifts.get(half, ()) if (one.node is node if node else one.node.mask is None)]

    def _chunk(self, call: Call, attend: Attend, rows: slice, half: int | None) -> _Chunk:
        tiles = call.q.shape[0] // call.k.shape[0]
        q = call.q[rows.start * tiles : rows.stop * tiles]
        inside = self.inside if self.inside is not None and self.inside.acts(half, call.layer) else None
        return _Chunk(q, call.k[rows], call.v[rows], call.heads, attend, self.strength, inside)

    def attention(self, call: Call, attend: Attend) -> Tensor:
        """The attention of a layer."""
        out = []
        for index, half, rows in _parts(self.halves, call.options, call.k.shape[0]):
            chunk = self._chunk(call, attend, rows, half)
            found = chunk.shared(self._given(half, None), call.layer)
            for node in self.masked:
                gifts = self._given(half, node)
                if gifts and call.layer in node.sharing.layers:
                    mask = self._token_mask(node, call, index, chunk.q)
                    found = torch.lerp(found, chunk.shared(gifts, call.layer, alone=True), mask)
            out.append(found)
        return out[0] if len(out) == 1 else torch.cat(out)

    def _mask(self, node: _Outside, options: dict, chunk: int) -> Tensor:
        """A node's mask for the part of the picture that a chunk is about, (B or 1, 1, h, w)."""
        area = self.areas.get(options["uuids"][chunk])
        if area is None:
            return node.mask
        height, width, y, x = area
        return node.mask[..., y : y + height, x : x + width]

    def _token_mask(self, node: _Outside, call: Call, chunk: int, q: Tensor) -> Tensor:
        mask = _per_token(self._mask(node, call.options, chunk), call)
        if mask.shape[1] != q.shape[1]:
            raise StylizationError(
                "mask",
                f"a layer has {q.shape[1]} tokens for a grid of {mask.shape[1]}",
                "Remove the node that merges or tiles tokens (ToMe, HyperTile), or the mask",
                node=SHARED_ATTENTION,
            )
        return mask.to(q)

    def norms(self, name: str, own: GroupMoments, x: Tensor, options: dict) -> Pooled:
        """The references' moments of a group norm for every row, and where they count."""
        parts = list(_parts(self.halves, options, x.shape[0]))
        yield self._pooled(name, own, parts, None), None
        for node in self.masked:
            if node.sharing.norms:
                rows = parts[0][2].stop
                masks = [self._mask(node, options, index).expand(rows, -1, -1, -1) for index, _, _ in parts]
                yield (
                    self._pooled(name, own, parts, node),
                    torch.cat([_on_grid(mask, x.shape[-2:], x) for mask in masks]),
                )

    def _pooled(self, name: str, own: GroupMoments, parts: Sequence, node: _Outside | None) -> GroupMoments:
        """Moments for every row; one without a reference meets itself."""
        found = []
        for _, half, rows in parts:
            moments_of = [gift.norms(name) for gift in self._given(half, node)]
            given = [one for one in moments_of if one is not None]
            found.append(_mixed(given, own, slice(rows.start, rows.start + 1)))
            first = GroupMoments(own.mean[rows][:1], own.var[rows][:1])
            if node is None and self.inside is not None and self.inside.pools(half):
                given = [*given, (first, self.inside.sharing.weight)]
            found.append(_mixed(given, own, slice(rows.start + 1, rows.stop)))
        return GroupMoments(*(torch.cat(each) for each in zip(*found, strict=True)))


def _mixed(given: Sequence[tuple[GroupMoments, float]], own: GroupMoments, rows: slice) -> GroupMoments:
    """The weighted mixture for some rows, their own moments where nothing is given."""
    own = GroupMoments(own.mean[rows], own.var[rows])
    if not given:
        return own
    pooled = group_mixture(*zip(*given, strict=True))
    return GroupMoments(*(each.expand(len(own.mean), -1) for each in pooled))


@dataclass(frozen=True)
class _Chunk:
    """The rows of one prediction in one layer; queries can come as tiles of more rows.

    Attributes:
        inside: acts on them, or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    attend: Attend
    strength: float
    inside: _Inside | None = None

    def shared(self, gifts: Sequence[_Gift], layer: Layer, *, alone: bool = False) -> Tensor:
        """Attention to the tokens of references and, unless ``alone``, to those of the first picture."""
        given = [(gift.tokens(layer), gift.node.sharing) for gift in gifts]
        tokens = [one for each, _ in given for one in each]
        how = [sharing for each, sharing in given if each]
        if self.inside is None or alone or len(self.k) == 1:
            return self._with(self.q, self.k, self.v, tokens, how)
        return self._with_first(tokens, how)

    def _with_first(self, tokens: list[Tokens], how: list[Sharing]) -> Tensor:
        q, k, v, inside = self.q, self.k, self.v, self.inside
        if inside.settings.full:
            found = full_sharing(q, k, v, lambda q, k, v: self._with(q, k, v, tokens, how))
            return found if self.strength == 1 else torch.lerp(self._with(q, k, v, tokens, how), found, self.strength)
        tiles = q.shape[0] // k.shape[0]
        first = self._with(q[:tiles], k[:1], v[:1], tokens, how)
        more = [*tokens, inside.tokens(q[:tiles], k[:1], v[:1])]
        return torch.cat([first, self._with(q[tiles:], k[1:], v[1:], more, [*how, inside.sharing])])

    def _with(self, q: Tensor, k: Tensor, v: Tensor, tokens: list[Tokens], how: list[Sharing]) -> Tensor:
        if not tokens:
            return self.attend(q, k, v)
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
            self.heads,
            self.attend,
            adain_query=max(one.adain_query for one in how) * self.strength,
            adain_key=max(one.adain_key for one in how) * self.strength,
            swap=swap,
            own=own,
        )
        return torch.lerp(self.attend(q, k, v), found, self.strength) if swap and self.strength < 1 else found


class _Inside:
    """Sharing with the first picture of the batch, which itself is as it would be alone."""

    def __init__(self, run: _Run, settings: SharedBatch, strength: float):
        self.settings, self.sharing, self.strength = settings, settings.sharing, strength
        self.window = run.window(settings.sharing)
        if run.noise.shape[0] == 1:
            logging.warning(
                "[Stylization] %s: the batch holds one picture, so there is nothing to share", SHARED_ATTENTION_BATCH
            )

    def acts(self, half: int | None, layer: Layer) -> bool:
        return layer in self.sharing.layers and self._in(half)

    def pools(self, half: int | None) -> bool:
        return self.sharing.norms and self._in(half)

    def _in(self, half: int | None) -> bool:
        return half == POSITIVE or self.sharing.both

    def tokens(self, q: Tensor, k: Tensor, v: Tensor) -> Tokens:
        """What the first picture gives; its queries can be tiles."""
        factor = self.sharing.weight * (1.0 if self.sharing.swap else self.strength)
        seen = moments(q.reshape(1, -1, q.shape[-1])), moments(k)
        return Tokens(k, v, *seen, factor, self.sharing.score_scale)


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
