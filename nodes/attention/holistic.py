"""StylizeHolisticInjector: the statistics of a reference carried into a picture while it is sampled."""

from __future__ import annotations

from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.attention import (
    HOLISTIC,
    Holistic,
    check_family,
    check_trained,
    with_attention_run,
)
from ...stylization_core.hosts.comfyui.model import attach_more, chosen_layers
from ...stylization_core.style_card import mixed
from ..inputs import LAYERS_ACT, check_channels, check_unet, layer_inputs, window_inputs
from ..training.injector import INJECTOR
from .references import REFERENCE
from .style_cards import MOMENTS, QUANTILES, STYLE_CARD

HOLISTIC_INJECTOR = "Stylize Holistic Injector"
BY_LIKENESS, SLIDER = "by likeness", "slider"


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
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip=(
                        "How far the statistics go to the reference's: 1 all the way, 0 is off. Trained injectors are "
                        "careful and often want 2 or more."
                    ),
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
                *layer_inputs(LAYERS_ACT),
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
                REFERENCE.Input(
                    "reference", optional=True, tooltip="From Stylize Reference or Stylize Invert Reference."
                ),
                STYLE_CARD.Input(
                    "card", optional=True, tooltip="From Stylize Load Style Card, in the place of a reference."
                ),
                io.Mask.Input("mask", optional=True, tooltip="Where in the picture. Everywhere if not connected."),
                INJECTOR.Input(
                    "injector",
                    optional=True,
                    tooltip=(
                        "A trained one, from Stylize Load or Train Holistic Injector. It decides in the place of "
                        "balance, tone and mode, in those of layers that it knows, and wants a reference."
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        strength,
        balance,
        tone,
        mode,
        layers,
        custom_layers,
        negative_ratio,
        start_percent,
        end_percent,
        reference=None,
        card=None,
        mask=None,
        injector=None,
    ) -> io.NodeOutput:
        with naming(HOLISTIC_INJECTOR):
            check_unet(model)
            if (reference is None) == (card is None):
                found = "both are connected" if card is not None else "neither it nor card is connected"
                raise StylizationError("reference", found, "Connect a reference or a style card")
            if injector is not None and card is not None:
                found = "a card is connected, which keeps too little of a style for a trained injector"
                raise StylizationError("injector", found, "Connect a reference in the place of the card")
            for one in reference or ():
                check_channels(model, one.samples, "reference")
            chosen = chosen_layers(model.model.diffusion_model, layers, custom_layers)
            if injector is not None:
                chosen = check_trained(injector, "injector", model, chosen)
            style = None if card is None else mixed(*zip(*card, strict=True))
            settings = Holistic(
                references=tuple(reference or ()),
                layers=chosen if style is None else check_family(style, model, chosen),
                strength=strength,
                tone=None if balance == BY_LIKENESS else tone,
                table=mode == QUANTILES,
                negative=negative_ratio,
                start=start_percent,
                end=end_percent,
                mask=mask,
                card=style,
                injector=injector,
                node=HOLISTIC_INJECTOR,
            )
            if style is not None and settings.table and any(one.quantiles is None for one in style.layers.values()):
                raise StylizationError(
                    "mode", "the card was saved with moments alone", "Choose moments, or save it with quantiles"
                )
            if strength == 0:
                return io.NodeOutput(model)
            return io.NodeOutput(with_attention_run(attach_more(model, HOLISTIC, settings)))
