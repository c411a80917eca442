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
        StylizationError: prompts of different text encoders, or masked ones of different length.
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
    # attention to whole repetitions is the same as to one
    rows = torch.cat([each.repeat(1, length // each.shape[1], 1) for each in (tokens, more)])
    joined = dict(options)
    for key in ("pooled_output", "attention_mask", "conditioning_llama3"):
        one, other = options.get(key), others.get(key)
        if (one is None) != (other is None):
            raise StylizationError(
                "conditioning", f"only one of the prompts has '{key}'", "Encode all prompts with the same CLIP"
            )
        if one is not None:
            joined[key] = torch.cat([one, other])
    return [rows, joined]
