"""Stylize SMS Guidance: the style score in an ordinary sampler."""

from __future__ import annotations

from comfy_api.latest import io

from ...stylization_core.errors import naming
from ...stylization_core.hosts.comfyui.guidance import GUIDANCE, ScoreGuidance, acting, log_guidance
from ...stylization_core.hosts.comfyui.model import attach_once
from ...stylization_core.hosts.comfyui.sms import SECOND_MODEL, find_style
from ..inputs import window_inputs
from ..sms.inputs import style_model_input
from .holds import CATEGORY

DISPLAY_NAME = "Stylize SMS Guidance"


class StylizeSMSGuidance(io.ComfyNode):
    """The style score inside an ordinary sampling run."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSMSGuidance",
            display_name=DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "Adds the style score of a LoRA to the steps of KSampler and its relatives: a stylization in 20 to 30 "
                "steps. 'edit' starts at the picture in latent_image and follows the score alone, which keeps content; "
                "'add' adds the score to ordinary guidance."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The base model, with the style attached by Stylize Style LoRA."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Factor on the style score. 1 is the score itself, 0 is off.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["edit", "add"],
                    default="edit",
                    tooltip=(
                        "edit: change the input picture by the score alone, two model rows a step at any CFG; needs a "
                        "picture in latent_image. add: the score on top of the ordinary prediction, three rows."
                    ),
                ),
                *window_inputs(),
                style_model_input(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler.")],
        )

    @classmethod
    def execute(cls, model, *, strength, mode, start_percent, end_percent, style_model=None) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            settings = ScoreGuidance(
                style=find_style(model, style_model),
                strength=strength,
                edit=mode == "edit",
                start=start_percent,
                end=end_percent,
                node=DISPLAY_NAME,
            )
            clone = attach_once(model, GUIDANCE, settings, DISPLAY_NAME)
        if strength == 0:
            return io.NodeOutput(model)
        if settings.style.patcher is not None:
            clone.set_additional_models(SECOND_MODEL, [settings.style.patcher])
        log_guidance(settings)
        return io.NodeOutput(acting(clone))
