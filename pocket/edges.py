"""Edge maps: the hint of the pocket ControlNet. White lines on black, RGB in 0..1, at pixel size."""

import numpy as np
from scipy import ndimage
from skimage import feature


def edge_map(image, sigma=1.0, low=0.03, high=0.15):
    """Thin, soft edges of an RGB image (H, W, 3) in 0..1: the Sobel gradient where it is a ridge.

    Gradients below `low` are dropped, above `high` drawn at full strength. Any map of bright lines on black can be
    used as a hint, for instance that of the stock node Canny.
    """
    grey = ndimage.gaussian_filter(image @ np.array([0.299, 0.587, 0.114], image.dtype), sigma)
    strength = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)) / 4
    ridge = strength / np.maximum(ndimage.maximum_filter(strength, 3), 1e-6)
    line = np.clip((strength - low) / (high - low), 0, 1) * np.clip((ridge - 0.7) / 0.25, 0, 1)
    return np.repeat(line[..., None], 3, -1).astype(np.float32)


def canny_map(image, sigma=1.4):
    """Binary Canny edges of an RGB image, drawn like `edge_map`."""
    grey = image @ np.array([0.299, 0.587, 0.114], image.dtype)
    return np.repeat(feature.canny(grey, sigma=sigma)[..., None], 3, -1).astype(np.float32)


def agreement(image, hint, reach=2):
    """F1 of the edges of an image against the lines of a hint, both allowed to be `reach` pixels off."""
    found, wanted = edge_map(image)[..., 0] > 0.3, hint[..., 0] > 0.3
    window = np.ones((2 * reach + 1, 2 * reach + 1), bool)
    precision = (found & ndimage.binary_dilation(wanted, window)).sum() / max(found.sum(), 1)
    recall = (wanted & ndimage.binary_dilation(found, window)).sum() / max(wanted.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))
