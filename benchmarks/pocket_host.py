"""The pocket model in this process, through ComfyUI's stock nodes: what the evidence and the benchmarks run on.

Run the scripts of this folder with the environment that `nox -s environment` builds, from anywhere:

    .host/env/environment/bin/python benchmarks/sms_evidence.py
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _loader():
    spec = importlib.util.spec_from_file_location("stylization_load", ROOT / "tests" / "host" / "load.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_load = _loader()
_load.host_package()
_load.pack()

from stylization_host import comfy_base, comfy_inprocess, scores  # noqa: E402

comfy_inprocess.enter()

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

SIZE = (384, 256)
PLUGIN = comfy_base.PLUGINS / "stylization_pocket"
CHECKPOINT, EDGES = "stylization_pocket.safetensors", "stylization_pocket_edges.safetensors"
STYLES = ("starry", "riso", "sepiaink")


class Pocket:
    """Model, text encoder and VAE of the pocket checkpoint, and the pack's nodes by their ids."""

    edges_file = EDGES

    def __init__(self):
        comfy.utils.set_progress_bar_enabled(False)
        logging.getLogger().setLevel(logging.WARNING)
        for kind in ("checkpoints", "loras", "controlnet"):
            folder_paths.add_model_folder_path(kind, str(comfy_base.POCKET_MODELS / kind), is_default=True)
        asyncio.run(stock.load_custom_node(str(PLUGIN)))
        ours = importlib.import_module("stylization.nodes")
        self.nodes = {node.define_schema().node_id: node for node in ours.NODES}
        self.stock = stock.NODE_CLASS_MAPPINGS
        self.model, self.clip, self.vae = self.stock["CheckpointLoaderSimple"]().load_checkpoint(CHECKPOINT)
        self.rows = 0
        self.model = self._counted(self.model)

    def _counted(self, model):
        """A clone that counts the rows of every model call in ``rows``."""

        def count(executor, x, *args, **kwargs):
            self.rows += x.shape[0]
            return executor(x, *args, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "benchmark.rows", count)
        return clone

    @lru_cache(maxsize=256)  # noqa: B019 one Pocket lives as long as the process
    def text(self, prompt: str):
        """CONDITIONING of a prompt."""
        with torch.inference_mode():
            return self.stock["CLIPTextEncode"]().encode(self.clip, prompt)[0]

    def node(self, node_id: str, *args, **kwargs):
        """The first output of one of our nodes."""
        with torch.inference_mode():
            return self.nodes[node_id].execute(*args, **kwargs).result[0]

    def encoded(self, photo: Image.Image) -> dict:
        """LATENT of a picture of the model's size."""
        pixels = torch.from_numpy(np.asarray(photo, np.float32) / 255)[None]
        with torch.inference_mode():
            return self.stock["VAEEncode"]().encode(self.vae, pixels)[0]

    def decoded(self, latent: dict) -> Image.Image:
        """The picture of a LATENT."""
        with torch.inference_mode():
            pixels = self.vae.decode(latent["samples"])[0].clamp(0, 1)
        return Image.fromarray((pixels.numpy() * 255).round().astype(np.uint8))

    def styled(self, style: str, strength: float = 1.0):
        """The base with the style beside it, as Stylize Style LoRA gives it."""
        return self.node("StylizeStyleLoRA", self.model, f"pocket_{style}.safetensors", strength, 0.0)

    def with_lora(self, style: str, strength: float = 1.0):
        """The base with the style in its weights, as the stock Load LoRA gives it."""
        with torch.inference_mode():
            return self.stock["LoraLoader"]().load_lora(self.model, None, f"pocket_{style}.safetensors", strength, 0.0)[
                0
            ]

    @cached_property
    def edges(self):
        """The edge ControlNet of this model."""
        with torch.inference_mode():
            return self.stock["ControlNetLoader"]().load_controlnet(self.edges_file)[0]

    def controlled(self, positive, negative, hints: Sequence[Image.Image], strength: float):
        """Both conditionings with a hint per picture, by the stock node."""
        pixels = torch.from_numpy(scores.as_batch(*hints)).float()
        with torch.inference_mode():
            return self.stock["ControlNetApplyAdvanced"]().apply_controlnet(
                positive, negative, self.edges, pixels, strength, 0.0, 1.0
            )

    def sampled(self, model, latent: dict, positive, negative, *, steps=20, cfg=2.0, denoise=0.5, seed=1) -> dict:
        """The stock KSampler (euler, normal)."""
        with torch.inference_mode():
            return self.stock["KSampler"]().sample(
                model, seed, steps, cfg, "euler", "normal", positive, negative, latent, denoise
            )[0]


def photos() -> dict[str, Path]:
    """The held-out photographs by name."""
    return {path.stem: path for path in sorted(comfy_base.PHOTOS.glob("*.jpg"))}


def exemplars(style: str) -> list[Image.Image]:
    """Pictures of a style; none shows what a test photograph shows."""
    return [scores.opened(path) for path in sorted((ROOT / "samples" / "styles" / style).glob("*.jpg"))]


def opened(path: Path) -> Image.Image:
    """A photograph at the model's size."""
    return scores.opened(path, SIZE)


def hint_of(picture: Image.Image) -> Image.Image:
    """Edges of a picture, white on black."""
    return Image.fromarray((edge_map(np.asarray(picture, np.float32) / 255) * 255).astype(np.uint8))


def words(name: str) -> str:
    """What a photograph shows, from its file name."""
    return name.replace("_", " ")


def timed(action: Callable):
    """(what ``action`` returned, seconds)."""
    started = time.perf_counter()
    found = action()
    return found, time.perf_counter() - started


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
