"""StylizeConditioningBatch: a prompt for each picture of a batch."""

from __future__ import annotations

import math

import torch
from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming

DISPLAY_NAME = "Stylize Conditioning Batch"


class StylizeConditioningBatch(io.ComfyNode):
    """CONDITIONINGs -> one with a row per picture."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeConditioningBatch",
            display_name=DISPLAY_NAME,
            category="stylization/conditioning",
            description=(
                "Puts prompts one after another, so that the first picture of a batch gets the first prompt, the "
                "second the second. Chain as many as the batch has pictures, then apply ControlNets."
            ),
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt of the next picture."),
                io.Conditioning.Input("previous", optional=True, tooltip="The prompts of the pictures before it."),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING", tooltip="One prompt per picture.")],
        )

    @classmethod
    def execute(cls, conditioning, previous=None) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            if previous is None:
                _only_entry(conditioning, "conditioning")
                return io.NodeOutput(conditioning)
            first, second = _only_entry(previous, "previous"), _only_entry(conditioning, "conditioning")
            return io.NodeOutput([_joined(first, second)])


BY_PICTURE = ("pooled_output", "attention_mask", "conditioning_llama3")
"""Entries with a row for each picture."""

CONTROL = ("control", "control_apply_to_uncond")
"""Of the prompts before; those of the next one are refused with a message of their own."""

DEFAULTS = {
    "strength": 1.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "set_area_to_bounds": False,
    "mask_strength": 1.0,
}
"""What an entry means where it is not there."""

MEANINGS = {
    "hooks": "its hooks (LoRAs, say) are",
    "start_percent": "its time range is",
    "end_percent": "its time range is",
    "area": "its area is",
    "mask": "its mask is",
    "strength": "its strength is",
    "width": "its size is",
    "height": "its size is",
    "target_width": "its target size is",
    "target_height": "its target size is",
    "concat_latent_image": "the picture that it shows an inpainting or editing model is",
    "concat_mask": "the mask that it shows an inpainting model is",
}


def _check_common(options: dict, others: dict) -> None:
    """Refuse what a batch has one of for all its pictures, where two prompts differ in it.

    Raises:
        StylizationError: names the entry.
    """
    for key in sorted({*options, *others} - {*BY_PICTURE, *CONTROL, "uuid"}):
        default = DEFAULTS.get(key)
        if not _equal(options.get(key, default), others.get(key, default)):
            raise StylizationError(
                "conditioning",
                f"{MEANINGS.get(key, f'its entry {key!r} is')} not that of previous, and a batch has one for all",
                "Batch plain prompts, and set it for all of them behind this node",
            )


def _equal(one: object, other: object) -> bool:
    """Equality of nested sequences, dicts and tensors; other objects go by their own."""
    if one is other:
        return True
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        return both and one.shape == other.shape and bool((one == other.to(one)).all())
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _only_entry(conditioning, subject: str):
    if len(conditioning) != 1:
        raise StylizationError(
            subject, f"it combines {len(conditioning)} prompts", "Batch plain prompts, and combine what comes out"
        )
    if conditioning[0][1].get("control") is not None and subject == "conditioning":
        raise StylizationError(subject, "a ControlNet is applied to it", "Apply ControlNets behind this node")
    return conditioning[0]


def _joined(first, second):
    """One entry with the rows of both.

    Raises:
        StylizationError: prompts of different text encoders, masked ones of different length, or prompts that act
            elsewhere, at other times, at another size or with other LoRAs.
    """
    tokens, options = first
    more, others = second
    if tokens.shape[2:] != more.shape[2:]:
        raise StylizationError(
            "conditioning",
            f"its text features have {more.shape[-1]} channels, those of previous {tokens.shape[-1]}",
            "Encode all prompts with the same CLIP",
        )
    length = math.lcm(tokens.shape[1], more.shape[1])
    if tokens.shape[1] != more.shape[1] and "attention_mask" in {**options, **others}:
        raise StylizationError(
            "conditioning",
            f"it has {more.shape[1]} tokens, previous {tokens.shape[1]}, and this text encoder masks them",
            "Make the prompts equally long",
        )
    _check_common(options, others)
    # attention to whole repetitions is the same as to one
    rows = torch.cat([each.repeat(1, length // each.shape[1], 1) for each in (tokens, more)])
    joined = dict(options)
    for key in BY_PICTURE:
        one, other = options.get(key), others.get(key)
        if (one is None) != (other is None):
            raise StylizationError(
                "conditioning", f"only one of the prompts has '{key}'", "Encode all prompts with the same CLIP"
            )
        if one is not None:
            joined[key] = torch.cat([one, other])
    return [rows, joined]
