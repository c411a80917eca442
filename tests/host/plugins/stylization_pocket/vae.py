"""Lets comfy.sd.VAE build the pocket autoencoder.

The stock class picks an autoencoder by a chain of tests on state-dict keys and has no registry, so its constructor is
wrapped: pocket weights first build the trivial pixel-space autoencoder, which is then replaced.
"""

import functools

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch

from .autoencoder import PocketAutoencoder, StickerAutoencoder

SIGNATURE = {"analysis.weight", "synthesis.weight", "blocks8.0.conv1.weight"}


def install(vae, state_dict):
    """Put the pocket autoencoder into a freshly built pixel-space VAE object."""
    channels, width = state_dict["synthesis.weight"].shape[1], state_dict["inlet.weight"].shape[0]
    family = StickerAutoencoder if "exit8.weight" in state_dict else PocketAutoencoder
    network = family(channels, width)
    network.load_state_dict(state_dict)
    vae.first_stage_model = network.eval().requires_grad_(False).to(vae.vae_dtype)
    vae.size = None
    vae.downscale_ratio = vae.upscale_ratio = 8
    vae.latent_channels = channels
    size_of = comfy.model_management.dtype_size
    vae.memory_used_encode = lambda shape, dtype: 64 * shape[2] * shape[3] * size_of(dtype)
    vae.memory_used_decode = lambda shape, dtype: 64 * 64 * shape[2] * shape[3] * size_of(dtype)
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )


def register_vae():
    stock = comfy.sd.VAE.__init__
    if getattr(stock, "stylization_pocket", False):
        return

    @functools.wraps(stock)
    def init(self, sd=None, device=None, config=None, dtype=None, metadata=None, **kwargs):
        if sd is None or config is not None or not SIGNATURE <= set(sd):
            stock(self, sd=sd, device=device, config=config, dtype=dtype, metadata=metadata, **kwargs)
            return
        stock(
            self,
            sd={"pixel_space_vae": torch.tensor(1.0)},
            device=device,
            dtype=dtype or torch.float32,
            metadata=metadata,
            **kwargs,
        )
        install(self, sd)

    init.stylization_pocket = True
    comfy.sd.VAE.__init__ = init
