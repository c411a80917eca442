"""StylizeSaveStyleCard, StylizeLoadStyleCard: the statistics of a style as a small file."""

from __future__ import annotations

import logging

import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.attention import StyleCardSampler
from ...stylization_core.hosts.comfyui.model import STYLE, at_dial, check_prefix, chosen_layers, saved_in_any_case
from ...stylization_core.style_card import load, save
from ..files import changed, found, listed, register
from ..inputs import check_channels, check_unet, layer_inputs
from .references import REFERENCE

STYLE_CARD = io.Custom("STYLIZE_STYLE_CARD")
CATEGORY = "stylization/reference"
FOLDER = "style_cards"
MOMENTS, QUANTILES = "moments", "quantiles"

register(FOLDER)


class StylizeSaveStyleCard(io.ComfyNode):
    """References -> a file with their statistics."""

    DISPLAY_NAME = "Stylize Save Style Card"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSaveStyleCard",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "Writes the statistics of a style as a small file without pixels, for any model of the same family. "
                "The model sees the references at a few noise levels, once."
            ),
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x or SDXL; the card belongs to its family."),
                REFERENCE.Input("reference", tooltip="One or several references, which make one style."),
                io.Conditioning.Input("positive", tooltip="Prompt for references that have none of their own."),
                io.Conditioning.Input("negative", tooltip="Negative prompt, usually empty."),
                io.String.Input(
                    "filename_prefix",
                    default=f"{FOLDER}/style",
                    tooltip=f"In the output folder. Cards below {FOLDER} can be loaded at once.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[MOMENTS, QUANTILES],
                    default=MOMENTS,
                    tooltip="moments: four numbers per channel and level. quantiles: 37, for the mode of that name.",
                ),
                io.Int.Input(
                    "levels",
                    default=8,
                    min=1,
                    max=50,
                    tooltip="Noise levels, spread evenly over the model's schedule. Two model calls each.",
                ),
                *layer_inputs(
                    "Which layers the card holds. The style block alone is small; all works in every setting.", STYLE
                ),
            ],
            outputs=[STYLE_CARD.Output(display_name="CARD", tooltip="To Stylize Holistic Injector.")],
        )

    @classmethod
    def execute(
        cls, model, reference, positive, negative, filename_prefix, mode, levels, layers, custom_layers
    ) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            check_unet(model)
            for one in reference:
                check_channels(model, one.samples, "reference")
            if not any(one.weight != 0 for one in reference):
                raise StylizationError("reference", "all weights are 0", "Give one a weight above 0")
            chosen = chosen_layers(model.model.diffusion_model, layers, custom_layers)
            check_prefix(filename_prefix)
        sampler = StyleCardSampler(reference, chosen, mode == QUANTILES, levels)
        # the record is the plain model's: what our nodes do on this MODEL is for the pictures
        guider = comfy.samplers.CFGGuider(at_dial(model, 0.0))
        guider.set_conds(positive, negative)
        blank = torch.zeros_like(reference[0].samples)
        callback = latent_preview.prepare_callback(model, levels)
        guider.sample(blank, blank, sampler, torch.tensor([1.0, 0.0]), callback=callback, seed=0)
        path = saved_in_any_case(filename_prefix, "the card", lambda path: save(sampler.card, path))
        logging.info("[Stylization] style card %s: %.2f MB", path.name, path.stat().st_size / 1e6)
        return io.NodeOutput(((sampler.card, 1.0),))


class StylizeLoadStyleCard(io.ComfyNode):
    """A file -> STYLIZE_STYLE_CARD."""

    DISPLAY_NAME = "Stylize Load Style Card"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeLoadStyleCard",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "A style from a card, without its pictures. Chain several to mix them; a negative weight leads away "
                "from a style."
            ),
            inputs=[
                io.Combo.Input(
                    "card_name",
                    options=listed(FOLDER),
                    tooltip=f"From models/{FOLDER} or output/{FOLDER}.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-5.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Share of this card among those chained; their sum counts as 1. Negative leads away.",
                ),
                STYLE_CARD.Input("previous", optional=True, tooltip="Cards to mix this one with."),
            ],
            outputs=[STYLE_CARD.Output(display_name="CARD", tooltip="To Stylize Holistic Injector.")],
        )

    @classmethod
    def execute(cls, card_name, weight, previous=None) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            path = found(FOLDER, card_name, "card_name")
            return io.NodeOutput((*(previous or ()), (load(path), weight)))

    @classmethod
    def fingerprint_inputs(cls, card_name, weight, previous=None):
        """A file saved anew under its name is read again."""
        return changed(FOLDER, card_name)
