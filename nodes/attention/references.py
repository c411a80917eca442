"""StylizeReference, StylizeInvertReference: pictures whose style others take."""

from __future__ import annotations

import comfy.samplers
import latent_preview
import torch
from comfy_api.latest import io

from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.model import at_dial, detect
from ...stylization_core.hosts.comfyui.references import InversionSampler, RecordCache, Reference
from ..inputs import check_channels, check_falling, latent_samples

REFERENCE = io.Custom("STYLIZE_REFERENCE")
CATEGORY = "stylization/reference"


def _weight_input() -> io.Float.Input:
    return io.Float.Input(
        "weight",
        default=1.0,
        min=0.0,
        max=20.0,
        step=0.05,
        tooltip="How much this reference counts: 2 is like two copies of it. 0 leaves it out.",
    )


def _chain_inputs() -> list:
    return [
        io.Mask.Input("mask", optional=True, tooltip="Which part of the reference counts. All of it if not connected."),
        REFERENCE.Input("previous", optional=True, tooltip="References that act together with this one."),
    ]


def _cache_input() -> io.Int.Input:
    return io.Int.Input(
        "cache_mib",
        default=0,
        min=0,
        max=1048576,
        step=64,
        optional=True,
        tooltip=(
            "Main memory, in MiB, for what the reference gives: later runs with the same model, prompts of the "
            "reference and schedule then skip its part of the work. 0 keeps nothing."
        ),
    )


def _cache_of(mebibytes):
    return RecordCache(mebibytes * 2**20) if mebibytes else None


def mask_of(mask, subject="mask"):
    """The one mask (H, W) of a reference.

    Raises:
        StylizationError: several masks, NaN, an empty mask.
    """
    if mask is None:
        return None
    mask = mask.reshape(-1, *mask.shape[-2:])
    if mask.shape[0] != 1:
        raise StylizationError(subject, f"it has {mask.shape[0]} entries", "Connect one mask for the reference")
    if not torch.isfinite(mask).all():
        raise StylizationError(subject, "it holds NaN or infinite values", "Look at the node that made it")
    if not mask.max() > 0:
        raise StylizationError(subject, "it is empty, so nothing of the reference counts", "Paint the part that counts")
    return mask[0]


class StylizeReference(io.ComfyNode):
    """A picture as reference, noised at use."""

    DISPLAY_NAME = "Stylize Reference"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeReference",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "A picture whose style others take, of any size: connect image and vae, or a latent. While a picture "
                "is sampled the reference is noised to the same level and shown to the model beside it."
            ),
            inputs=[
                _weight_input(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="Of the reference's own noise. The same seed continues a series in a later run.",
                ),
                io.Image.Input("image", optional=True, tooltip="The reference; several pictures all count."),
                io.Vae.Input("vae", optional=True, tooltip="VAE of the model, to encode image."),
                io.Latent.Input("latent", optional=True, tooltip="The reference as a latent instead of image."),
                io.Conditioning.Input(
                    "positive", optional=True, tooltip="Prompt that describes the reference. The run's own if empty."
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Negative prompt of the reference. The run's own if empty."
                ),
                *_chain_inputs(),
                _cache_input(),
            ],
            outputs=[REFERENCE.Output(display_name="REFERENCE", tooltip="To nodes that take a style from references.")],
        )

    @classmethod
    def execute(
        cls,
        weight,
        seed,
        image=None,
        vae=None,
        latent=None,
        positive=None,
        negative=None,
        mask=None,
        previous=None,
        cache_mib=0,
    ) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            samples = cls._samples(image, vae, latent)
            reference = Reference(samples, positive, negative, weight, seed, mask_of(mask), cache=_cache_of(cache_mib))
        return io.NodeOutput((*(previous or ()), reference))

    @staticmethod
    def _samples(image, vae, latent):
        if latent is not None:
            return latent_samples(latent, "latent")
        if image is None or vae is None:
            missing = "vae" if image is not None else "image"
            raise StylizationError(
                missing, "it is not connected, and no latent is", "Connect image and vae, or a latent"
            )
        return latent_samples({"samples": vae.encode(image[..., :3])}, "image")


class StylizeInvertReference(io.ComfyNode):
    """A picture as reference, inverted by the model."""

    DISPLAY_NAME = "Stylize Invert Reference"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeInvertReference",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "A reference with the path that leads to it: the model walks from the picture up in noise, so that the "
                "reference is at every level what the model itself would make of it. Closer to the picture than noise, "
                "for as many model calls as SIGMAS has levels."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample."),
                io.Latent.Input("latent_image", tooltip="The reference, encoded by the VAE of the model."),
                io.Conditioning.Input("positive", tooltip="Prompt that describes the reference. It matters here."),
                io.Conditioning.Input("negative", tooltip="Negative prompt, usually empty."),
                io.Sigmas.Input(
                    "sigmas", tooltip="Levels of the path, from Basic Scheduler; 50 steps and denoise 1 as published."
                ),
                io.Float.Input(
                    "cfg",
                    default=2.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance on the way up; low values are more faithful. 2 as published.",
                ),
                io.Int.Input(
                    "refinements",
                    default=1,
                    min=0,
                    max=10,
                    tooltip=(
                        "Corrections of each step, one model call each. 0 is DDIM inversion as published; with more "
                        "the way back leads to the same picture."
                    ),
                ),
                _weight_input(),
                *_chain_inputs(),
                _cache_input(),
            ],
            outputs=[REFERENCE.Output(display_name="REFERENCE", tooltip="To nodes that take a style from references.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        latent_image,
        positive,
        negative,
        sigmas,
        cfg,
        refinements,
        weight,
        mask=None,
        previous=None,
        cache_mib=0,
    ) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            detect(model)
            samples = latent_samples(latent_image)
            check_channels(model, samples)
            check_falling(sigmas)
            levels = int((sigmas > 0).sum())
            chosen = mask_of(mask)
        # the path is the plain model's: what our nodes do on this MODEL is for the pictures
        guider = comfy.samplers.CFGGuider(at_dial(model, 0.0))
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        sampler = InversionSampler(refinements)
        callback = latent_preview.prepare_callback(model, levels)
        guider.sample(torch.zeros_like(samples), samples, sampler, sigmas, callback=callback, seed=0)
        reference = Reference(samples, positive, negative, weight, 0, chosen, sampler.trajectory, _cache_of(cache_mib))
        return io.NodeOutput((*(previous or ()), reference))
