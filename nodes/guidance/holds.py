"""StylizeSMSGuidance, StylizeSpectrumRegularizer, StylizeSemanticRefiner: what acts in the steps of a sampler."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.finite import check_finite
from ...stylization_core.hosts.comfyui.guidance import acting
from ...stylization_core.hosts.comfyui.model import attach_once, detect
from ...stylization_core.hosts.comfyui.sms import REFINEMENT, SPECTRUM, Refinement, SpectrumHold
from ..inputs import check_channels, latent_samples, window_inputs
from ..sms.inputs import FORMS, color_hold_input

CATEGORY = "stylization/sms"
OWN_INPUT = "The run's own input if not connected; needed where the sampler adds no noise to it."
"""Tooltip: what stands for a content that is not connected."""
REGULARIZER, REFINER = "Stylize Spectrum Regularizer", "Stylize Semantic Refiner"


class StylizeSpectrumRegularizer(io.ComfyNode):
    """A hold on the low frequencies of the content, in SMS and in ordinary sampling."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSpectrumRegularizer",
            display_name=REGULARIZER,
            category=CATEGORY,
            description=(
                "Holds layout and colour of a picture (the low frequencies of its latent) and lets go as the noise "
                "falls. Acts in Stylize SMS Sampler and in any ordinary sampler, for instance image to image."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that samples. It stays as it is."),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="In SMS: weight of the hold, 1 as published. Not used by ordinary samplers.",
                ),
                io.Float.Input(
                    "hold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "In ordinary samplers: share of the difference to the content taken back in the held band at "
                        "each step. 1 locks the band, 0 is off. Not used by SMS."
                    ),
                ),
                io.Float.Input(
                    "band",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the spectrum held at the highest noise of the run; it narrows from there.",
                ),
                io.Combo.Input(
                    "form",
                    options=FORMS,
                    default="gradient",
                    tooltip=("gradient: as published. proximal: small differences vanish and large ones nearly stay."),
                ),
                color_hold_input(),
                *window_inputs(),
                io.Latent.Input(
                    "content",
                    optional=True,
                    tooltip="Picture whose content is held in ordinary samplers. " + OWN_INPUT,
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler or to Stylize SMS Guider.")],
        )

    @classmethod
    def execute(
        cls, model, *, weight, hold, band, form, color_hold, start_percent, end_percent, content=None
    ) -> io.NodeOutput:
        with naming(REGULARIZER):
            detect(model)
            settings = SpectrumHold(
                weight=weight,
                proximal=form == "proximal",
                color=color_hold,
                band=band,
                hold=hold,
                start=start_percent,
                end=end_percent,
                content=content_samples(model, content),
                node=REGULARIZER,
            )
            return io.NodeOutput(acting(attach_once(model, SPECTRUM, settings, REGULARIZER)))


class StylizeSemanticRefiner(io.ComfyNode):
    """Places the change by a map, in SMS and in ordinary sampling."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSemanticRefiner",
            display_name=REFINER,
            category=CATEGORY,
            description=(
                "Lets the picture change where a map is bright: a mask of yours, the map of Stylize Relevance Map, or "
                "one made from an edit prompt. Acts in Stylize SMS Sampler and in any ordinary sampler."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that samples. It stays as it is."),
                io.Float.Input(
                    "floor",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Least action anywhere. 1 acts everywhere alike, 0 can freeze a region. Ordinary samplers obey "
                        "the map at every step, so 0.6 to 0.9 there; 0.1 suits SMS."
                    ),
                ),
                io.Combo.Input(
                    "map",
                    options=["precomputed", "live"],
                    default="precomputed",
                    tooltip=(
                        "With prompts instead of a mask. precomputed: one map before the run. live: a new one at each "
                        "step, as published, for two more model rows."
                    ),
                ),
                *window_inputs(),
                io.Mask.Input("mask", optional=True, tooltip="Where to act. Goes before the prompts."),
                io.Conditioning.Input(
                    "edit", optional=True, tooltip="Prompt that names the change, such as 'turn into watercolor'."
                ),
                io.Conditioning.Input("empty", optional=True, tooltip="The empty prompt that it is compared with."),
                io.Latent.Input(
                    "content",
                    optional=True,
                    tooltip="Picture that is left alone in ordinary samplers. " + OWN_INPUT,
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler or to Stylize SMS Guider.")],
        )

    @classmethod
    def execute(
        cls, model, *, floor, map, start_percent, end_percent, mask=None, edit=None, empty=None, content=None
    ) -> io.NodeOutput:
        with naming(REFINER):
            detect(model)
            if mask is None and (edit is None or empty is None):
                raise StylizationError(
                    "mask",
                    "it is not connected, and neither are both edit and empty",
                    "Connect a mask, or an edit prompt and an empty prompt to make a map from",
                )
            if mask is not None:
                check_finite(mask, "mask")
            settings = Refinement(
                floor=floor,
                mask=mask,
                edit=edit,
                empty=empty,
                live=map == "live",
                start=start_percent,
                end=end_percent,
                content=content_samples(model, content),
                node=REFINER,
            )
            return io.NodeOutput(acting(attach_once(model, REFINEMENT, settings, REFINER)))


def content_samples(model, latent: dict | None) -> Tensor | None:
    """The samples of a LATENT whose content is kept; None where none is connected.

    Raises:
        StylizationError: no encoded picture, or one for another kind of model.
    """
    if latent is None:
        return None
    samples = latent_samples(latent, "content")
    check_channels(model, samples, "content")
    return samples
