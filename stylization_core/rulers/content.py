"""How much of a photograph's content is still there in a result.

Each function takes (B, H, W, 3) pictures in [0, 1], numpy or torch, and returns a float64 array (B,). With a mask
(B or 1, H, W) in [0, 1] only what it marks counts. Numbers mean something only beside the two anchors: the photo itself
as result, and a style exemplar as result.
"""

from __future__ import annotations

import numpy as np

from .images import areas, luminance, pair

EDGE_SIGMA = 1.5
EDGE_TOLERANCE = 1.5
LOW_BAND = 8.0
SHIFT_PRECISION = 10
_WITHOUT_MEANS = 1e4
_SILENT = 1e-12


def structure_similarity(photo, result, mask=None) -> np.ndarray:
    """SSIM of the luminance without its luminance term: do the same local ups and downs stand at the same places?

    Range and direction: [-1, 1], higher keeps more; 1 is the photo itself, up to about 0.3 an unrelated picture,
    below 0 a negative. A shift of mean tone or of colours at equal luminance costs nothing.
    Source: Wang et al. 2004, c * s with a Gaussian window (sigma 1.5); scikit-image computes it, with K1 so large
    that the luminance term is 1.
    What fools it: texture added to flat areas and changed contrast lower it although nothing was lost; large flat
    areas, equal in both, raise it.
    """
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    values = []
    for a, b, area in _cases(photo, result, mask):
        whole, local = structural_similarity(luminance(a), luminance(b), K1=_WITHOUT_MEANS, full=True, **settings)
        values.append(whole if area is None else np.average(local, weights=area))
    return np.array(values)


def _cases(photo, result, mask) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """What is compared with what, and where."""
    pairs = pair(photo, result)
    found = areas(mask, len(pairs), pairs[0][0].shape[:2])
    return [(a, b, area) for (a, b), area in zip(pairs, found, strict=True)]


def edge_strength(image: np.ndarray) -> np.ndarray:
    """Gradient magnitude of the luminance at :data:`EDGE_SIGMA` pixels, (H, W, 3) -> (H, W)."""
    from scipy.ndimage import gaussian_gradient_magnitude

    return gaussian_gradient_magnitude(luminance(image), EDGE_SIGMA)


def edge_agreement(photo, result, mask=None) -> np.ndarray:
    """Correlation of soft edge maps: are contours where they were?

    Range and direction: [-1, 1], higher keeps more; 1 is the photo itself, about 0 an unrelated picture or noise.
    Contrast, mean tone and the sign of an edge do not matter; an edge may be off by about a pixel, since both maps are
    blurred by :data:`EDGE_TOLERANCE` pixels.
    Source: Pearson correlation of Gaussian gradient magnitudes (scipy).
    What fools it: a few very strong edges dominate; edges between colours of equal luminance are not seen; two flat
    pictures, having no edges to compare, count as 0 unless they are equal.
    """
    from scipy.ndimage import gaussian_filter

    values = []
    for a, b, area in _cases(photo, result, mask):
        first, second = (gaussian_filter(edge_strength(image), EDGE_TOLERANCE) for image in (a, b))
        values.append(1.0 if np.array_equal(a, b) else _correlation(first, second, area))
    return np.array(values)


def _correlation(first: np.ndarray, second: np.ndarray, area: np.ndarray | None) -> float:
    weight = np.ones_like(first) if area is None else area
    first, second = (one - np.average(one, weights=weight) for one in (first, second))
    norm = np.sqrt((weight * first**2).sum() * (weight * second**2).sum())
    return float((weight * first * second).sum() / norm) if norm > _SILENT else 0.0


def low_band_distance(photo, result, mask=None) -> np.ndarray:
    """Difference of the coarse layout of light and dark: the low cosine band of the luminance, mean tone left out.

    Range and direction: [0, 2], lower keeps more; 0 is the photo itself, about 1.4 an unrelated picture or plain grey,
    2 a negative.
    Source: norm of the difference over the root mean square norm of both, over the orthonormal DCT-II coefficients
    (scipy) of up to :data:`LOW_BAND` cycles along the picture's shorter side, without DC.
    What fools it: it is blind to everything finer, so a strong blur costs nothing; a change of contrast costs. SMS's
    spectrum term holds the low band of the *latent*, so this ruler alone does not prove that SMS keeps content.
    """
    from scipy.fft import dctn

    values = []
    for a, b, area in _cases(photo, result, mask):
        band = _low_band(*a.shape[:2])
        first, second = (dctn(_inside(luminance(image), area), norm="ortho")[band] for image in (a, b))
        scale = np.sqrt(((first**2).sum() + (second**2).sum()) / 2)
        values.append(np.sqrt(((first - second) ** 2).sum()) / scale if scale > _SILENT else 0.0)
    return np.array(values)


def _inside(values: np.ndarray, area: np.ndarray | None) -> np.ndarray:
    """What differs from the mean inside an area, faded out towards its border and 0 outside."""
    return values if area is None else (values - np.average(values, weights=area)) * area


def _low_band(height: int, width: int) -> np.ndarray:
    """bool (H, W): coefficients (u, v), of hypot(u / 2H, v / 2W) cycles per pixel, below the limit; DC is left out."""
    frequency = np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width)[None] / (2 * width))
    band = frequency <= LOW_BAND / min(height, width)
    band[0, 0] = False
    return band


def shift_pixels(photo, result, mask=None) -> np.ndarray:
    """How far the result as a whole has moved against the photo, in pixels.

    Range and direction: [0, half the diagonal], lower keeps more; steps of 0.1.
    Source: peak of the cross-correlation of the windowed edge maps (scikit-image, upsampled DFT after Guizar-Sicairos
    et al. 2008); edges rather than tones, so that a style's colours do not count.
    What fools it: it sees one translation only, no scaling and no local drift; where :func:`edge_agreement` is near 0
    there is nothing in common and the number means nothing.
    """
    from scipy.signal.windows import hann
    from skimage.registration import phase_cross_correlation

    values = []
    for a, b, area in _cases(photo, result, mask):
        window = np.outer(hann(a.shape[0]), hann(a.shape[1])) if area is None else area
        first, second = (
            (edges - np.average(edges, weights=area)) * window for edges in (edge_strength(a), edge_strength(b))
        )
        shift, _, _ = phase_cross_correlation(first, second, upsample_factor=SHIFT_PRECISION, normalization=None)
        values.append(float(np.hypot(*shift)))
    return np.array(values)


def color_change(photo, result, mask=None) -> np.ndarray:
    """How much the colours have changed where they stand: the mean difference over the pixels, in Delta E.

    Range and direction: [0, about 100], lower keeps more; 1 is just visible side by side, a stylization as a whole has
    10 to 40.
    Source: CIEDE2000 (Sharma et al. 2005), by scikit-image, from sRGB under D65.
    What fools it: a style is meant to change colours, so it limits a masked logo, label or face, not a whole picture;
    texture and a shift by a pixel count as changes of colour.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    return np.array(
        [
            np.average(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)), weights=area)
            for a, b, area in _cases(photo, result, mask)
        ]
    )
