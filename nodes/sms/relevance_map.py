"""StylizeRelevanceMap: where a prompt change acts, as a MASK that can be edited and combined."""

from __future__ import annotations

import latent_preview
from comfy_api.latest import io, ui

from ...stylization_core.errors import naming
from ...stylization_core.hosts.comfyui.model import detect
from ...stylization_core.hosts.comfyui.sms import RelevanceSampler, relevance_mask
from ..inputs import check_channels, latent_samples

DISPLAY_NAME = "Stylize Relevance Map"


class StylizeRelevanceMap(io.ComfyNode):
    """MODEL + LATENT + two prompts -> MASK."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeRelevanceMap",
            display_name=DISPLAY_NAME,
            category="stylization/sms",
            description=(
                "Asks the model where an edit prompt would change the picture, at several noise levels, and gives the "
                "average as a mask. Edit it or combine it with other masks, then connect it to Stylize Semantic "
                "Refiner or to the mask of Stylize SMS."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The base model."),
                io.Latent.Input("latent_image", tooltip="The picture, from VAE Encode."),
                io.Conditioning.Input("edit", tooltip="Prompt that names the change, such as 'turn into watercolor'."),
                io.Conditioning.Input("empty", tooltip="The empty prompt that it is compared with."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise.",
                ),
                io.Int.Input(
                    "noises",
                    default=2,
                    min=1,
                    max=32,
                    tooltip="Noises averaged at each of four levels; each costs eight model rows. More is calmer.",
                ),
                io.Float.Input(
                    "floor",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Smallest value of the mask. The refiner has a floor of its own.",
                ),
                io.Float.Input(
                    "clip",
                    default=2.0,
                    min=0.0,
                    max=40.0,
                    step=0.5,
                    tooltip="Percent of the cells cut off at both ends before scaling, so that no outlier rules.",
                ),
                io.Float.Input(
                    "blur",
                    default=0.7,
                    min=0.0,
                    max=16.0,
                    step=0.1,
                    tooltip="Softness in latent cells of eight pixels.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="MASK", tooltip="Bright where the prompt acts; in pixels.")],
        )

    @classmethod
    def execute(cls, model, latent_image, *, edit, empty, seed, noises, floor, clip, blur) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            detect(model)
            samples = latent_samples(latent_image)
            check_channels(model, samples)
            sampler = RelevanceSampler(noises=noises, floor=floor, percentile=clip, blur=blur)
            callback = latent_preview.prepare_callback(model, sampler.questions)
            mask = relevance_mask(model, samples, sampler, edit=edit, empty=empty, seed=seed, callback=callback)
        return io.NodeOutput(mask, ui=ui.PreviewMask(mask, cls=cls))
