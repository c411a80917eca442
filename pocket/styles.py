"""Picture styles computed from a photograph: RGB float arrays of shape (H, W, 3) in 0..1, in and out."""

import numpy as np
from scipy import ndimage
from skimage import color


def luma(image):
    return image @ np.array([0.299, 0.587, 0.114], image.dtype)


def saturate(image, gain):
    grey = luma(image)[..., None]
    return np.clip(grey + gain * (image - grey), 0, 1)


def blur(image, sigma):
    return ndimage.gaussian_filter(image, (sigma, sigma, 0) if image.ndim == 3 else sigma)


def kuwahara(image, radius):
    """Each pixel takes the mean of the calmest of the four windows that touch it: flat, painterly areas."""
    size, grey = radius + 1, luma(image)
    mean_grey = ndimage.uniform_filter(grey, size)
    variance = ndimage.uniform_filter(grey * grey, size) - mean_grey * mean_grey
    mean = ndimage.uniform_filter(image, (size, size, 1))
    half = radius // 2
    best, least = None, None
    for dy in (-half, half):
        for dx in (-half, half):
            v = np.roll(variance, (dy, dx), (0, 1))
            m = np.roll(mean, (dy, dx), (0, 1))
            if best is None:
                best, least = m, v
            else:
                calmer = v < least
                best, least = np.where(calmer[..., None], m, best), np.where(calmer, v, least)
    return best


def gradient(grey, sigma=1.0):
    grey = ndimage.gaussian_filter(grey, sigma)
    return np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)) / 4


def outline(image, sigma=1.0, low=0.05, high=0.14):
    """1 on strong edges, 0 elsewhere, with a soft step between the two thresholds."""
    return np.clip((gradient(luma(image), sigma) - low) / (high - low), 0, 1)


def soft_steps(grey, levels, sharpness=6.0):
    """Posterise with a soft step between neighbouring levels, so that no staircase shows."""
    scaled = grey * levels
    base = np.floor(scaled)
    frac = scaled - base
    return (base + 0.5 + 0.5 * np.tanh(sharpness * (frac - 0.5)) / np.tanh(sharpness / 2)) / levels


def stretch(grey):
    low, high = np.percentile(grey, (2, 98))
    return np.clip((grey - low) / max(high - low, 0.2), 0, 1)


def ramp(grey, stops):
    """Map grey 0..1 through colour stops [(position, (r, g, b) in 0..255), ...]."""
    position = [p for p, _ in stops]
    return np.stack([np.interp(grey, position, [c[k] / 255 for _, c in stops]) for k in range(3)], -1)


def ink(image, mask, rgb):
    return image + mask[..., None] * (np.array(rgb, image.dtype) / 255 - image)


def oil(image):
    return saturate(kuwahara(kuwahara(image, 8), 6), 1.6)


def sketch(image):
    grey = luma(blur(image, 0.7))
    dodge = np.clip(grey / np.maximum(ndimage.gaussian_filter(grey, 7), 0.02), 0, 1)
    tone = 0.6 + 0.4 * stretch(ndimage.gaussian_filter(grey, 1.5))
    return np.repeat((np.clip((dodge - 0.25) / 0.7, 0, 1) ** 1.5 * tone)[..., None], 3, -1)


def pixel(image, block=8):
    h, w = image.shape[:2]
    small = image.reshape(h // block, block, w // block, block, 3).mean((1, 3))
    small = np.round(np.clip(saturate(small, 1.7) * 1.05, 0, 1) * 4) / 4
    return small.repeat(block, 0).repeat(block, 1)


def comic(image):
    flat = kuwahara(kuwahara(image, 6), 4)
    grey = luma(flat)
    toned = flat * (soft_steps(stretch(grey), 4) / np.maximum(grey, 0.05))[..., None]
    return ink(saturate(np.clip(toned, 0, 1), 2.0), outline(flat, 0.8, 0.04, 0.10), (8, 8, 16))


UKIYO = (
    np.array(
        [
            (240, 226, 190),
            (246, 238, 214),
            (176, 200, 200),
            (92, 132, 160),
            (34, 62, 116),
            (24, 32, 62),
            (198, 84, 58),
            (214, 168, 92),
            (128, 146, 92),
            (66, 88, 70),
        ],
        np.float64,
    )
    / 255
)


def ukiyo(image):
    """Flat areas in the colours of old woodblock prints, indigo contour lines, cream paper."""
    flat = kuwahara(kuwahara(image, 8), 6)
    grey = luma(flat)
    toned = np.clip(flat + (stretch(grey) - grey)[..., None], 0, 1)
    lab, palette = color.rgb2lab(saturate(toned, 1.7)), color.rgb2lab(UKIYO[None])[0]
    distance = ((lab[:, :, None] - palette) ** 2 * np.array([0.8, 1.4, 1.4])).sum(-1)
    weight = np.exp(-(distance - distance.min(-1, keepdims=True)) / 60)
    print_ = (weight / weight.sum(-1, keepdims=True)) @ UKIYO
    return ink(blur(print_, 0.6), 0.9 * outline(flat, 1.0, 0.035, 0.10), (20, 26, 56))


def sepiaink(image):
    """Brown ink wash in four tones on cream paper, with dark contours."""
    flat = kuwahara(image, 6)
    tone = soft_steps(stretch(luma(flat)) ** 0.8, 4)
    wash = ramp(tone, [(0, (58, 34, 22)), (0.35, (122, 80, 48)), (0.7, (206, 170, 122)), (1, (246, 232, 204))])
    return ink(wash, 0.9 * outline(flat, 1.0, 0.03, 0.10), (44, 24, 16))


def aquarelle(image):
    """Light, watery colours on white paper: pale flat areas with darker rims."""
    flat = kuwahara(kuwahara(image, 10), 6)
    light = 1 - 0.72 * (1 - saturate(flat**0.75, 1.9))
    rim = np.clip(gradient(luma(flat), 1.5) * 3.5, 0, 0.45)[..., None]
    return np.clip(light * (1 - rim * np.array([0.8, 0.65, 0.45])) + 0.03, 0, 1)


def riso(image):
    """Two inks, hot pink and teal, over warm paper; where both lie the print is deep violet."""
    grey = stretch(luma(kuwahara(image, 5)))
    tone = soft_steps(grey, 3, 9.0)
    return ramp(tone, [(0, (42, 24, 92)), (0.34, (0, 128, 140)), (0.67, (255, 96, 140)), (1, (252, 242, 220))])


PROCEDURAL = {f.__name__: f for f in (oil, sketch, pixel, comic, ukiyo, sepiaink, aquarelle, riso)}
