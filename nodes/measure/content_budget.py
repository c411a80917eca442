"""StylizeContentBudget: the strongest stylization that keeps stated limits on the content."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io, ui

from ...stylization_core.budget.chart import drawn
from ...stylization_core.budget.report import report
from ...stylization_core.budget.search import parse_limits
from ...stylization_core.charts import THEMES
from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.measure import ContentRulers, Runs, Search, refuse_idle, within_budget
from ...stylization_core.rulers.catalogue import CONTENT
from ..inputs import check_channels, check_installed, latent_samples

DISPLAY_NAME = "Stylize Content Budget"


class StylizeContentBudget(io.ComfyNode):
    """MODEL or GUIDER + limits -> LATENT and IMAGE at the strongest setting that holds, its curve and a report."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeContentBudget",
            display_name=DISPLAY_NAME,
            category="stylization/measure",
            description=(
                "Samples the picture at several strengths of the stylization nodes on the model and gives the "
                "strongest result that keeps your limits, such as 'structure >= 0.8, shift < 0.5 px'. Shows how each "
                "ruler falls with the strength."
            ),
            inputs=[
                io.Sampler.Input("sampler", tooltip="From KSampler Select or Stylize SMS Sampler."),
                io.Sigmas.Input("sigmas", tooltip="Steps of a run, from Basic Scheduler or Stylize SMS Sigmas."),
                io.Noise.Input("noise", tooltip="From Random Noise. All runs have the same."),
                io.Latent.Input("latent_image", tooltip="What the runs start from: VAE Encode, or an empty latent."),
                io.Vae.Input("vae", tooltip="Decodes the results, which are measured as pictures."),
                io.String.Input(
                    "limits",
                    default="structure >= 0.6",
                    multiline=True,
                    tooltip=(
                        f"Separated by commas or lines. Rulers: {', '.join(CONTENT)}. 'mask' before a ruler measures "
                        "inside the mask, as in 'mask color_change < 3'."
                    ),
                ),
                *search_inputs(),
                io.Combo.Input("theme", options=list(THEMES), default=THEMES[0], tooltip="Look of the curve."),
                *wired_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The result at the setting found."),
                io.Image.Output(display_name="IMAGE", tooltip="The same as pictures."),
                io.Image.Output(display_name="CURVE", tooltip="Each limited ruler over the strength, as a picture."),
                io.Float.Output(display_name="STRENGTH", tooltip="The setting found; 0 where none holds."),
                io.String.Output(display_name="TEXT", tooltip="The setting, what binds it, and all settings tried."),
            ],
        )

    @classmethod
    def execute(
        cls,
        sampler,
        sigmas,
        noise,
        latent_image,
        vae,
        limits,
        strongest,
        grid,
        bisections,
        proxy_steps,
        theme,
        guider=None,
        model=None,
        positive=None,
        negative=None,
        cfg=3.0,
        content=None,
        mask=None,
        style=None,
    ) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            check_installed()
            parsed = parse_limits(limits)
            guider = wired_guider(guider, model, positive, negative, cfg)
            refuse_idle(guider, sampler, "guider" if model is None else "model")
            latent = checked_latent(guider, latent_image, vae, sigmas)
            rulers = ContentRulers(parsed, latent, vae, content, mask, style)
            runs = Runs(guider, sampler, noise, latent, vae)
            result = within_budget(runs, rulers, sigmas, Search(strongest, grid, bisections, proxy_steps))
        curve = torch.from_numpy(drawn(result.outcome, theme))
        runs.show(curve)
        text = report(result.outcome, result.cost, rulers.notes())
        shown = ui.PreviewImage(curve, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        latent = {**latent, "samples": result.samples}
        return io.NodeOutput(latent, result.pictures, curve, result.strength, text, ui=shown)


def search_inputs() -> list:
    """How the setting is searched for."""
    return [
        io.Float.Input(
            "strongest",
            default=1.0,
            min=0.05,
            max=4.0,
            step=0.05,
            tooltip="Strongest setting tried: a factor on the strength set on the nodes. 1 is as they are set.",
        ),
        io.Int.Input(
            "grid",
            default=5,
            min=2,
            max=33,
            tooltip="Settings run first, from 0 to the strongest. More finds curves that go down and up again.",
        ),
        io.Int.Input(
            "bisections",
            default=4,
            min=0,
            max=12,
            tooltip="Runs that then close in on the limit; each halves what is left.",
        ),
        io.Int.Input(
            "proxy_steps",
            default=0,
            min=0,
            max=1000,
            tooltip="Steps of the runs that search, for speed; the result is checked by whole runs. 0 runs all steps.",
        ),
    ]


def wired_inputs() -> list:
    """What is optional to connect."""
    return [
        io.Guider.Input("guider", optional=True, tooltip="Instead of model: a guider with stylization nodes on it."),
        io.Model.Input("model", optional=True, tooltip="Instead of guider: a model with stylization nodes on it."),
        io.Conditioning.Input("positive", optional=True, tooltip="With model: what the picture shows."),
        io.Conditioning.Input("negative", optional=True, tooltip="With model: the negative prompt."),
        io.Float.Input(
            "cfg",
            default=3.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            optional=True,
            tooltip="With model: classifier-free guidance. A guider has its own.",
        ),
        io.Image.Input(
            "content",
            optional=True,
            tooltip=(
                "Picture that results are compared with, of their size. If not connected: what latent_image shows, or "
                "for an empty one the result at strength 0."
            ),
        ),
        io.Mask.Input("mask", optional=True, tooltip="Where limits with the word 'mask' are measured."),
        io.Image.Input("style", optional=True, tooltip="Pictures of the style, to show the way to it on the curve."),
    ]


def wired_guider(guider, model, positive, negative, cfg: float):
    """The guider of the runs, from whichever of the two is connected.

    Raises:
        StylizationError: both, neither, a model without its prompts, prompts beside a guider.
    """
    if (guider is None) == (model is None):
        found = "neither is connected" if model is None else "both are connected"
        raise StylizationError(
            "guider and model", found, "Connect one: a guider, or a model with positive and negative"
        )
    prompts = {"positive": positive, "negative": negative}
    if model is None:
        beside = [name for name, given in prompts.items() if given is not None]
        if beside:
            found = "connected beside a guider, which has prompts of its own"
            raise StylizationError(" and ".join(beside), found, "Disconnect it, or connect model instead of guider")
        return guider
    missing = [name for name, given in prompts.items() if given is None]
    if missing:
        raise StylizationError(" and ".join(missing), "not connected, and model needs it", "Connect CLIP Text Encode")
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive, negative)
    made.set_cfg(cfg)
    return made


def checked_latent(guider, latent: dict, vae, sigmas) -> dict:
    """A copy of the LATENT with the channels of the model.

    Raises:
        StylizationError: no steps, no pictures, another model's or VAE's latent.
    """
    if len(sigmas) < 2:
        raise StylizationError(
            "sigmas", "they hold no step", "Connect a scheduler with at least 1 step, denoise above 0"
        )
    samples = comfy.sample.fix_empty_latent_channels(guider.model_patcher, latent_samples(latent, empty=True))
    check_channels(guider.model_patcher, samples)
    channels = getattr(vae, "latent_channels", samples.shape[1])
    if channels != samples.shape[1]:
        found = f"it decodes {channels} channels, latents of the model have {samples.shape[1]}"
        raise StylizationError("vae", found, "Connect the VAE that belongs to the model")
    return {**latent, "samples": samples}
