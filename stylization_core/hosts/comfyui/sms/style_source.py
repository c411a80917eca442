"""Find the two models of a style score: which rows are base, which are style, and whether they differ at all."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from ....errors import StylizationError
from ..model import Family, detect
from .style_branch import StyleBranch, attached, check, lifted, unmatched

REMEDY = (
    "Put 'Stylize Style LoRA' between the checkpoint and this node, or connect the checkpoint through 'Load LoRA' "
    "to style_model"
)


WIDTHS = {
    "prompts": "context_dim",
    "prompts of T5": "context_in_dim",
    "pooled prompts": "vec_in_dim",
    "size and pooled prompts": "adm_in_channels",
}
"""What one conditioning holds that both networks must take, and where a network's configuration says how wide it is."""


@dataclass(frozen=True)
class StyleSource:
    """Where the style prediction comes from; exactly one of ``branch`` and ``patcher`` is set.

    Attributes:
        family: of the base model.
        branch: deltas to add to the style rows of the base network.
        patcher: a second MODEL with a network of its own.
    """

    family: Family
    branch: StyleBranch | None = None
    patcher: object | None = None


def find_style(model, style_model=None) -> StyleSource:
    """Resolve the inputs of a node that compares a style with its base.

    Args:
        model: MODEL of the base, possibly carrying a style branch.
        style_model: MODEL of the style, or None when ``model`` carries it.

    Raises:
        StylizationError: no style, a style equal to the base, families that cannot be compared.
    """
    family = detect(model)
    if style_model is None:
        branch = attached(model)
        if branch is None:
            raise StylizationError("model", "it carries no style and style_model is not connected", REMEDY)
        return StyleSource(family, branch=_acting(model, branch))
    detect(style_model, subject="style_model")
    carried = attached(model)
    if carried is not None and carried is not attached(style_model):
        raise StylizationError(
            "model and style_model",
            f"model carries the style {carried.label}, and style_model is connected too",
            "Use one of the two: disconnect style_model, or take model from before 'Stylize Style LoRA'",
        )
    if model.is_clone(style_model):
        return StyleSource(family, branch=_lifted_from_clone(model, style_model))
    _comparable(model, style_model)
    if attached(style_model) is not None:
        check(style_model, attached(style_model))
    return StyleSource(family, patcher=style_model)


def _acting(model, branch: StyleBranch) -> StyleBranch:
    if all(delta.strength == 0 for parts in branch.deltas.values() for delta in parts):
        raise StylizationError("model", f"its style {branch.label} has strength 0", "Raise the strength of the LoRA")
    check(model, branch)
    return branch


def _lifted_from_clone(model, style_model) -> StyleBranch:
    branch = lifted(model, style_model)
    if not branch.deltas or all(delta.strength == 0 for parts in branch.deltas.values() for delta in parts):
        raise StylizationError(
            "model and style_model", "both are the same checkpoint with the same LoRAs, so no style is left", REMEDY
        )
    own = set(style_model.model_options["transformer_options"]) - set(model.model_options["transformer_options"])
    if own:
        logging.warning(
            "[Stylization] style_model also carries %s, which model lacks; only its LoRA weights are used. "
            "Put such nodes before the two models part.",
            ", ".join(sorted(own)),
        )
    return branch


def _comparable(model, style_model) -> None:
    ours, theirs = model.model.latent_format, style_model.model.latent_format
    if type(ours) is not type(theirs):
        raise StylizationError(
            "style_model",
            f"it works on {type(theirs).__name__} latents, model on {type(ours).__name__} latents",
            "Use two checkpoints of one family",
        )
    if detect(model).flow != detect(style_model, subject="style_model").flow:
        raise StylizationError(
            "style_model",
            "one of the two models is a flow model, the other is not, so they see different noise",
            "Use two checkpoints of one family",
        )
    for kind, key in WIDTHS.items():
        widths = [_config(patcher).get(key) for patcher in (style_model, model)]
        if widths[0] != widths[1]:
            raise StylizationError(
                "style_model",
                f"it is a {_kind(style_model)} and takes {kind} of width {widths[0]}, model is a {_kind(model)} and "
                f"takes {widths[1]}, so one prompt does not fit both",
                "Use two checkpoints of one family",
            )
    if _same_weights(model, style_model):
        raise StylizationError(
            "model and style_model", "two loaders loaded the same checkpoint, so no style is left", REMEDY
        )


def _config(patcher) -> dict:
    return getattr(patcher.model.model_config, "unet_config", {})


def _kind(patcher) -> str:
    """ComfyUI's name of a checkpoint's family, such as SD15 or SDXLRefiner."""
    return type(patcher.model.model_config).__name__


def _same_weights(model, other) -> bool:
    keys = {**model.patches, **other.patches}
    if attached(other) is not None or any(any(unmatched(model, other, key)) for key in keys):
        return False
    ours, theirs = _loaded_weights(model), _loaded_weights(other)
    return ours.keys() == theirs.keys() and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b.to(a.device))
        for a, b in ((ours[key], theirs[key]) for key in ours)
    )


def _loaded_weights(patcher) -> dict:
    """The network's weights as the loader read them, also while ComfyUI has patches written into them."""
    weights = {**patcher.model.state_dict(), **{key: kept.weight for key, kept in patcher.backup.items()}}
    return {key: weight for key, weight in weights.items() if key.startswith("diffusion_model.")}
