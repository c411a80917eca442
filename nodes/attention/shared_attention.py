"""StylizeSharedAttention, StylizeSharedAttentionBatch: StyleAligned in any sampler."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ...stylization_core.errors import naming
from ...stylization_core.hosts.comfyui.attention import (
    SHARED,
    SHARED_BATCH,
    SharedAttention,
    SharedBatch,
    Sharing,
    reference_memory,
    with_attention_run,
)
from ...stylization_core.hosts.comfyui.model import attach_more, attach_once, chosen_layers
from ..inputs import check_channels, check_unet, layer_inputs, window_inputs
from .references import REFERENCE

CATEGORY = "stylization/attention"
SHARED_ATTENTION = "Stylize Shared Attention"
SHARED_ATTENTION_BATCH = "Stylize Shared Attention (Batch)"


def _strength_inputs() -> list:
    return [
        io.Float.Input(
            "weight",
            default=1.0,
            min=0.0,
            max=20.0,
            step=0.05,
            tooltip=(
                "How much attention goes to the reference: at 1 about half, at 2 two thirds. 2 suits a real picture. "
                "0 is off."
            ),
        ),
        io.Float.Input(
            "score_scale",
            default=1.0,
            min=0.0,
            max=2.0,
            step=0.01,
            tooltip=(
                "Factor on the scores of the reference alone. Below 1 a very famous picture is copied less; 0.5 to 1."
            ),
        ),
        io.Float.Input(
            "adain_queries",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="How far the picture's queries take the statistics of the reference (AdaIN). 1 as published.",
        ),
        io.Float.Input(
            "adain_keys",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="How far the picture's keys take the statistics of the reference (AdaIN). 1 as published.",
        ),
    ]


def _layer_inputs() -> list:
    return [
        *layer_inputs(
            "all: as published. visual style prompting: the decoder's finest layers, more texture, less layout. "
            "style block: one block of the decoder, the gentlest. custom: those listed below."
        ),
        io.Combo.Input(
            "polarities",
            options=["both", "positive"],
            default="both",
            tooltip="Share under both prompts, as published, or under the positive one only.",
        ),
        io.Boolean.Input(
            "share_norms",
            default=False,
            tooltip="Share the statistics of group norms too: more of the reference's colour and contrast.",
        ),
    ]


def _sharing(
    model,
    node: str,
    *,
    weight: float,
    score_scale: float,
    adain_queries: float,
    adain_keys: float,
    mode: str,
    layers: str,
    custom_layers: str,
    polarities: str,
    share_norms: bool,
    start_percent: float,
    end_percent: float,
) -> Sharing:
    """What the inputs that both nodes have come to."""
    check_unet(model)
    return Sharing(
        layers=chosen_layers(model.model.diffusion_model, layers, custom_layers),
        weight=weight,
        score_scale=score_scale,
        adain_query=adain_queries,
        adain_key=adain_keys,
        swap=mode == "swap",
        both=polarities == "both",
        norms=share_norms,
        start=start_percent,
        end=end_percent,
        node=node,
    )


class StylizeSharedAttention(io.ComfyNode):
    """Pictures share self-attention with a reference from outside."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSharedAttention",
            display_name=SHARED_ATTENTION,
            category=CATEGORY,
            description=(
                "Pictures take the style of a reference by attending to it while they are sampled (StyleAligned). "
                "Works in any sampler, with ControlNet, at any size and batch; several of these nodes act together, "
                "each in its own mask if it has one."
            ),
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL. It stays as it is."),
                REFERENCE.Input("reference", tooltip="From Stylize Reference or Stylize Invert Reference."),
                *_strength_inputs(),
                io.Combo.Input(
                    "mode",
                    options=["share", "swap"],
                    default="share",
                    tooltip=(
                        "share: the reference's tokens besides the picture's own. swap: in their place (visual style "
                        "prompting), stronger."
                    ),
                ),
                *_layer_inputs(),
                *window_inputs(),
                io.Mask.Input("mask", optional=True, tooltip="Where in the picture. Everywhere if not connected."),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler.")],
        )

    @classmethod
    def execute(cls, model, reference, mask=None, **sharing) -> io.NodeOutput:
        with naming(SHARED_ATTENTION):
            how = _sharing(model, SHARED_ATTENTION, **sharing)
            for one in reference:
                check_channels(model, one.samples, "reference")
            if how.weight == 0:
                return io.NodeOutput(model)
            rows = 2 * sum(len(one.samples) for one in reference if one.weight != 0)
            logging.info(
                "[Stylization] shared attention: %d more model rows a step, in %d layers; keeps %.0f MiB",
                rows if how.both else rows // 2,
                len(how.layers),
                reference_memory(model, reference, how.layers) / 2**20,
            )
            settings = SharedAttention(reference, how, mask)
            return io.NodeOutput(with_attention_run(attach_more(model, SHARED, settings)))


class StylizeSharedAttentionBatch(io.ComfyNode):
    """The pictures of a batch share self-attention with the first one."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSharedAttentionBatch",
            display_name=SHARED_ATTENTION_BATCH,
            category=CATEGORY,
            description=(
                "A series in one style: every picture of the batch attends to the first one (StyleAligned). Give each "
                "its prompt with Stylize Conditioning Batch. The first picture is what it would be alone."
            ),
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL. It stays as it is."),
                *_strength_inputs(),
                io.Combo.Input(
                    "mode",
                    options=["share", "swap", "full"],
                    default="share",
                    tooltip=(
                        "share: with the first picture, as published. swap: its tokens in the place of the others' "
                        "own. full: all with all, more alike and less like their prompts; weights and AdaIN are not "
                        "used."
                    ),
                ),
                *_layer_inputs(),
                *window_inputs(),
                io.Boolean.Input(
                    "control_first",
                    default=False,
                    tooltip="Let ControlNets act on the first picture too. Off as published: it only gives the style.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler.")],
        )

    @classmethod
    def execute(cls, model, mode, control_first, **sharing) -> io.NodeOutput:
        with naming(SHARED_ATTENTION_BATCH):
            how = _sharing(model, SHARED_ATTENTION_BATCH, mode=mode, **sharing)
            settings = SharedBatch(how, full=mode == "full", uncontrolled=not control_first)
            clone = attach_once(model, SHARED_BATCH, settings, SHARED_ATTENTION_BATCH)
        return io.NodeOutput(model if how.weight == 0 else with_attention_run(clone))
