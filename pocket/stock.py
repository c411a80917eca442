"""Runs ComfyUI's stock nodes in this process, with the pocket files in its model folders."""

import numpy as np
import torch
from networks import use_comfyui
from PIL import Image


class StockNodes:
    """Short names for the stock nodes a test sheet needs. Images are float tensors (1, H, W, 3) in 0..1."""

    def __init__(self, args):
        use_comfyui(args)
        import comfy.utils
        import folder_paths
        import stylization_pocket

        import nodes

        assert stylization_pocket.NODE_CLASS_MAPPINGS == {}
        for kind in ("checkpoints", "diffusion_models", "loras", "controlnet"):
            folder_paths.add_model_folder_path(kind, str(args.models / kind), is_default=True)
        comfy.utils.set_progress_bar_enabled(False)
        self.nodes = nodes.NODE_CLASS_MAPPINGS
        self.model, self.clip, self.vae = self.call(
            "CheckpointLoaderSimple", "load_checkpoint", "stylization_pocket.safetensors"
        )

    def call(self, node, method, *args, **kwargs):
        with torch.inference_mode():
            return getattr(self.nodes[node](), method)(*args, **kwargs)

    def lora(self, name, strength=1.0):
        file = f"pocket_{name}.safetensors"
        return self.call("LoraLoader", "load_lora", self.model, self.clip, file, strength, strength)

    def drawings(self):
        """The denoiser of drawn scenes."""
        return self.call("UNETLoader", "load_unet", "stylization_pocket_drawings.safetensors", "default")[0]

    def text(self, prompt, clip=None):
        return self.call("CLIPTextEncode", "encode", clip or self.clip, prompt)[0]

    def empty(self, width, height, count=1):
        return self.call("EmptyLatentImage", "generate", width, height, count)[0]

    def encode(self, image):
        return self.call("VAEEncode", "encode", self.vae, image)[0]

    def decode(self, latent):
        return self.call("VAEDecode", "decode", self.vae, latent)[0]

    def control(self, positive, negative, hint, strength=1.0, end=1.0, file="stylization_pocket_edges.safetensors"):
        net = self.call("ControlNetLoader", "load_controlnet", file)[0]
        return self.call("ControlNetApplyAdvanced", "apply_controlnet", positive, negative, net, hint, strength, 0, end)

    def sample(
        self,
        positive,
        latent,
        model=None,
        negative=None,
        seed=7,
        steps=12,
        cfg=1.5,
        denoise=1.0,
        sampler="euler",
        scheduler="normal",
    ):
        negative = negative if negative is not None else self.text("")
        out = self.call(
            "KSampler",
            "sample",
            model or self.model,
            seed,
            steps,
            cfg,
            sampler,
            scheduler,
            positive,
            negative,
            latent,
            denoise=denoise,
        )[0]
        return self.decode(out)


def load_photo(path, width=384, height=256):
    """A photo scaled and cut in its middle to the given size, as an IMAGE tensor."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    k = max(width / image.width, height / image.height)
    image = image.resize((max(width, round(image.width * k)), max(height, round(image.height * k))), Image.LANCZOS)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.asarray(image, np.float32) / 255)[None]
