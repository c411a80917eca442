"""Drawn scenes as the denoiser of drawings knows them, and a ruler that tells which thing a picture shows."""

from __future__ import annotations

from collections.abc import Sequence

from . import host  # noqa: F401 puts ComfyUI and the folder of the pocket's recipe in place

# isort: split
import numpy as np
from drawings import SIZE, THINGS, Look, drawing
from PIL import Image
from scipy import ndimage

__all__ = ["SIZE", "THINGS", "Look", "Words", "drawn"]

WORD_LOOKS, WORD_RIDGE = 60, 10.0
"""Drawings of each thing that the word ruler is fitted to, and how stiffly."""


def drawn(thing: str, seed: int | Sequence[int], look: Look | None = None) -> Image.Image:
    """A picture as the denoiser was trained on, of looks that it has not seen."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(drawing(thing, look or Look(rng), rng))


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
        features = (self._features(np.asarray(picture)) for picture in pictures)
        shown = [names[int(((row - self.mean) @ self.weights).argmax())] for row in features]
        return float(np.mean([name == thing for name, thing in zip(shown, things, strict=True)]))
