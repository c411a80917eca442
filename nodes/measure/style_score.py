"""StylizeStyleScore: how far pictures are from where a model's style would take them."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.measure import Asked, scored, summed
from ...stylization_core.hosts.comfyui.sms import SCORED_TIMESTEPS, find_style
from ..inputs import check_channels, latent_samples
from ..sms.inputs import cfg_input, style_model_input

SUCH = "Give whole numbers from 1 to 999, such as 200, 400, 600"


class StylizeStyleScore(io.ComfyNode):
    """MODEL with a style + pictures -> their Style Matching Score."""

    DISPLAY_NAME = "Stylize Style Score"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeStyleScore",
            display_name=cls.DISPLAY_NAME,
            category="stylization/measure",
            description=(
                "Asks the model how far style and base disagree about pictures, at set noise levels: the Style "
                "Matching Score, lower is nearer to the style. Stylize SMS makes exactly this small, so for its own "
                "results it shows how far it came and proves nothing."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The base model, with the style attached by Stylize Style LoRA."),
                io.Conditioning.Input("positive", tooltip="The prompt that the pictures would be stylized with."),
                io.Conditioning.Input("negative", tooltip="Usually an empty prompt. Not used at CFG 1."),
                cfg_input(),
                io.Image.Input("images", tooltip="The pictures to judge."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to model."),
                io.String.Input(
                    "levels",
                    default=", ".join(map(str, SCORED_TIMESTEPS)),
                    tooltip=(
                        "Noise levels, as timesteps 1 to 999 of the Stable Diffusion chain, separated by commas. "
                        "Low ones see texture, high ones colour and layout."
                    ),
                ),
                io.Int.Input(
                    "draws",
                    default=2,
                    min=1,
                    max=64,
                    tooltip="Noises at each level. More is calmer; each costs four model rows a picture, two at CFG 1.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise. Compare pictures under one seed.",
                ),
                io.Image.Input(
                    "content",
                    optional=True,
                    tooltip="The photo, or one per picture: gives its score, and the share of the way that is gone.",
                ),
                style_model_input(),
            ],
            outputs=[
                io.Float.Output(display_name="SCORE", tooltip="Mean score of the pictures; lower is nearer."),
                io.String.Output(
                    display_name="TEXT", tooltip="JSON: score of each picture, by level too, and its share."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, cfg, images, vae, levels, draws, seed, content=None, style_model=None
    ) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            style = find_style(model, style_model)
            timesteps = _timesteps(levels)
            if content is not None and len(content) not in (1, len(images)):
                counts = f"it has {len(content)} pictures, images {len(images)}"
                raise StylizationError("content", counts, "Give one photo, or one per picture")
            given = {"images": images} if content is None else {"images": images, "content": content}
            latents = {name: _encoded(model, vae, pictures, name) for name, pictures in given.items()}
            asked = Asked(positive, negative, cfg, timesteps, draws, seed)
            scores = {name: scored(model, style, samples, asked) for name, samples in latents.items()}
        report = summed(timesteps, **scores)
        return io.NodeOutput(report["score"], json.dumps(report, indent=1))


def _encoded(model, vae, pictures, subject: str):
    samples = latent_samples({"samples": vae.encode(pictures[..., :3])}, subject)
    check_channels(model, samples, subject)
    return samples


def _timesteps(text: str) -> list[int]:
    """Levels from what was typed, each once, highest first.

    Raises:
        StylizationError: names what is none.
    """
    timesteps = set()
    for part in filter(None, (piece.strip() for piece in text.replace(";", ",").split(","))):
        if not part.isdecimal() or not 1 <= int(part) <= 999:
            raise StylizationError("levels", f"'{part}' is no timestep", SUCH)
        timesteps.add(int(part))
    if not timesteps:
        raise StylizationError("levels", "there is none", SUCH)
    return sorted(timesteps, reverse=True)
