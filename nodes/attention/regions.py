"""StylizeRegion, StylizeClassAdaptiveAttention, StylizeRegionComposite: a style of its own for every region."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from comfy_api.latest import io

from ...stylization_core.composite import composite, reach
from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.attention import (
    REGIONS,
    Region,
    Regions,
    check_trained,
    with_attention_run,
)
from ...stylization_core.hosts.comfyui.model import attach_more, chosen_layers
from ...stylization_core.hosts.comfyui.references import RecordCache
from ...stylization_core.masks import feathered_inwards
from ..inputs import LAYERS_ACT, check_channels, check_unet, layer_inputs, mask_at, window_inputs
from ..training.class_adapter import ADAPTER
from .references import REFERENCE, mask_of

REGION = io.Custom("STYLIZE_REGIONS")
CLASS_ADAPTIVE = "Stylize Class-Adaptive Attention"
ATTENTION, HOLISTIC = "attention", "holistic"
STRICT = 20.0
"""From this adaptivity on a position sees its own region alone."""


class StylizeRegion(io.ComfyNode):
    """MASK + references -> STYLIZE_REGIONS."""

    DISPLAY_NAME = "Stylize Region"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeRegion",
            display_name=cls.DISPLAY_NAME,
            category="stylization/reference",
            description=(
                "A region of the picture and the reference whose style it takes. Chain as many as you like; where "
                "masks overlap, regions share the place."
            ),
            inputs=[
                io.Mask.Input("mask", tooltip="Where in the picture. Soft masks blend."),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.05,
                    max=5.0,
                    step=0.05,
                    tooltip="How much this region's style counts beside the others'.",
                ),
                REFERENCE.Input(
                    "reference",
                    optional=True,
                    tooltip="Style of the region. Without one the region stays as it is, and keeps the others out.",
                ),
                io.Mask.Input(
                    "reference_mask", optional=True, tooltip="Which part of the reference counts, for instance its sky."
                ),
                REGION.Input("previous", optional=True, tooltip="Regions besides this one."),
            ],
            outputs=[REGION.Output(display_name="REGIONS", tooltip="To Stylize Class-Adaptive Attention.")],
        )

    @classmethod
    def execute(cls, mask, weight, reference=None, reference_mask=None, previous=None) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            if not mask.isfinite().all():
                raise StylizationError("mask", "it holds NaN or infinite values", "Look at the node that made it")
            chosen = mask_of(reference_mask, "reference_mask")
            if chosen is not None and reference is None:
                raise StylizationError("reference_mask", "no reference is connected", "Connect the reference too")
            references = tuple(reference or ())
            if chosen is not None:
                # a cache holds what the reference gave under its own mask
                fresh = lambda one: one.cache and RecordCache(one.cache.limit)  # noqa: E731
                references = tuple(replace(one, mask=chosen, cache=fresh(one)) for one in references)
        return io.NodeOutput((*(previous or ()), Region(mask, references, weight)))


class StylizeClassAdaptiveAttention(io.ComfyNode):
    """Each region of a picture takes the style of its own reference."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeClassAdaptiveAttention",
            display_name=CLASS_ADAPTIVE,
            category="stylization/attention",
            description=(
                "Each region takes the style of its own reference while the picture is sampled, and the whole stays "
                "in harmony (class-adaptive cross-attention, without training)."
            ),
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL. It stays as it is."),
                REGION.Input("regions", tooltip="From Stylize Region."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How far regions go to their references. 0 is off.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[ATTENTION, HOLISTIC],
                    default=ATTENTION,
                    tooltip=(
                        "attention: positions look at a few tokens of the references. holistic: each region takes "
                        "mean and spread of its reference's features; faster, tone rather than detail."
                    ),
                ),
                io.Float.Input(
                    "adaptivity",
                    default=5.0,
                    min=0.0,
                    max=STRICT,
                    step=0.1,
                    tooltip=(
                        f"For attention: how strictly a position keeps to its own region. 0 is one pool for all, 5 "
                        f"nearly its own, {STRICT:g} its own alone."
                    ),
                ),
                io.Int.Input(
                    "tokens",
                    default=16,
                    min=2,
                    max=256,
                    tooltip="For attention: tokens that stand for each picture of a reference. More is more detail.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.5,
                    min=0.0,
                    max=16.0,
                    step=0.1,
                    tooltip="Width of soft borders between regions, in cells of the latent (8 pixels).",
                ),
                *layer_inputs(LAYERS_ACT),
                io.Float.Input(
                    "negative_ratio",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Strength under the negative prompt, beside that under the positive one.",
                ),
                *window_inputs(),
                ADAPTER.Input(
                    "adapter",
                    optional=True,
                    tooltip=(
                        "For attention: trained keys and values of the tokens, from Stylize Load or Train "
                        "Class-Adaptive Attention."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        regions,
        strength,
        mode,
        adaptivity,
        tokens,
        feather,
        layers,
        custom_layers,
        negative_ratio,
        start_percent,
        end_percent,
        adapter=None,
    ) -> io.NodeOutput:
        with naming(CLASS_ADAPTIVE):
            check_unet(model)
            chosen = chosen_layers(model.model.diffusion_model, layers, custom_layers)
            if adapter is not None:
                check_trained(adapter, "adapter", model, chosen)
                if mode == HOLISTIC:
                    found = f"it was trained for the mode {ATTENTION}, {HOLISTIC} has no tokens"
                    raise StylizationError("adapter", found, f"Choose the mode {ATTENTION}, or take it off")
            settings = Regions(
                regions=regions,
                layers=chosen,
                strength=strength,
                holistic=mode == HOLISTIC,
                adaptivity=math.inf if adaptivity >= STRICT else adaptivity,
                tokens=tokens,
                feather=feather,
                negative=negative_ratio,
                start=start_percent,
                end=end_percent,
                adapter=adapter,
                node=CLASS_ADAPTIVE,
            )
            if not any(one.weight != 0 for one in settings.references):
                raise StylizationError("regions", "none has a reference", "Connect a reference to a Stylize Region")
            for one in settings.references:
                check_channels(model, one.samples, "regions")
            if strength == 0:
                return io.NodeOutput(model)
            return io.NodeOutput(with_attention_run(attach_more(model, REGIONS, settings)))


class StylizeRegionComposite(io.ComfyNode):
    """The styled picture inside its regions, the original everywhere else."""

    DISPLAY_NAME = "Stylize Region Composite"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeRegionComposite",
            display_name=cls.DISPLAY_NAME,
            category="stylization/reference",
            description=(
                "Puts the styled picture into the original inside the regions that have a reference. Outside them the "
                "original stays as it is, to the last bit."
            ),
            inputs=[
                io.Image.Input("original", tooltip="The photo, or the picture of the same seed without regions."),
                io.Image.Input("styled", tooltip="The picture from Stylize Class-Adaptive Attention."),
                REGION.Input("regions", tooltip="The same as for the styled picture."),
                io.Float.Input(
                    "feather",
                    default=8.0,
                    min=0.0,
                    max=512.0,
                    step=1.0,
                    tooltip="Soft border in pixels, on the inner side of the regions.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The picture."),
                io.Mask.Output(display_name="MASK", tooltip="What was taken from the styled picture."),
            ],
        )

    @classmethod
    def execute(cls, original, styled, regions, feather) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            masks = [one.mask for one in regions if one.references]
            if not masks:
                raise StylizationError("regions", "none has a reference", "Connect a reference to a Stylize Region")
            size = original.shape[1:3]
            masks = [mask_at(mask.to(original), size) for mask in masks]
            rows = max(len(mask) for mask in masks)
            mask = feathered_inwards(reach(torch.stack([one.expand(rows, -1, -1) for one in masks])), feather)
            return io.NodeOutput(composite(original[..., :3], styled[..., :3].to(original), mask), mask)
