"""The pocket model's second denoiser, of drawn scenes, in this process: series of prompts, hints, and a word ruler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pocket_host import ROOT, Pocket, hint_of

# isort: split
# found by their paths, once pocket_host has put them in place
import comfy.samplers
import numpy as np
import torch
from drawings import SIZE, THINGS, Look, drawing
from edges import agreement
from PIL import Image
from scipy import ndimage

__all__ = ["SIZE", "THINGS", "Drawings", "Look", "Words", "agreement", "drawn", "hint_of", "paintings"]

UNET, EDGES = "stylization_pocket_drawings.safetensors", "stylization_pocket_drawings_edges.safetensors"
CELLS = SIZE // 8
WORD_LOOKS, WORD_RIDGE = 60, 10.0  # drawings of each thing that the word ruler is fitted to


class Drawings(Pocket):
    """The denoiser of drawings with the pocket model's text encoder and VAE, through stock nodes."""

    edges_file = EDGES

    def __init__(self):
        super().__init__()
        with torch.inference_mode():
            (found,) = self.stock["UNETLoader"]().load_unet(UNET, "default")
        self.model = self._counted(found)

    def series(self, prompts: Sequence[str]):
        """One CONDITIONING with a prompt per picture, through our node."""
        found = self.text(prompts[0])
        for prompt in prompts[1:]:
            found = self.node("StylizeConditioningBatch", self.text(prompt), found)
        return found

    def levels(self, steps: int) -> torch.Tensor:
        """SIGMAS of the runs here."""
        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "normal", steps)

    def empty(self, count: int) -> dict:
        """LATENT of some pictures to make."""
        return {"samples": torch.zeros(count, 16, CELLS, CELLS)}

    def decoded_all(self, latent: dict) -> list[Image.Image]:
        """The pictures of a LATENT."""
        return [self.decoded({"samples": row[None]}) for row in latent["samples"]]


def drawn(thing: str, seed: int | Sequence[int], look: Look | None = None) -> Image.Image:
    """A picture as the denoiser was trained on, of looks that it has not seen."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(drawing(thing, look or Look(rng), rng))


def paintings() -> dict[str, Path]:
    """The paintings of samples/ by name."""
    return {path.stem: path for path in sorted((ROOT / "samples" / "paintings").glob("*.jpg"))}


class Words:
    """Tells which thing a picture shows, by the shape of its gradients; no network, and colours do not count.

    Ridge regression on histograms of oriented gradients (Dalal and Triggs 2005) of drawings in random looks.
    """

    def __init__(self):
        rng, features, things = np.random.default_rng(77), [], []
        for _ in range(WORD_LOOKS):
            for number, thing in enumerate(THINGS):
                features.append(self._features(drawing(thing, Look(rng), rng)))
                things.append(number)
        features = np.array(features)
        self.mean = features.mean(0)
        kernel = (features - self.mean) @ (features - self.mean).T
        wanted = np.eye(len(THINGS))[things] - 1 / len(THINGS)
        self.weights = (features - self.mean).T @ np.linalg.solve(kernel + WORD_RIDGE * np.eye(len(kernel)), wanted)

    @staticmethod
    def _features(picture: np.ndarray) -> np.ndarray:
        from skimage.feature import hog

        grey = ndimage.gaussian_filter(picture.astype(float) @ [0.2126, 0.7152, 0.0722] / 255, SIZE / 64)
        fine = (hog(grey, 9, (cell, cell), (2, 2)) * share for cell, share in ((SIZE // 8, 1.0), (SIZE // 16, 0.5)))
        return np.concatenate(list(fine))

    def recognised(self, pictures: Sequence[Image.Image], things: Sequence[str]) -> float:
        """Share of the pictures in which the thing asked for is the one found; chance is 1 of 14."""
        names = list(THINGS)
        found = [int(((self._features(np.asarray(one)) - self.mean) @ self.weights).argmax()) for one in pictures]
        return float(np.mean([names[number] == thing for number, thing in zip(found, things, strict=True)]))
