"""The pocket diffusion models as entries of ComfyUI's list of supported models."""

import comfy.latent_formats
import comfy.model_base
import comfy.supported_models
import comfy.supported_models_base
import torch

from .text import clip_classes, text_config

CONTEXT_DIM = 128  # width of the text tower; by it a bare ControlNet or UNet file is recognised too
LATENT_CHANNELS = 16
HEAD_CHANNELS = 32


class PocketLatent(comfy.latent_formats.LatentFormat):
    latent_channels = LATENT_CHANNELS
    latent_dimensions = 2
    scale_factor = 1.0  # the encoder's own weights give latents of mean 0 and mean variance 1
    # Colour of a latent for previews: the mean of its pixel block under the linear decoder. Only three of the
    # principal components have a mean that is not zero.
    latent_rgb_factors = [
        [0.147, 0.159, 0.164],
        [-0.147, -0.011, 0.143],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.066, -0.121, 0.058],
        *([[0.0, 0.0, 0.0]] * 11),
    ]
    latent_rgb_factors_bias = [0.131, 0.104, 0.042]


class PocketModel(comfy.supported_models_base.BASE):
    unet_config = {
        "context_dim": CONTEXT_DIM,
        "in_channels": LATENT_CHANNELS,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": HEAD_CHANNELS}
    latent_format = PocketLatent
    memory_usage_factor = 1.0
    sampling_settings = {"linear_start": 0.00085, "linear_end": 0.012}
    supported_inference_dtypes = [torch.float32]  # half-precision file, single-precision arithmetic

    def inpaint_model(self):
        """The base class takes every UNet with more than four input channels for an inpainting model."""
        return False

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def clip_target(self, state_dict=None):
        tokenizer, encoder = clip_classes(text_config(state_dict or {}))
        return comfy.supported_models_base.ClipTarget(tokenizer, encoder)


class PocketDrawings(PocketModel):
    """The small denoiser of drawn scenes; its schedule ends at pure noise."""

    unet_config = {**PocketModel.unet_config, "channel_mult": [1, 1]}
    sampling_settings = {**PocketModel.sampling_settings, "zsnr": True}


class StickerLatent(comfy.latent_formats.LatentFormat):
    latent_channels = 8
    latent_dimensions = 2
    scale_factor = 1.0  # the autoencoder's own scale gives latents of root mean square 1
    latent_rgb_factors = [
        [-0.321, -0.273, -0.204],
        [0.238, -0.043, -0.305],
        [0.094, -0.17, 0.096],
        [-0.007, -0.003, 0.007],
        [0.007, -0.004, -0.008],
        [-0.006, 0.005, -0.013],
        [0.011, 0.011, -0.001],
        [0.017, 0.007, 0.003],
    ]
    latent_rgb_factors_bias = [0.35, 0.197, 0.162]


class PocketStickers(PocketModel):
    """The sticker model: 8 latent channels, a schedule that ends at pure noise."""

    unet_config = {**PocketModel.unet_config, "in_channels": 8}
    latent_format = StickerLatent
    sampling_settings = {**PocketModel.sampling_settings, "zsnr": True}


def register_model():
    models = comfy.supported_models.models
    known = {model.__name__ for model in models}
    for model in (PocketModel, PocketDrawings, PocketStickers):  # the last inserted is asked first
        if model.__name__ not in known:
            models.insert(0, model)
