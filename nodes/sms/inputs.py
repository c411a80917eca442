"""Inputs that several SMS nodes offer, so that they read and default alike."""

from __future__ import annotations

from comfy_api.latest import io

from ...stylization_core.errors import StylizationError
from ..inputs import latent_samples

FAKE_SCORES = ["frozen", "trained"]
FORMS = ["gradient", "proximal"]
STEP_SCALES = ["per element", "per picture"]


def strength_input() -> io.Float.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=0.0,
        max=4.0,
        step=0.05,
        tooltip="How far the picture travels towards the style. 0 returns the input itself.",
    )


def step_size_input() -> io.Float.Input:
    return io.Float.Input(
        "step_size",
        default=0.1,
        min=0.001,
        max=1.0,
        step=0.005,
        round=0.001,
        tooltip="Step of the optimiser in latent units after its warm-up. Published: 0.1 at 500 steps.",
    )


def cfg_input() -> io.Float.Input:
    return io.Float.Input(
        "cfg",
        default=4.5,
        min=1.0,
        max=30.0,
        step=0.1,
        tooltip="Guidance of both predictions. Higher is more style, 1 halves the cost. Published: 4.5.",
    )


def steps_input() -> io.Int.Input:
    return io.Int.Input(
        "steps",
        default=200,
        min=1,
        max=10000,
        tooltip="Iterations, each four model rows per picture (two at CFG 1). Published: 500.",
    )


def style_model_input() -> io.Model.Input:
    return io.Model.Input(
        "style_model",
        optional=True,
        tooltip="Instead of Stylize Style LoRA: the same checkpoint through Load LoRA, or a second checkpoint.",
    )


def source_input() -> io.Conditioning.Input:
    return io.Conditioning.Input(
        "source",
        optional=True,
        tooltip="Prompt of the fake score, such as the content without style words. The positive one if not connected.",
    )


def fake_score_input() -> io.Combo.Input:
    return io.Combo.Input(
        "fake_score",
        options=FAKE_SCORES,
        default="frozen",
        optional=True,
        tooltip=(
            "What the style is compared with. frozen: the base model. trained: as published, a small LoRA on a private "
            "copy of the base learns the picture as it changes; twice the time, one more copy of the model in memory."
        ),
    )


def fake_blend_input() -> io.Float.Input:
    return io.Float.Input(
        "fake_blend",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.01,
        round=0.001,
        optional=True,
        tooltip=(
            "Share of the picture itself in the fake score. 0 is the base model alone, which keeps pushing; "
            "0.05 to 0.2 lets the style settle and calms noise, more blurs."
        ),
    )


def color_hold_input(**where) -> io.Float.Input:
    return io.Float.Input(
        "color_hold",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip="Share of the spectrum hold on the mean colour. 1 as published; lower lets the style's palette in.",
        **where,
    )


def content_pull_input() -> io.Float.Input:
    return io.Float.Input(
        "content_pull",
        default=0.0,
        min=0.0,
        max=10.0,
        step=0.01,
        round=0.001,
        optional=True,
        tooltip=(
            "Weight decay towards the input picture. 0 is none. The published code decays towards grey (0.01), which "
            "this node does not do."
        ),
    )


def step_scale_input() -> io.Combo.Input:
    return io.Combo.Input(
        "step_scale",
        options=STEP_SCALES,
        default=STEP_SCALES[0],
        optional=True,
        tooltip=(
            "How the optimiser measures its step. per element: as published, every value moves alike. per picture: "
            "strong directions of the style move more, noise less; cleaner, and enough style in a third of the steps."
        ),
    )


def resume_inputs() -> list:
    return [
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
    ]


def resumed(resume_latent: dict | None, resume_step: int):
    """Samples of the latent to go on from, or None.

    Raises:
        StylizationError: a step without a latent.
    """
    if resume_latent is None:
        if resume_step:
            raise StylizationError(
                "resume_step", f"it is {resume_step} but no resume_latent is connected", "Connect it, or set 0"
            )
        return None
    return latent_samples(resume_latent, "resume_latent")
