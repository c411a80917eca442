"""StylizeSMS: Style Matching Score in one node."""

from __future__ import annotations

import latent_preview
from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.model import dial
from ...stylization_core.hosts.comfyui.sms import (
    FakeScore,
    Refinement,
    SpectrumHold,
    StyleMatchingSampler,
    WholeRun,
    find_style,
    match_style,
)
from ...stylization_core.masks import latent_mask
from ..inputs import check_channels, latent_samples
from .inputs import (
    FORMS,
    cfg_input,
    color_hold_input,
    content_pull_input,
    fake_blend_input,
    fake_score_input,
    resume_inputs,
    resumed,
    source_input,
    step_scale_input,
    step_size_input,
    steps_input,
    strength_input,
    style_model_input,
)

DISPLAY_NAME = "Stylize SMS"


class StylizeSMS(io.ComfyNode):
    """A picture's latent moved along the style matching score of a LoRA."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSMS",
            display_name=DISPLAY_NAME,
            category="stylization/sms",
            description=(
                "Gives a photograph the style of a LoRA and keeps its content (Style Matching Score). The latent is "
                "optimised along the difference between the styled and the plain prediction at low noise, while its "
                "low frequencies are held."
            ),
            inputs=_inputs(),
            outputs=[io.Latent.Output(display_name="LATENT", tooltip="The stylized picture, to VAE Decode.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        *,
        positive,
        negative,
        latent_image,
        seed,
        steps,
        cfg,
        strength,
        step_size,
        spectrum,
        relevance,
        relevance_floor,
        style_model=None,
        edit=None,
        mask=None,
        resume_latent=None,
        resume_step=0,
        color_hold=1.0,
        fake_blend=0.0,
        fake_score="frozen",
        source=None,
        spectrum_form="gradient",
        content_pull=0.0,
        step_scale="per element",
    ) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            samples = latent_samples(latent_image)
            free = _combined(latent_mask(mask, samples), latent_image.get("noise_mask"), samples)
            if steps < 1:
                raise StylizationError("steps", f"it is {steps}", "Set at least 1")
            style = find_style(model, style_model)
            check_channels(model, samples)
            resume = resumed(resume_latent, resume_step)
            if strength == 0 or dial(model.model_options) == 0:
                return io.NodeOutput(latent_image)
            sampler = StyleMatchingSampler(
                strength=strength,
                step_size=step_size,
                pull=content_pull,
                shared=step_scale == "per picture",
                spectrum=SpectrumHold(weight=spectrum, proximal=spectrum_form == "proximal", color=color_hold),
                refinement=None if relevance == "off" else Refinement(relevance_floor, live=relevance == "live"),
                start=resume_step,
                resume=resume,
            )
            fake = FakeScore(trained=fake_score == "trained", blend=fake_blend)
            result = match_style(
                model,
                style,
                samples,
                {"positive": positive, "negative": negative, "edit": edit, "source": source},
                WholeRun(sampler=sampler, fake=fake, steps=steps, cfg=cfg, seed=seed),
                mask=free,
                callback=latent_preview.prepare_callback(model, steps),
            )
        return io.NodeOutput({**latent_image, "samples": result.to(samples.device)})


def _inputs() -> list:
    return [
        io.Model.Input("model", tooltip="The base model, with the style attached by Stylize Style LoRA."),
        io.Conditioning.Input("positive", tooltip="Style words of the LoRA, then what the picture shows."),
        io.Conditioning.Input("negative", tooltip="Usually an empty prompt. Not used at CFG 1."),
        io.Latent.Input("latent_image", tooltip="The photograph, from VAE Encode. A noise mask on it is honoured."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="Seed of noise levels and noise. The result depends little on it.",
        ),
        steps_input(),
        cfg_input(),
        strength_input(),
        step_size_input(),
        io.Float.Input(
            "spectrum",
            default=1.0,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Hold on layout and colour (low frequencies), loosened as the run goes on. 1 as published, 0 off.",
        ),
        io.Combo.Input(
            "relevance",
            options=["precomputed", "off", "live"],
            default="precomputed",
            tooltip=(
                "Act more where the style prompt matters, by a map from the edit prompt. precomputed: made once before "
                "the run. live: made anew at each step, as published, for two more model rows."
            ),
        ),
        io.Float.Input(
            "relevance_floor",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Least action anywhere when relevance is on. 1 acts everywhere alike.",
        ),
        style_model_input(),
        io.Conditioning.Input(
            "edit",
            optional=True,
            tooltip="Prompt for the relevance map, such as 'turn into watercolor'. The positive one if not connected.",
        ),
        io.Mask.Input(
            "mask", optional=True, tooltip="Where the picture may change; black stays exactly as it is in the latent."
        ),
        *resume_inputs(),
        color_hold_input(optional=True),
        fake_blend_input(),
        fake_score_input(),
        source_input(),
        io.Combo.Input(
            "spectrum_form",
            options=FORMS,
            default="gradient",
            optional=True,
            tooltip="How the spectrum hold acts. gradient: as published. proximal: exact, without chatter around zero.",
        ),
        content_pull_input(),
        step_scale_input(),
    ]


def _combined(mask, noise_mask, samples):
    """The MASK and the latent's own noise mask, where both must allow a change."""
    own = latent_mask(noise_mask, samples, subject="latent_image")
    if mask is None or own is None:
        return own if mask is None else mask
    return mask * own
