"""The pocket models in this process, through ComfyUI's stock nodes: what evidence and costs run on.

Importing this module puts ComfyUI and the pack in place.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import stylization_load as load

load.host_package()
load.pack()

from stylization_host import comfy_base, comfy_inprocess, comfy_tree, scores  # noqa: E402

comfy_inprocess.enter()
atexit.register(comfy_inprocess.leave)

ROOT = comfy_tree.ROOT
sys.path.append(str(ROOT / "pocket"))

import comfy.samplers  # noqa: E402
import comfy.utils  # noqa: E402
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402
from edges import edge_map  # noqa: E402
from PIL import Image  # noqa: E402

import nodes as stock  # noqa: E402

PLUGIN = comfy_base.PLUGINS / "stylization_pocket"


@dataclass(frozen=True)
class PocketModel:
    """Files of a pocket model, as ComfyUI's loaders list them, and how it is sampled.

    Attributes:
        checkpoint: denoiser, text encoder and VAE.
        edges: ControlNet.
        size: (width, height) of its photographs.
        cfg: of its runs, unless a case says otherwise.
        unet: a denoiser in the place of the checkpoint's; none where it is empty.
        styles: names of its LoRAs' styles.
        channels: of its latents, which have an eighth of the pictures' sides.
    """

    checkpoint: str
    edges: str
    size: tuple[int, int]
    cfg: float
    unet: str = ""
    styles: tuple[str, ...] = ()
    channels: int = 16


CHECKPOINT = "stylization_pocket.safetensors"
PHOTOGRAPHS = PocketModel(
    CHECKPOINT, "stylization_pocket_edges.safetensors", (384, 256), 2.0, styles=("starry", "riso", "sepiaink")
)
DRAWINGS = PocketModel(
    CHECKPOINT,
    "stylization_pocket_drawings_edges.safetensors",
    (192, 128),
    3.0,
    unet="stylization_pocket_drawings.safetensors",
)


class Host:
    """A pocket model, loaded: prompts, pictures and latents, runs. All that evidence asks of a model goes through it.

    Attributes:
        pocket: what was loaded.
        model: MODEL.
        rows: rows of all model calls so far.
    """

    def __init__(self, pocket: PocketModel):
        self.pocket, self.rows, self.stock = pocket, 0, stock.NODE_CLASS_MAPPINGS
        _prepare()
        with torch.inference_mode():
            model, self.clip, self.vae = self.stock["CheckpointLoaderSimple"]().load_checkpoint(pocket.checkpoint)
            if pocket.unet:
                (model,) = self.stock["UNETLoader"]().load_unet(pocket.unet, "default")
        self.model = self._counted(model)

    def _counted(self, model):
        """A clone that counts the rows of every model call in ``rows``."""

        def count(executor, x, *args, **kwargs):
            self.rows += x.shape[0]
            return executor(x, *args, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark.rows", count)
        return clone

    # prompts

    @lru_cache(maxsize=256)  # noqa: B019 a host lives as long as the process
    def text(self, prompt: str):
        """CONDITIONING of a prompt."""
        with torch.inference_mode():
            return self.stock["CLIPTextEncode"]().encode(self.clip, prompt)[0]

    @cached_property
    def edges(self):
        """The edge ControlNet of this model."""
        with torch.inference_mode():
            return self.stock["ControlNetLoader"]().load_controlnet(self.pocket.edges)[0]

    def controlled(self, positive, negative, hints: Sequence[Image.Image], strength: float):
        """Both conditionings with a hint per picture, by the stock node."""
        pixels = torch.from_numpy(scores.as_batch(*hints)).float()
        with torch.inference_mode():
            return self.stock["ControlNetApplyAdvanced"]().apply_controlnet(
                positive, negative, self.edges, pixels, strength, 0.0, 1.0
            )

    # pictures and latents

    def encoded(self, photo: Image.Image) -> dict:
        """LATENT of a picture."""
        pixels = torch.from_numpy(np.asarray(photo, np.float32) / 255)[None]
        with torch.inference_mode():
            return self.stock["VAEEncode"]().encode(self.vae, pixels)[0]

    def decoded(self, latent: dict) -> Image.Image:
        """The first picture of a LATENT."""
        with torch.inference_mode():
            pixels = self.vae.decode(latent["samples"])[0].clamp(0, 1)
        return Image.fromarray((pixels.numpy() * 255).round().astype(np.uint8))

    def decoded_all(self, latent: dict) -> list[Image.Image]:
        """The pictures of a LATENT."""
        return [self.decoded({"samples": row[None]}) for row in latent["samples"]]

    def empty(self, count: int, size: tuple[int, int]) -> dict:
        """LATENT of some pictures of (width, height) to make."""
        return {"samples": torch.zeros(count, self.pocket.channels, size[1] // 8, size[0] // 8)}

    # models and runs

    def with_lora(self, style: str, strength: float = 1.0):
        """The MODEL with the style in its weights, as the stock Load LoRA gives it."""
        load_lora = self.stock["LoraLoader"]().load_lora
        with torch.inference_mode():
            return load_lora(self.model, None, f"pocket_{style}.safetensors", strength, 0.0)[0]

    def levels(self, steps: int) -> torch.Tensor:
        """SIGMAS of a whole run."""
        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", steps)

    def sampled(self, model, latent: dict, positive, negative, *, steps=20, cfg=2.0, denoise=0.5, seed=1) -> dict:
        """The stock KSampler (euler, normal)."""
        with torch.inference_mode():
            return self.stock["KSampler"]().sample(
                model, seed, steps, cfg, "euler", "normal", positive, negative, latent, denoise
            )[0]


@lru_cache(maxsize=1)
def _prepare() -> None:
    """ComfyUI finds the files and the classes of the pocket models, and is quiet."""
    comfy.utils.set_progress_bar_enabled(False)
    logging.getLogger().setLevel(logging.WARNING)
    for kind in ("checkpoints", "loras", "controlnet", "diffusion_models"):
        folder_paths.add_model_folder_path(kind, str(comfy_base.POCKET_MODELS / kind), is_default=True)
    asyncio.run(stock.load_custom_node(str(PLUGIN)))


@cache
def host_of(pocket: PocketModel) -> Host:
    """The host of a pocket model, loaded once."""
    return Host(pocket)


def photos() -> dict[str, Path]:
    """The held-out photographs by name."""
    return {path.stem: path for path in sorted(comfy_base.PHOTOS.glob("*.jpg"))}


def paintings() -> dict[str, Path]:
    """The paintings of samples/ by name."""
    return {path.stem: path for path in sorted((ROOT / "samples" / "paintings").glob("*.jpg"))}


def exemplars(style: str) -> list[Image.Image]:
    """Pictures of a style; none shows what a test photograph shows."""
    return [scores.opened(path) for path in sorted((ROOT / "samples" / "styles" / style).glob("*.jpg"))]


def hint_of(picture: Image.Image) -> Image.Image:
    """Edges of a picture, white on black."""
    return Image.fromarray((edge_map(np.asarray(picture, np.float32) / 255) * 255).astype(np.uint8))


def words(name: str) -> str:
    """What a photograph shows, from its file name."""
    return name.replace("_", " ")


def timed(action: Callable):
    """(what ``action`` returned, seconds)."""
    started = time.perf_counter()
    result = action()
    return result, time.perf_counter() - started
