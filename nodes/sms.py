"""StylizeSMS: Style Matching Score in one node."""

import latent_preview
import torch
from comfy_api.latest import io

from ..stylization_core.errors import StylizationError, naming
from ..stylization_core.hosts.comfyui.sms import (
    StyleMatchingGuider,
    StyleMatchingSampler,
    dial,
    log_plan,
    progress_sigmas,
)
from ..stylization_core.hosts.comfyui.style_source import find_style
from .inputs import check_channels, latent_mask, latent_samples

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
    ) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            samples = latent_samples(latent_image)
            protected = _combined(latent_mask(mask, samples), latent_image.get("noise_mask"), samples)
            if steps < 1:
                raise StylizationError("steps", f"it is {steps}", "Set at least 1")
            style = find_style(model, style_model)
            check_channels(model, samples)
            reached = _resume(resume_latent, resume_step, samples, steps)
            if strength == 0 or dial(model.model_options) == 0:
                return io.NodeOutput(latent_image)
            sampler = StyleMatchingSampler(
                strength=strength,
                step_size=step_size,
                spectrum=spectrum,
                color=color_hold,
                blend=fake_blend,
                relevance_floor=relevance_floor if relevance == "precomputed" else None,
                start=resume_step,
                reached=reached,
            )
            guider = StyleMatchingGuider(model, style)
            conditionings = {"positive": positive, "negative": negative}
            if edit is not None:
                conditionings["edit"] = edit
            guider.inner_set_conds(conditionings)
            guider.set_cfg(cfg)
            log_plan(guider, steps, samples.shape[0])
            result = guider.sample(
                torch.zeros_like(samples),
                samples,
                sampler,
                progress_sigmas(steps, sampler.t_max, sampler.t_min, seed),
                denoise_mask=protected,
                callback=latent_preview.prepare_callback(model, steps),
                seed=seed,
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
        io.Int.Input(
            "steps",
            default=200,
            min=1,
            max=10000,
            tooltip="Iterations, each four model rows per picture (two at CFG 1). Published: 500.",
        ),
        io.Float.Input(
            "cfg",
            default=4.5,
            min=1.0,
            max=30.0,
            step=0.1,
            tooltip="Guidance of both predictions. Higher is more style, 1 halves the cost. Published: 4.5.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=4.0,
            step=0.05,
            tooltip="How far the picture travels towards the style. 0 returns the input itself.",
        ),
        io.Float.Input(
            "step_size",
            default=0.1,
            min=0.001,
            max=1.0,
            step=0.005,
            round=0.001,
            tooltip="Step of the optimiser in latent units after its warm-up. Published: 0.1 at 500 steps.",
        ),
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
            options=["precomputed", "off"],
            default="precomputed",
            tooltip="Act more where the style prompt matters: a map made once before the run, from the edit prompt.",
        ),
        io.Float.Input(
            "relevance_floor",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Least action anywhere when relevance is on. 1 acts everywhere alike.",
        ),
        io.Model.Input(
            "style_model",
            optional=True,
            tooltip="Instead of Stylize Style LoRA: the same checkpoint through Load LoRA, or a second checkpoint.",
        ),
        io.Conditioning.Input(
            "edit",
            optional=True,
            tooltip="Prompt for the relevance map, such as 'turn into watercolor'. The positive one if not connected.",
        ),
        io.Mask.Input(
            "mask", optional=True, tooltip="Where the picture may change; black stays exactly as it is in the latent."
        ),
        io.Latent.Input(
            "resume_latent",
            optional=True,
            tooltip="A .latent file that an interrupted run left in output/stylization, by Load Latent.",
        ),
        io.Int.Input(
            "resume_step",
            default=0,
            min=0,
            max=10000,
            optional=True,
            tooltip="With a resume latent: the step it stopped at (in its file name).",
        ),
        io.Float.Input(
            "color_hold",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="Share of the spectrum hold on the mean colour. 1 as published; lower lets the style's palette in.",
        ),
        io.Float.Input(
            "fake_blend",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            round=0.001,
            optional=True,
            tooltip=(
                "Share of the picture itself in the fake score. 0 is the frozen base model, which keeps pushing; "
                "0.05 to 0.2 lets the style settle and calms noise, more blurs."
            ),
        ),
    ]


def _combined(mask, noise_mask, samples):
    """The MASK and the latent's own noise mask, where both must allow a change."""
    own = latent_mask(noise_mask, samples, subject="latent_image")
    if mask is None or own is None:
        return own if mask is None else mask
    return mask * own


def _resume(resume_latent, resume_step: int, samples, steps: int):
    if resume_latent is None:
        if resume_step:
            raise StylizationError(
                "resume_step", f"it is {resume_step} but no resume_latent is connected", "Connect it, or set 0"
            )
        return None
    reached = latent_samples(resume_latent, "resume_latent")
    if reached.shape != samples.shape:
        raise StylizationError(
            "resume_latent",
            f"it is {tuple(reached.shape)}, latent_image is {tuple(samples.shape)}",
            "Connect the latent that the interrupted run of this picture saved",
        )
    if resume_step >= steps:
        raise StylizationError("resume_step", f"it is {resume_step} of {steps} steps", "Nothing is left to do")
    return reached
