"""Registration of the Stylization pocket model with ComfyUI; only this test host needs it.

With it the stock nodes load the pocket files: CheckpointLoaderSimple, LoraLoader, ControlNetLoader and the rest. It
adds one entry to `comfy.supported_models.models` and wraps the constructor of `comfy.sd.VAE`; it adds no node. A pocket
checkpoint holds, besides ComfyUI's UNet and CLIP keys, `first_stage_model.*` of `autoencoder.py` and
`cond_stage_model.pocket_vocab`, the vocabulary as a uint8 tensor.
"""

from .model import register_model
from .vae import register_vae

register_model()
register_vae()

NODE_CLASS_MAPPINGS = {}
NODE_DISPLAY_NAME_MAPPINGS = {}
