"""The third of three steps, *inject*: hooks for one model call, its rows dealt to predictions and joined again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....errors import StylizationError
from ....masks import on_grid
from ....shared_attention import GroupMoments, group_mixture
from ..model import (
    BATCH,
    CHUNKS,
    Attend,
    Call,
    Pooled,
    chunk_rows,
    of_prompt,
    options_of,
    per_token,
    pooling,
    with_self_attention,
    with_wrapper,
)
from .operate import Chunk, operate
from .operators import Operator
from .sharing import ReferenceSharing
from .step import Given, Polarities, Step

KEY = "stylization.shared_attention.control"

Part = tuple[int, int | None, slice]
"""Number of a chunk, its polarity, and rows of it."""


def inject(options: dict, step: Step) -> dict:
    """Copy of the model options of one question in whose model calls a step's operators act."""
    options = with_self_attention(options, step.layers, lambda call, attend: _attention(call, attend, step))
    if step.norms:
        options = pooling(options, lambda *seen: _norms(step, *seen), step.strength)
    if step.batch is not None and step.batch.uncontrolled:
        options = with_wrapper(options, WrappersMP.APPLY_MODEL, KEY, _first_uncontrolled)
    return options


def _attention(call: Call, attend: Attend, step: Step) -> Tensor:
    """The attention of a layer: each prediction's rows by themselves, joined in the order in which they came."""
    outputs = []
    tiles = call.q.shape[0] // call.k.shape[0]
    for index, polarity, rows in parts_of(step.polarities, call.options, call.k.shape[0]):
        q = call.q[rows.start * tiles : rows.stop * tiles]
        chunk = Chunk(call.layer, polarity, q, call.k[rows], call.v[rows], call.heads, attend)

        def masks(operator: Operator, index: int = index, q: Tensor = q) -> Tensor:
            return _token_masks(step, operator, call, index, q)

        outputs.append((rows.start, operate(chunk, step, masks)))
    outputs = [out for _, out in sorted(outputs, key=lambda pair: pair[0])]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def parts_of(polarities: Polarities, options: dict, rows: int) -> Iterator[Part]:
    """Rows of a model call by prediction; one prediction has several parts where tiles come first.

    Raises:
        StylizationError: the rows are no whole number of predictions.
    """
    chunks = options.get(CHUNKS)
    if chunks is not None:
        of_chunks = [chunk.polarity for chunk in chunks]
    else:
        of_chunks = [polarities[index] for index in options["cond_or_uncond"]]
    ranges = chunk_rows(len(of_chunks), rows, options.get(BATCH))
    for index, (polarity, found) in enumerate(zip(of_chunks, ranges, strict=True)):
        for part in found:
            yield index, polarity, part


def _mask_of(step: Step, operator: Operator, options: dict, chunk: int) -> Tensor:
    """An operator's masks for the part of the picture that a chunk is about, (B or 1, K, h, w).

    Raises:
        StylizationError: a node has cut the picture into tiles, and nobody knows where this one lies.
    """
    area = of_prompt(step.areas, options, chunk)
    height, width, y, x = area or (*step.size, 0, 0)
    seen = options.get("original_shape")
    if seen is not None and tuple(seen[-2:]) != (height, width):
        raise StylizationError(
            "mask",
            f"a model call is about {seen[-1]}x{seen[-2]} cells of a picture of {width}x{height}",
            "Remove the node that cuts the picture into tiles, or the mask",
            node=operator.settings.node,
        )
    return operator.mask[..., y : y + height, x : x + width]


def _token_masks(step: Step, operator: Operator, call: Call, chunk: int, q: Tensor) -> Tensor:
    """An operator's masks for the tokens of rows of queries, (B or 1, N, K).

    Raises:
        StylizationError: the tokens are not those of the layer's grid.
    """
    mask = per_token(_mask_of(step, operator, call.options, chunk), call)
    if mask.shape[1] != q.shape[1]:
        raise StylizationError(
            "mask",
            f"a layer has {q.shape[1]} tokens for a grid of {mask.shape[1]}",
            "Remove the node that merges or tiles tokens (ToMe, HyperTile), or the mask",
            node=operator.settings.node,
        )
    return mask.to(q)


def _norms(step: Step, name: str, own: GroupMoments, x: Tensor, options: dict) -> Pooled:
    """The references' moments of a group norm for every row, and where they count."""
    parts = list(parts_of(step.polarities, options, x.shape[0]))
    yield _pooled(step, name, own, parts, None), None
    for operator in {one: None for given in step.given.values() for one in given.shared if one.mask is not None}:
        if operator.sharing.norms:
            masks = [
                (rows.start, _mask_of(step, operator, options, index).expand(rows.stop - rows.start, -1, -1, -1))
                for index, _, rows in parts
            ]
            joined = torch.cat([mask for _, mask in sorted(masks, key=lambda pair: pair[0])])
            yield _pooled(step, name, own, parts, operator), on_grid(joined, x.shape[-2:]).to(x.device)


def _pooled(
    step: Step, name: str, own: GroupMoments, parts: Sequence[Part], operator: ReferenceSharing | None
) -> GroupMoments:
    """Moments for every row; one without a reference meets itself."""
    pooled = []
    for _, polarity, rows in parts:
        given = step.given.get(polarity, Given())
        references = given.everywhere() if operator is None else given.shared.get(operator, ())
        moments_of = [reference.norms(name) for reference in references]
        known = [one for one in moments_of if one is not None]
        pooled.append((rows.start, _mixed(known, own, slice(rows.start, rows.start + 1))))
        batch = step.batch
        if operator is None and batch is not None and batch.sharing.norms and polarity is not None:
            if batch.acts(polarity):
                first = GroupMoments(own.mean[rows][:1], own.var[rows][:1])
                known = [*known, (first, batch.sharing.weight)]
        pooled.append((rows.start + 1, _mixed(known, own, slice(rows.start + 1, rows.stop))))
    in_order = [moments for _, moments in sorted(pooled, key=lambda pair: pair[0])]
    return GroupMoments(*(torch.cat(column) for column in zip(*in_order, strict=True)))


def _mixed(given: Sequence[tuple[GroupMoments, float]], own: GroupMoments, rows: slice) -> GroupMoments:
    """The weighted mixture for some rows, their own moments where nothing is given."""
    own = GroupMoments(own.mean[rows], own.var[rows])
    if not given:
        return own
    pooled = group_mixture(*zip(*given, strict=True))
    return GroupMoments(*(part.expand(len(own.mean), -1) for part in pooled))


def _first_uncontrolled(executor, *args, **kwargs):
    """APPLY_MODEL wrapper: ControlNet residuals of the first picture of each prediction are zero."""
    named = "control" in kwargs
    control = kwargs["control"] if named else args[4] if len(args) > 4 else None
    if not control:
        return executor(*args, **kwargs)
    rows, options = args[0].shape[0], options_of(args, kwargs)
    chunks = chunk_rows(len(options["cond_or_uncond"]), rows, options.get(BATCH))
    firsts = [part.start for ranges in chunks for part in ranges]

    def freed(residual: Tensor | None) -> Tensor | None:
        if residual is None:
            return None
        residual = residual.expand(rows, *residual.shape[1:]).clone() if residual.shape[0] == 1 else residual.clone()
        for first in firsts:
            residual[first] = 0
        return residual

    control = {name: [freed(residual) for residual in residuals] for name, residuals in control.items()}
    if named:
        return executor(*args, **{**kwargs, "control": control})
    return executor(*args[:4], control, *args[5:], **kwargs)
