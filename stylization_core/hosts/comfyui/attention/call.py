"""Self-attention in one model call: which rows attend to which tokens, what is injected, what group norms take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....errors import StylizationError
from ....shared_attention import GroupMoments, Moments, Tokens, full_sharing, group_mixture, moments, shared_attention
from ..model import (
    CHUNKS,
    Attend,
    Call,
    Layer,
    Pooled,
    of_prompt,
    on_grid,
    options_of,
    per_token,
    pooling,
    with_self_attention,
    with_wrapper,
)
from .class_adaptive import ClassAdaptive
from .holistic import Injection
from .settings import Sharing
from .sharing import Gift, Inside, Outside
from .trained_injection import TrainedInjection

KEY = "stylization.shared_attention.control"

Effect = Injection | TrainedInjection | ClassAdaptive
"""Acts on attention outputs."""

Halves = Sequence[int | None]
"""Half of the guidance of each conditioning of a call; None for one that is not asked for."""


class Acting:
    """All that acts in one call: sharing without masks together, with masks in turn, then effects in turn."""

    def __init__(
        self,
        outside: Sequence[Outside],
        inside: Inside | None,
        effects: Sequence[Effect],
        halves: Halves,
        sigma: float,
        conds: Sequence,
    ):
        self.inside, self.halves = inside, halves
        self.masked = [one for one in outside if one.mask is not None]
        self.strength = min([1.0, *(one.strength for one in (*outside, inside) if one is not None)])
        asked = {half for half in halves if half is not None}
        # before the call: a reference is a call of the model itself
        self.gifts = {half: [gift for one in outside for gift in one.gifts(half, sigma)] for half in asked}
        self.effects = {half: [(one, one.styles(half, sigma)) for one in effects] for half in asked}
        entries = [entry for each in conds if each for entry in each]
        self.areas = {entry["uuid"]: entry.get("area") for entry in entries if "uuid" in entry}
        self.sharings = [one.sharing for one in (*outside, inside) if one is not None]
        self.layers = frozenset().union(*(one.layers for one in (*self.sharings, *(one.settings for one in effects))))

    def options(self, options: dict) -> dict:
        """Copy of the call's model options."""
        options = with_self_attention(options, self.layers, self.attention)
        if any(one.norms for one in self.sharings):
            options = pooling(options, self.norms, self.strength)
        if self.inside is not None and self.inside.settings.uncontrolled:
            options = with_wrapper(options, WrappersMP.APPLY_MODEL, KEY, _first_uncontrolled)
        return options

    def _given(self, half: int | None, node: Outside | None) -> list[Gift]:
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
            out.append(self._affected(found, chunk, call, index, half))
        return out[0] if len(out) == 1 else torch.cat(out)

    def _affected(self, found: Tensor, chunk: _Chunk, call: Call, index: int, half: int | None) -> Tensor:
        """Outputs after the effects of other operators; tiles are put together for them, being parts of a picture."""
        pictures = len(chunk.k)
        for node, styles in self.effects.get(half, ()):
            if styles is not None and call.layer in node.settings.layers:
                whole, q = (each.reshape(pictures, -1, each.shape[-1]) for each in (found, chunk.q))
                mask = None
                if node.mask is not None:
                    mask = self._token_mask(node, call, index, found).expand(pictures, -1, -1)
                found = node.applied(whole, styles, call.layer, half, mask, q, chunk.heads, chunk.attend)
                found = found.reshape(chunk.q.shape[0], -1, found.shape[-1])
        return found

    def _mask(self, node: Outside | Effect, options: dict, chunk: int) -> Tensor:
        """A node's masks for the part of the picture that a chunk is about, (B or 1, K, h, w)."""
        area = of_prompt(self.areas, options, chunk)
        if area is None:
            return node.mask
        height, width, y, x = area
        return node.mask[..., y : y + height, x : x + width]

    def _token_mask(self, node: Outside | Effect, call: Call, chunk: int, q: Tensor) -> Tensor:
        mask = per_token(self._mask(node, call.options, chunk), call)
        if mask.shape[1] != q.shape[1]:
            raise StylizationError(
                "mask",
                f"a layer has {q.shape[1]} tokens for a grid of {mask.shape[1]}",
                "Remove the node that merges or tiles tokens (ToMe, HyperTile), or the mask",
                node=node.NAME,
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
                    torch.cat([on_grid(mask, x.shape[-2:], x) for mask in masks]),
                )

    def _pooled(self, name: str, own: GroupMoments, parts: Sequence, node: Outside | None) -> GroupMoments:
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
    inside: Inside | None = None

    def shared(self, gifts: Sequence[Gift], layer: Layer, *, alone: bool = False) -> Tensor:
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
