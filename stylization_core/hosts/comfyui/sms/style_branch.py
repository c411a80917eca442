"""A style as the difference between two sets of weights of one network, kept apart from the network.

ComfyUI patches weights: whoever loads a LoRA gets a model whose one set of weights is changed. SMS needs the styled
and the plain prediction in the same step, so the style's low-rank deltas are kept here and added to the rows of the
style prediction only (``row_gate``). They come from a LoRA file or are lifted from a clone of the base model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ....errors import StylizationError
from ....low_rank import NORMS

ATTACHMENT = "stylization.style"
ADDITIVE = ("lora", "loha", "lokr")
"""ComfyUI's names of the adapters whose weight delta does not depend on the weight they are added to."""


class Delta(NamedTuple):
    """One weight or bias delta, in the shape of ComfyUI's patch tuples.

    Attributes:
        strength: factor.
        value: a ComfyUI weight adapter, or ``("diff", (tensor,))``.
        offset: (dimension, start, length) of the part of a fused weight, or None for all of it.
        function: reordering of the delta, or None.
        magnitude: peft's DoRA length of each output's weights, (out,), or None. ComfyUI's adapters have a place of
            their own for the one of LyCORIS.
    """

    strength: float
    value: object
    offset: tuple[int, int, int] | None = None
    function: object = None
    magnitude: torch.Tensor | None = None

    @property
    def kind(self) -> str:
        """ComfyUI's name of the adapter, or "diff" / "set"."""
        name = getattr(self.value, "name", None)
        if name is not None:
            return name
        return self.value[0] if len(self.value) == 2 and isinstance(self.value[0], str) else "diff"


@dataclass(frozen=True)
class StyleBranch:
    """An immutable style on a model, travelling as an attachment.

    Attributes:
        label: what to call it in messages (a file name, a node).
        deltas: state-dict key of the model -> its deltas.
    """

    label: str
    deltas: dict[str, tuple[Delta, ...]]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, for memory estimates."""
        return sum(t.numel() * t.element_size() for parts in self.deltas.values() for d in parts for t in tensors(d))


def tensors(delta: Delta) -> Iterable[torch.Tensor]:
    """The tensors of a delta's value, in a fixed order."""
    weights = getattr(delta.value, "weights", None)
    if weights is None:
        weights = delta.value[1] if len(delta.value) == 2 else delta.value
    return [w for w in (weights if isinstance(weights, (tuple, list)) else (weights,)) if torch.is_tensor(w)]


def attach(patcher, branch: StyleBranch):
    """A clone of ``patcher`` that carries ``branch``; the deltas of a branch already there are kept beside it."""
    clone = patcher.clone()
    earlier = patcher.get_attachment(ATTACHMENT)
    clone.set_attachments(ATTACHMENT, branch if earlier is None else _merged(earlier, branch))
    return clone


def _merged(first: StyleBranch, second: StyleBranch) -> StyleBranch:
    keys = [*first.deltas, *(key for key in second.deltas if key not in first.deltas)]
    deltas = {key: first.deltas.get(key, ()) + second.deltas.get(key, ()) for key in keys}
    return StyleBranch(f"{first.label} + {second.label}", deltas)


def attached(patcher) -> StyleBranch | None:
    """The style branch on a MODEL, if any."""
    return patcher.get_attachment(ATTACHMENT)


def lifted(base, style) -> StyleBranch:
    """What only ``style`` has of two clones of one network, as a style branch: style's patches minus base's.

    Patches that both carry cancel; those that only base carries count negatively. An attached branch of ``style`` is
    added, so that both ways of making a style can be mixed.

    Raises:
        StylizationError: a patch cannot be lifted (it rescales the weight, or its delta depends on the weight).
    """
    deltas: dict[str, tuple[Delta, ...]] = {}
    for key in {**style.patches, **base.patches}:
        ours, theirs = unmatched(style, base, key)
        parts = [_delta(key, patch, 1.0) for patch in ours] + [_delta(key, patch, -1.0) for patch in theirs]
        if parts:
            deltas[key] = tuple(parts)
    branch = StyleBranch("the style model's LoRA", deltas)
    extra = attached(style)
    if extra is not None and extra is not attached(base):
        branch = _merged(branch, extra) if deltas else extra
    check(style, branch)
    return branch


def unmatched(first, second, key: str) -> tuple[list, list]:
    """The patches of a weight that only the first and only the second of two MODELs has."""
    ours, theirs = [], list(second.patches.get(key, ()))
    for patch in first.patches.get(key, ()):
        # by place: == on patches would compare their tensors
        twin = next((place for place, candidate in enumerate(theirs) if _same_patch(patch, candidate)), None)
        if twin is None:
            ours.append(patch)
        else:
            del theirs[twin]
    return ours, theirs


def _delta(key: str, patch, sign: float) -> Delta:
    strength, value, strength_model, offset, function = patch[:5]
    # another model's weights come as a list: the weight and the patches on it
    if strength_model != 1.0 or isinstance(value, list):
        merge = f"scales the model's own weight by {strength_model:g}"
        if strength_model == 1.0:
            merge = "adds another model's weights"
        raise StylizationError(
            "style_model",
            f"its patch of {key} {merge} (a merge, not a LoRA)",
            "Save the merge as a checkpoint and load that as the style model",
        )
    delta = Delta(sign * strength, value, offset, function)
    if sign < 0 and dora_scale(delta) is not None:
        raise StylizationError(
            "model",
            f"it carries a DoRA ({key}) that style_model lacks, and which cannot be taken back from rows",
            "Take both models from behind the same LoRAs, and put the style's behind the one for style_model",
        )
    return delta


def _same_patch(first, second) -> bool:
    """Equal effect: the same numbers at the same place. Two loaders of one file make equal, not identical, tensors."""
    if first is second:
        return True
    if first[0] != second[0] or first[2:4] != second[2:4] or first[4] is not second[4]:
        return False
    if first[1] is second[1]:
        return True
    if type(first[1]) is not type(second[1]):
        return False
    ours, theirs = Delta(1.0, first[1]), Delta(1.0, second[1])
    if ours.kind != theirs.kind or _numbers(ours) != _numbers(theirs):
        return False
    pairs = list(zip(tensors(ours), tensors(theirs), strict=True))
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _numbers(delta: Delta) -> list:
    """What is not a tensor in an adapter (alpha, shapes) and how many tensors it has."""
    weights = getattr(delta.value, "weights", None)
    weights = weights if isinstance(weights, (tuple, list)) else (weights,)
    return [None if torch.is_tensor(w) else w for w in weights]


def check(patcher, branch: StyleBranch) -> None:
    """Refuse, before anything runs, a branch whose deltas cannot act on rows of this network's modules.

    Raises:
        StylizationError: DoRA, GLoRA, OFT or another adapter whose delta depends on the weight; "set" patches; a
            delta on a module other than a linear layer, a convolution or a norm; shapes that do not fit.
    """
    for key, parts in branch.deltas.items():
        module_name, _, parameter = key.rpartition(".")
        try:
            module = patcher.model.get_submodule(module_name)
        except AttributeError:
            module = None
        weight = getattr(module, "weight", None)
        norm = isinstance(module, NORMS)
        known = weight is not None and (norm or (weight.ndim in (2, 4) and not isinstance(module, torch.nn.Embedding)))
        if not known or parameter not in ("weight", "bias") or getattr(module, parameter) is None:
            raise StylizationError(
                branch.label,
                f"it changes {key}, which is not the weight or bias of a linear layer, a 2-D convolution or a norm",
                "Use a LoRA that leaves embeddings alone, or load the style as a second checkpoint",
            )
        for delta in parts:
            _check_kind(branch.label, key, delta, weight)
        if sum(dora_scale(delta) is not None for delta in parts) > 1:
            found = f"two DoRA weights change {key}, of which each depends on the weights that the other makes"
            raise StylizationError(branch.label, found, "Use one DoRA file, or merge the first into a checkpoint")
        for delta in parts:
            if norm and delta.kind != "diff":
                raise StylizationError(
                    branch.label,
                    f"it holds {delta.kind} weights for the norm {key}",
                    "Extract it as a plain difference",
                )
            _check_shape(branch.label, key, delta, getattr(module, parameter))


def _check_kind(label: str, key: str, delta: Delta, weight: torch.Tensor) -> None:
    scale = dora_scale(delta)
    dora = scale is not None and not _by_output(delta, scale, weight)
    if dora or delta.kind not in (*ADDITIVE, "diff"):
        name = "DoRA" if dora else delta.kind
        raise StylizationError(
            label,
            f"it holds {name} weights ({key}), whose effect depends on the model's own weights and cannot be added "
            "to single rows of a batch",
            "Convert it to a plain LoRA, or merge it into a checkpoint and load that as the style model",
        )

    if delta.kind == "lora" and delta.value.weights[5] is not None:
        raise StylizationError(
            label,
            f"it enlarges the model's own weight ({key}: reshape_weight), so it belongs to another kind of base",
            "Load the style as a second checkpoint",
        )


def dora_scale(delta: Delta) -> torch.Tensor | None:
    """The DoRA magnitude of a delta, if it has one; each of ComfyUI's adapters keeps it at its own place."""
    if delta.magnitude is not None:
        return delta.magnitude
    place = {"lora": 4, "loha": 7, "lokr": 8}.get(delta.kind)
    return None if place is None else delta.value.weights[place]


def _by_output(delta: Delta, scale: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether a DoRA only scales outputs, which can be done to rows: a low-rank one with a length for each output, on
    weights whose length can be taken (those of a quantized network cannot).
    """
    outputs = weight.shape[0] if delta.offset is None else delta.offset[2]
    rows_alone = delta.offset is None or delta.offset[0] == 0
    plain = weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
    lengths = scale.numel() == outputs and (scale.ndim == 1 or scale.shape[0] == outputs)
    return delta.kind == "lora" and delta.function is None and rows_alone and plain and lengths


def _check_shape(label: str, key: str, delta: Delta, parameter) -> None:
    wanted = list(parameter.shape)
    if delta.offset is not None:
        wanted[delta.offset[0]] = delta.offset[2]
    shape = _delta_shape(delta)
    if shape is None or _flat(shape) == _flat(wanted):
        return
    raise StylizationError(
        label,
        f"its weights for {key} have shape {_flat(shape)}, the model's have {_flat(wanted)}",
        "Use a LoRA that was trained for this kind of base model",
    )


def _delta_shape(delta: Delta) -> list[int] | None:
    """Shape of the weight delta where it follows from the factors; None where only computing it would tell."""
    if delta.kind == "diff":
        return list(next(iter(tensors(delta))).shape)
    if delta.kind == "lora":
        up, down, _, mid = delta.value.weights[:4]
        kernel = list((mid if mid is not None else down).shape[2:])
        return [up.shape[0], down.shape[1], *kernel]
    if delta.kind == "loha":
        w1a, w1b, _, _, w2b, t1 = delta.value.weights[:6]
        return [w1a.shape[0], w1b.shape[1]] if t1 is None else None
    if delta.kind == "lokr":
        return _lokr_shape(delta.value.weights)
    return None


def _lokr_shape(weights) -> list[int] | None:
    w1, w2, _, w1a, w1b, w2a, w2b, t2 = weights[:8]
    if t2 is not None:
        return None
    first = w1.shape if w1 is not None else (w1a.shape[0], w1b.shape[1])
    second = _flat(list(w2.shape)) if w2 is not None else (w2a.shape[0], w2b.flatten(1).shape[1])
    return [first[0] * second[0], first[1] * second[1]]


def _flat(shape: list[int]) -> list[int]:
    """(out, in) of a weight: 1x1 kernels count as linear layers, kernels are unrolled."""
    if len(shape) < 2:
        return shape
    size = 1
    for length in shape[1:]:
        size *= length
    return [shape[0], size]
