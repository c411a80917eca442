"""How much of a photograph's content is still there in a result.

Each function takes (B, H, W, 3) pictures in [0, 1], numpy or torch, and returns a float64 array (B,). With a mask
(B or 1, H, W) in [0, 1] only what it marks counts. Numbers mean something only beside the two anchors: the photo itself
as result, and a style exemplar as result.
"""

from __future__ import annotations

import numpy as np

from ..errors import StylizationError
from .images import areas, at_least, box, luminance, pair

EDGE_SIGMA = 1.5
EDGE_TOLERANCE = 1.5
LOW_BAND = 8.0
SHIFT_PRECISION = 10
ENOUGH_CONTRAST = 0.5
NUDGE = 1
_WITHOUT_MEANS = 1e4
_BORDER = 5
_NARROW = 8
_FAINT = 2 / 255
_SILENT = 1e-12


def structure_similarity(photo, result, mask=None) -> np.ndarray:
    """SSIM of the luminance without its luminance term: do the same local ups and downs stand at the same places?

    Range and direction: [-1, 1], higher keeps more; 1 is the photo itself, up to about 0.3 an unrelated picture,
    below 0 a negative. A shift of mean tone or of colours at equal luminance costs nothing.
    Source: Wang et al. 2004, c * s with a Gaussian window (sigma 1.5); scikit-image computes it, with K1 so large
    that the luminance term is 1.
    What fools it: texture added to flat areas and changed contrast lower it although nothing was lost; large flat
    areas, equal in both, raise it; up to 5 pixels outside of a mask count too.
    """
    from skimage.metrics import structural_similarity

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    values = []
    for a, b, area in _cases(photo, result, mask):
        at_least(2 * _BORDER + 1, a.shape)
        whole, local = structural_similarity(luminance(a), luminance(b), K1=_WITHOUT_MEANS, full=True, **settings)
        values.append(whole if area is None else np.average(local, weights=_off_the_border(area)))
    return np.array(values)


def _off_the_border(area: np.ndarray) -> np.ndarray:
    """Without the frame where windows reach over the border, as in scikit-image's mean, unless it is all there is."""
    inner = np.zeros_like(area)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = area[_BORDER:-_BORDER, _BORDER:-_BORDER]
    return inner if inner.any() else area


def _cases(photo, result, mask) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """What is compared with what, and where."""
    pairs = pair(photo, result)
    masks = areas(mask, len(pairs), pairs[0][0].shape[:2])
    return [(a, b, area) for (a, b), area in zip(pairs, masks, strict=True)]


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
    pictures, having no edges to compare, count as 0 unless they are equal; up to 12 pixels outside of a mask count too.
    """
    from scipy.ndimage import gaussian_filter

    values = []
    for a, b, area in _cases(photo, result, mask):
        first, second = (gaussian_filter(edge_strength(image), EDGE_TOLERANCE) for image in (a, b))
        values.append(1.0 if np.array_equal(a, b) else _correlation(first, second, area))
    return np.array(values)


def _correlation(first: np.ndarray, second: np.ndarray, area: np.ndarray | None) -> float:
    weight = np.ones_like(first) if area is None else area
    first, second = (values - np.average(values, weights=weight) for values in (first, second))
    norm = np.sqrt((weight * first**2).sum() * (weight * second**2).sum())
    return float((weight * first * second).sum() / norm) if norm > _SILENT else 0.0


def low_band_distance(photo, result, mask=None) -> np.ndarray:
    """Difference of the coarse layout of light and dark: the low cosine band of the luminance, mean tone left out.

    Range and direction: [0, 2], lower keeps more; 0 is the photo itself, about 1.4 an unrelated picture or plain grey,
    2 a negative.
    Source: norm of the difference over the root mean square norm of both, over the orthonormal DCT-II coefficients
    (scipy) of up to :data:`LOW_BAND` cycles along the shorter side, without DC. With a mask: of the rectangle around
    it, everything outside of the mask being at the mean.
    What fools it: it is blind to everything finer, so a strong blur costs nothing; a change of contrast costs. SMS's
    spectrum term holds the low band of the *latent*, so this ruler alone does not prove that SMS keeps content.
    """
    from scipy.fft import dctn

    values = []
    for a, b, area in _cases(photo, result, mask):
        first, second = (_inside(luminance(image), area) for image in (a, b))
        band = _low_band(*first.shape)
        first, second = (dctn(light, norm="ortho")[band] for light in (first, second))
        scale = np.sqrt(((first**2).sum() + (second**2).sum()) / 2)
        values.append(np.sqrt(((first - second) ** 2).sum()) / scale if scale > _SILENT else 0.0)
    return np.array(values)


def _inside(values: np.ndarray, area: np.ndarray | None) -> np.ndarray:
    """What differs from the mean inside an area, 0 outside, in the rectangle around it."""
    if area is None:
        return values
    where = box(area)
    return (values[where] - np.average(values, weights=area)) * area[where]


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
    et al. 2008); edges rather than tones, so that a style's colours do not count. With a mask: in the rectangle around
    it, under a window that fades out towards the mask's border, so that what stands still along it does not count.
    What fools it: it sees one translation only, no scaling and no local drift; a shift by more than about a third of
    the picture or mask is not found; where :func:`edge_agreement` is near 0 there is nothing in common and the number
    means nothing.
    """
    from skimage.registration import phase_cross_correlation

    values = []
    for a, b, area in _cases(photo, result, mask):
        at_least(_NARROW, a.shape)
        area = np.ones(a.shape[:2]) if area is None else area
        where = box(area)
        at_least(_NARROW, area[where].shape, "what the mask marks")
        window = _window(area[where])
        first, second = (_correlated(edge_strength(image)[where], window) for image in (a, b))
        shift, _, _ = phase_cross_correlation(first, second, upsample_factor=SHIFT_PRECISION, normalization=None)
        values.append(float(np.hypot(*shift)))
    return np.array(values)


def _window(area: np.ndarray) -> np.ndarray:
    """Hann window of a rectangle; of any other mask in it sin^2 of the depth, 0 along the mask's border."""
    from scipy.ndimage import distance_transform_edt
    from scipy.signal.windows import hann

    marked = area >= area.max() / 2
    if marked.all():
        return np.outer(*(hann(side + 2)[1:-1] for side in area.shape)) * area
    depth = distance_transform_edt(np.pad(marked, 1))[1:-1, 1:-1]
    return np.sin(np.pi / 2 * depth / depth.max()) ** 2 * area


def _correlated(values: np.ndarray, window: np.ndarray) -> np.ndarray:
    return (values - np.average(values, weights=window)) * window


def color_change(photo, result, mask=None) -> np.ndarray:
    """How much the colours have changed where they stand: the mean difference over the pixels, in Delta E.

    Range and direction: [0, about 100], lower keeps more; 1 is just visible side by side, a stylization as a whole has
    10 to 40.
    Source: CIEDE2000 (Sharma et al. 2005), by scikit-image, from sRGB under D65.
    What fools it: a style is meant to change colours, so it limits a masked logo, label or face, not a whole picture;
    texture and a shift by a pixel count as changes of colour.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    values = []
    for a, b, area in _cases(photo, result, mask):
        area = np.ones(a.shape[:2]) if area is None else area
        change = deltaE_ciede2000(*(rgb2lab(image[area > 0]) for image in (a, b)))
        values.append(np.average(change, weights=area[area > 0]))
    return np.array(values)


def legibility(photo, result, mask) -> np.ndarray:
    """Can a label or text still be read? The mask marks it, best with some ground around the letters.

    Range and direction: [0, 1], higher keeps more; 1 is the photo itself, up to about 0.3 other text or another
    picture, 0 nothing at all; below about 0.5 words are guessed rather than read.
    Source: agreement of the strokes times what is left of their contrast. Strokes are told from the ground by Otsu's
    threshold (1979, scikit-image) on the luminance less its local mean; agreement is Matthews' correlation of the two
    maps, 0 by chance, the best of shifts by up to :data:`NUDGE` pixel. The contrast is the difference in mean luminance
    between strokes and ground; down to half of the photo's it counts in full. Letters that turn from dark on light to
    light on dark are as readable.
    What fools it: it compares strokes and reads nothing, so readable text in another typeface, size or place counts as
    lost; letters told by hue alone are not seen; grain as strong as the strokes costs more than it costs a reader; a
    mask that marks no text measures the light and dark of whatever is there.

    Raises:
        StylizationError: no mask, or the photo is even where it marks.
    """
    if mask is None:
        raise StylizationError("mask", "there is none, so it is not known where the text is", "Mark the text")
    values = []
    for a, b, area in _cases(photo, result, mask):
        where = box(area >= area.max() / 2)
        marked = np.pad(area[where] >= area.max() / 2, NUDGE)
        first, second = (_relief(np.pad(luminance(image)[where], NUDGE), marked) for image in (a, b))
        values.append(_read(first, second, marked))
    return np.array(values)


def _relief(light: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Luminance less its mean nearby (a box as wide as the shorter side, twice); nothing outside the mask counts."""
    from scipy.ndimage import uniform_filter

    mean, share = light * marked, marked.astype(float)
    for _ in range(2):
        mean, share = (uniform_filter(part, min(light.shape), mode="constant") for part in (mean, share))
    return (light - mean / np.maximum(share, _SILENT)) * marked


def _read(first: np.ndarray, second: np.ndarray, marked: np.ndarray) -> float:
    """Legibility in ``second`` of the text in ``first``, each what :func:`_relief` gives."""
    from skimage.filters import threshold_otsu

    if np.ptp(first[marked]) < _FAINT:
        raise StylizationError("mask", "the photo is even where it marks", "Mark a text or label that can be read")
    if np.ptp(second[marked]) < _FAINT:
        return 0.0
    strokes, of_result = (light > threshold_otsu(light[marked]) for light in (first, second))
    steps = range(-NUDGE, NUDGE + 1)
    moves = [(down, right) for down in steps for right in steps]
    agreements = [abs(_agreement(strokes, *np.roll((of_result, marked), move, (1, 2)), marked)) for move in moves]
    best = int(np.argmax(agreements))
    before, after = _contrast(first, strokes, marked), _contrast(np.roll(second, moves[best], (0, 1)), strokes, marked)
    return float(agreements[best] * min(1.0, after / (ENOUGH_CONTRAST * before)))


def _agreement(strokes: np.ndarray, of_result: np.ndarray, there: np.ndarray, marked: np.ndarray) -> float:
    """Matthews' correlation of two maps (bool) where both are known."""
    both = marked & there
    total, first, second = (float(np.count_nonzero(area & both)) for area in (both, strokes, of_result))
    common = float(np.count_nonzero(strokes & of_result & both))
    norm = np.sqrt(first * (total - first) * second * (total - second))
    return (common * total - first * second) / norm if norm > 0 else 0.0


def _contrast(light: np.ndarray, strokes: np.ndarray, marked: np.ndarray) -> float:
    return abs(float(light[strokes & marked].mean() - light[~strokes & marked].mean()))
