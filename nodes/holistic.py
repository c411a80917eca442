"""StylizeHolisticInjector: the statistics of a reference carried into a picture while it is sampled."""

from comfy_api.latest import io

from ..stylization_core.errors import StylizationError, naming
from ..stylization_core.hosts.comfyui.attention_run import with_attention_run
from ..stylization_core.hosts.comfyui.families import detect
from ..stylization_core.hosts.comfyui.layers import ALL, LATE, PRESETS, STYLE, chosen_layers
from ..stylization_core.hosts.comfyui.settings import HOLISTIC, HOLISTIC_INJECTOR, Holistic, attach_more
from .inputs import check_channels, window_inputs
from .references import REFERENCE

BY_LIKENESS, SLIDER = "by likeness", "slider"
MOMENTS, QUANTILES = "moments", "quantiles"


class StylizeHolisticInjector(io.ComfyNode):
    """Attention outputs take the statistics of a reference's."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeHolisticInjector",
            display_name=HOLISTIC_INJECTOR,
            category="stylization/attention",
            description=(
                "Pictures take tone and texture of a reference as statistics of its features (Holistic Style "
                "Injector). Its cost grows with the pixels alone, so it suits large pictures, and nothing of the "
                "reference's layout can come along."
            ),
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL. It stays as it is."),
                REFERENCE.Input("reference", tooltip="From Stylize Reference or Stylize Invert Reference."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How far the statistics go to the reference's: 1 all the way, 0 is off.",
                ),
                io.Combo.Input(
                    "balance",
                    options=[BY_LIKENESS, SLIDER],
                    default=BY_LIKENESS,
                    tooltip=(
                        "by likeness: the more a layer's features are like the reference's already, the more is tone "
                        "alone, as published. slider: as tone says, everywhere."
                    ),
                ),
                io.Float.Input(
                    "tone",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="For slider. 1: tone alone, a shift of each channel. 0: contrast and texture too.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[MOMENTS, QUANTILES],
                    default=MOMENTS,
                    tooltip=(
                        "moments: mean and spread of each channel, the faster one. quantiles: the whole shape of its "
                        "distribution."
                    ),
                ),
                io.Combo.Input(
                    "layers",
                    options=list(PRESETS),
                    default=ALL,
                    tooltip=(
                        f"{ALL}: the most. {LATE}: the decoder's finest layers. {STYLE}: one block of the decoder, "
                        "the gentlest. custom: those listed below."
                    ),
                ),
                io.String.Input(
                    "custom_layers",
                    default="",
                    tooltip="For custom: blocks such as 'input.4, output.3-5, output.1.0', separated by commas.",
                ),
                io.Float.Input(
                    "negative_ratio",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Strength under the negative prompt, beside that under the positive one. At 1 guidance does "
                        "not amplify the style; lower is stronger, and coarser at a high CFG."
                    ),
                ),
                *window_inputs(),
                io.Mask.Input("mask", optional=True, tooltip="Where in the picture. Everywhere if not connected."),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        reference,
        strength,
        balance,
        tone,
        mode,
        layers,
        custom_layers,
        negative_ratio,
        start_percent,
        end_percent,
        mask=None,
    ) -> io.NodeOutput:
        with naming(HOLISTIC_INJECTOR):
            if not detect(model).unet:
                raise StylizationError(
                    "model",
                    f"the model family {type(model.model).__name__} has no UNet whose features could take a style",
                    "Load an SD 1.x, SD 2.x or SDXL checkpoint",
                )
            for one in reference:
                check_channels(model, one.samples, "reference")
            settings = Holistic(
                reference,
                chosen_layers(model.model.diffusion_model, layers, custom_layers),
                strength,
                None if balance == BY_LIKENESS else tone,
                mode == QUANTILES,
                negative_ratio,
                start_percent,
                end_percent,
                mask,
            )
            if strength == 0:
                return io.NodeOutput(model)
            return io.NodeOutput(with_attention_run(attach_more(model, HOLISTIC, settings)))
