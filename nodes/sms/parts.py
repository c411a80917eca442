"""StylizeSMSGuider, StylizeSMSSigmas, StylizeSMSSampler: Style Matching Score for SamplerCustomAdvanced."""

from __future__ import annotations

from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.model import Levels, detect
from ...stylization_core.hosts.comfyui.sms import (
    FakeScore,
    ScoreSampler,
    StyleMatchingGuider,
    StyleMatchingSampler,
    find_style,
)
from ..inputs import check_channels, latent_samples
from .inputs import (
    cfg_input,
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

CATEGORY = "stylization/sms"
GUIDER, SIGMAS, SAMPLER = "Stylize SMS Guider", "Stylize SMS Sigmas", "Stylize SMS Sampler"


class _Guider(StyleMatchingGuider):
    """Checks what only the run gets to see, and says which of our nodes an error comes from."""

    def sample(self, noise, latent_image, sampler, sigmas, *args, **kwargs):
        if not isinstance(sampler, ScoreSampler):
            return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
        with naming(SAMPLER):
            check_channels(self.model_patcher, latent_samples({"samples": latent_image}))
        with naming(GUIDER):
            return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)


class _Sampler(StyleMatchingSampler):
    """Says which of our nodes an error of the run comes from."""

    def sample(self, *args, **kwargs):
        with naming(SAMPLER):
            return super().sample(*args, **kwargs)


class StylizeSMSGuider(io.ComfyNode):
    """A GUIDER whose model answers with a style's and a base's prediction."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSMSGuider",
            display_name=GUIDER,
            category=CATEGORY,
            description=(
                "Guider of a model with a style, for Sampler Custom Advanced. With Stylize SMS Sampler it runs the "
                "Style Matching Score; with an ordinary sampler it samples the style."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The base model, with the style attached by Stylize Style LoRA."),
                io.Conditioning.Input("positive", tooltip="Style words of the LoRA, then what the picture shows."),
                io.Conditioning.Input("negative", tooltip="Usually an empty prompt. Not used at CFG 1."),
                cfg_input(),
                style_model_input(),
                source_input(),
                fake_score_input(),
                fake_blend_input(),
            ],
            outputs=[io.Guider.Output(display_name="GUIDER", tooltip="To Sampler Custom Advanced.")],
        )

    @classmethod
    def execute(
        cls, model, *, positive, negative, cfg, style_model=None, source=None, fake_score="frozen", fake_blend=0.0
    ) -> io.NodeOutput:
        with naming(GUIDER):
            fake = FakeScore(trained=fake_score == "trained", blend=fake_blend)
            guider = _Guider(model, find_style(model, style_model), fake)
        conditionings = {"positive": positive, "negative": negative}
        if source is not None:
            conditionings["source"] = source
        guider.inner_set_conds(conditionings)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class StylizeSMSSigmas(io.ComfyNode):
    """Bounds of the noise levels of an SMS run as SIGMAS."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSMSSigmas",
            display_name=SIGMAS,
            category=CATEGORY,
            description=(
                "Noise levels for Stylize SMS Sampler: the largest level of each iteration, then the smallest of all. "
                "Levels are drawn between them."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model of the guider; its kind decides how levels are written."),
                steps_input(),
                io.Float.Input(
                    "t_max",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Largest noise visited, as a share of the noise chain. More reaches larger shapes.",
                ),
                io.Float.Input(
                    "t_min",
                    default=0.02,
                    min=0.002,
                    max=0.99,
                    step=0.002,
                    round=0.001,
                    tooltip="Smallest noise visited, as a share of the noise chain.",
                ),
                io.Combo.Input(
                    "narrowing",
                    options=["linear", "none"],
                    default="linear",
                    tooltip="linear: the largest level falls to the smallest, as published. none: it stays.",
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="Only used by flow models: the picture, since larger ones need higher levels.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="SIGMAS", tooltip="To Sampler Custom Advanced.")],
        )

    @classmethod
    def execute(cls, model, *, steps, t_max, t_min, narrowing, latent_image=None) -> io.NodeOutput:
        with naming(SIGMAS):
            detect(model)
            if t_max - t_min < 0.004:
                raise StylizationError(
                    "t_max", f"it is {t_max:g} with t_min {t_min:g}", "Set t_max at least 0.004 above t_min"
                )
            cells = None
            if latent_image is not None:
                samples = latent_samples(latent_image)
                check_channels(model, samples)
                cells = samples.shape[-1] * samples.shape[-2]
            levels = Levels(model.get_model_object("model_sampling"))
            return io.NodeOutput(levels.bounds(steps, t_min, t_max, narrowing == "linear", cells))


class StylizeSMSSampler(io.ComfyNode):
    """The optimisation as a SAMPLER."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeSMSSampler",
            display_name=SAMPLER,
            category=CATEGORY,
            description=(
                "Style Matching Score as a sampler for Sampler Custom Advanced with Stylize SMS Guider: one iteration "
                "per step of SIGMAS. Spectrum Regularizer and Semantic Refiner on the guider's MODEL act in it. The "
                "NOISE input only gives the seed."
            ),
            inputs=[
                strength_input(),
                step_size_input(),
                io.Combo.Input(
                    "levels",
                    options=["drawn", "as given"],
                    default="drawn",
                    tooltip="drawn: each level is drawn below SIGMAS, as published. as given: SIGMAS themselves.",
                ),
                content_pull_input(),
                *resume_inputs(),
                step_scale_input(),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER", tooltip="To Sampler Custom Advanced.")],
        )

    @classmethod
    def execute(
        cls,
        *,
        strength,
        step_size,
        levels,
        content_pull=0.0,
        resume_latent=None,
        resume_step=0,
        step_scale="per element",
    ) -> io.NodeOutput:
        with naming(SAMPLER):
            resume = resumed(resume_latent, resume_step)
        return io.NodeOutput(
            _Sampler(
                strength=strength,
                step_size=step_size,
                pull=content_pull,
                shared=step_scale == "per picture",
                drawn=levels == "drawn",
                start=resume_step,
                resume=resume,
            )
        )
