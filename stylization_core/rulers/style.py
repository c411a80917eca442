"""How far a result has come from a photograph towards a style that a few exemplar pictures show.

Pictures are (B, H, W, 3) in [0, 1], numpy or torch; exemplars may have another size than the
result. Nothing here needs a trained network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import StylizationError
from .images import areas, at_least, batch, luminance

ROTATIONS = 16
PIXELS = 2**15
QUANTILES = 512
SEED = 20260
WAVELET = "sym4"
SCALES = 4
FAINT = 1e-3
"""Smallest band amplitude told apart, a quarter of an 8-bit step: below it there is only quantisation."""


@dataclass(frozen=True)
class StyleProgress:
    """Share of the way from the photo to the style, each a float64 array (B,).

    0 is the photo itself, 1 lies at the exemplars' centre, negative is further away than the photo was. Exemplars
    differ among themselves, so a true picture of the style stays below 1: see :func:`style_copy_progress`.
    """

    color: np.ndarray
    texture: np.ndarray

    @property
    def combined(self) -> np.ndarray:
        """Mean of the two shares. A colour transfer, which wins one half only, should not come far beyond 0.5."""
        return (self.color + self.texture) / 2


def color_distance(result, exemplars, mask=None) -> np.ndarray:
    """Transport distance of the colours, in CIELAB units, to the barycentre of the exemplars.

    Range and direction: [0, about 100], lower is nearer. A uniform shift of all colours by some Delta E (CIE 1976)
    measures exactly that Delta E.
    Source: sliced 2-Wasserstein distance (Rabin et al. 2011) of the clouds of pixels along the axes of
    :data:`ROTATIONS` seeded random rotations, times sqrt(3); scikit-image converts, at most :data:`PIXELS` seeded
    pixels of a picture count.
    What fools it: where a colour stands does not matter, so a colour transfer without any brush stroke reaches 0; a
    picture of another subject is far even in the same style.
    """
    return _color_gap(_color_features(result, "result", mask), _center(_color_features(exemplars, "exemplars")))


def _color_features(images, subject: str, mask=None) -> np.ndarray:
    return np.stack([_color_quantiles(*case) for case in _cases(images, subject, mask)])


def _cases(images, subject: str, mask) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Pictures, each with the pixels (bool, (H, W)) that count: at least half as marked as any."""
    pictures = batch(images, subject)
    masks = areas(mask, len(pictures), pictures.shape[1:3])
    inside = (None if area is None else area >= area.max() / 2 for area in masks)
    return list(zip(pictures, inside, strict=True))


def _color_gap(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.sqrt(3 * ((features - wanted) ** 2).mean(axis=(1, 2)))


def _center(features: np.ndarray) -> np.ndarray:
    """Of quantiles along a direction the mean over pictures is the Wasserstein barycentre of their clouds there."""
    return features.mean(axis=0, keepdims=True)


def _color_quantiles(image: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Quantiles of the Lab pixels along each direction, (directions, QUANTILES)."""
    from skimage.color import rgb2lab

    pixels = rgb2lab(image).reshape(-1, 3)
    if inside is not None:
        pixels = pixels[inside.ravel()]
    random = np.random.default_rng(SEED)
    # whole rotations: the mean of u u^T over the directions is exactly 1/3, so that shifts measure their length
    directions = np.linalg.qr(random.normal(size=(ROTATIONS, 3, 3)))[0].reshape(-1, 3)
    if len(pixels) > PIXELS:
        pixels = pixels[random.choice(len(pixels), PIXELS, replace=False)]
    along = np.sort(pixels @ directions.T, axis=0)
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    places = (np.arange(len(along)) + 0.5) / len(along)
    return np.stack([np.interp(levels, places, column) for column in along.T])


def texture_distance(result, exemplars, mask=None) -> np.ndarray:
    """Distance of texture statistics, in octaves (factors of two), to the mean statistics of the exemplars.

    Range and direction: [0, about 6], lower is nearer; 1 is as if every band were twice as strong.
    Source: root mean square difference of two marginal statistics per band, as in the texture models of Heeger and
    Bergen 1995 and Portilla and Simoncelli 2000: log2 of the band's root mean square (how much of this scale and
    orientation there is) and of its ratio to the mean modulus (how sparse it is, a robust stand-in for kurtosis). The
    bands are horizontal, vertical and diagonal details of :data:`SCALES` octaves of the luminance's stationary wavelet
    transform (PyWavelets, :data:`WAVELET`).
    What fools it: a blur or grain of the right strength; the two diagonals are not told apart; scales count in pixels,
    so exemplars should have about the size of the result; the subject's own texture counts too, so that near
    styles overlap: results by one painting are the nearest, but prints of one hand hardly nearer to each other than to
    another painter's; at the coarsest scale some 50 pixels outside of a mask count, and strong edges along it.
    """
    return _texture_gap(_texture_features(result, "result", mask), _center(_texture_features(exemplars, "exemplars")))


def _texture_features(images, subject: str, mask=None) -> np.ndarray:
    return np.stack([texture_statistics(*case) for case in _cases(images, subject, mask)])


def _texture_gap(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.sqrt(((features - wanted) ** 2).mean(axis=(1, 2)))


def texture_statistics(image: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Two statistics of each band, (SCALES * 3, 2), from (H, W, 3), over the pixels inside."""
    from pywt import swt2

    light = luminance(image)
    height, width = light.shape
    unit = 2**SCALES
    at_least(2 * unit, light.shape)
    light = np.pad(light, ((0, -height % unit), (0, -width % unit)), mode="symmetric")
    rows = []
    for _, details in swt2(light, WAVELET, level=SCALES, norm=True):
        for band in details:
            band = band[:height, :width] if inside is None else band[:height, :width][inside]
            amplitude = max(float(np.sqrt((band**2).mean())), FAINT)
            modulus = max(float(np.abs(band).mean()), FAINT / np.sqrt(2))
            rows.append((np.log2(amplitude), np.log2(max(amplitude / modulus, 1.0))))
    return np.array(rows)


def style_progress(photo, result, exemplars, mask=None) -> StyleProgress:
    """Share of the way from the photo to the style: 1 - d(result, exemplars) / d(photo, exemplars), for each distance.

    Args:
        photo: one picture, or one per result.
        result: the pictures to judge.
        exemplars: pictures of the style, best of other subjects than the photo.
        mask: (B or 1, H, W); what counts of the result, and of the photo behind it.

    Raises:
        StylizationError: the photo has no distance to the exemplars, so there is no way to measure.
    """
    return StyleTarget.of(exemplars).progress(photo, result, mask)


@dataclass(frozen=True)
class StyleTarget:
    """What exemplars of a style measure, once for many pictures: the centres of their colours and textures."""

    centers: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, exemplars) -> StyleTarget:
        """Of exemplars (B, H, W, 3)."""
        return cls(tuple(_center(features(exemplars, "exemplars")) for _, features, _ in _RULERS))

    def distances(self, pictures, subject: str = "result", mask=None) -> dict[str, np.ndarray]:
        """:func:`color_distance` and :func:`texture_distance` of pictures, by "color" and "texture"."""
        measures = zip(_RULERS, self.centers, strict=True)
        return {name: gap(features(pictures, subject, mask), center) for (name, features, gap), center in measures}

    def progress(self, photo, result, mask=None) -> StyleProgress:
        """As :func:`style_progress`."""
        photo, result = batch(photo, "photo"), batch(result, "result")
        if mask is not None and len(photo) == 1:
            # each result's mask looks at another part of the one photo
            photo = photo.repeat(len(result), axis=0)
        left, whole = self.distances(result, "result", mask), self.distances(photo, "photo", mask)
        return StyleProgress(**{name: _share(left[name], whole[name], name) for name in left})


_RULERS = (("color", _color_features, _color_gap), ("texture", _texture_features, _texture_gap))


def _share(left: np.ndarray, whole: np.ndarray, name: str) -> np.ndarray:
    if (whole <= 0).any():
        raise StylizationError("photo", f"its {name} distance to the exemplars is 0", "Give exemplars of the style")
    return 1 - left / whole


def style_copy_progress(photo, exemplars, mask=None) -> StyleProgress:
    """The anchor for :func:`style_progress`: what true pictures of the style reach, each measured against the others.

    Args:
        photo: one picture.
        mask: (1, H, W); what counts of it.

    Returns:
        One number a ruler, (1,): the mean over the exemplars.

    Raises:
        StylizationError: fewer than two exemplars.
    """
    exemplars = _several(exemplars, "exemplars")
    shares = {}
    for name, features, gap in _RULERS:
        wanted = features(exemplars, "exemplars")
        others = _others(wanted)
        whole = gap(features(photo, "photo", mask)[:1], others)
        shares[name] = _share(gap(wanted, others), whole, name).mean(keepdims=True)
    return StyleProgress(**shares)


def _several(pictures, subject: str) -> np.ndarray:
    pictures = batch(pictures, subject)
    if len(pictures) < 2:
        raise StylizationError(subject, f"there are {len(pictures)}", "Give two or more")
    return pictures


def _others(features: np.ndarray) -> np.ndarray:
    """Row i: the centre of the features of all pictures but the i-th."""
    return (len(features) * _center(features) - features) / (len(features) - 1)


@dataclass(frozen=True)
class SetDistance:
    """How unlike the pictures of a set are, the mean over all pairs; 0 for copies of one picture.

    Attributes:
        color: in CIELAB units, see :func:`color_distance`.
        texture: in octaves, see :func:`texture_distance`.
    """

    color: float
    texture: float


def set_distance(pictures, mask=None) -> SetDistance:
    """Mean distance in colour and texture between the pictures of a set.

    Range and direction: as of the two distances, lower is more consistent. Different things in one style stay above 0.
    Source: set consistency as in StyleAligned (Hertz et al. 2024, section 5), the mean over all pairs, with transport
    and wavelet statistics in the place of a network's features.
    What fools it: copies of one picture are perfectly consistent, so read it beside what the pictures show.

    Args:
        pictures: two or more of one size.
        mask: (B or 1, H, W); what counts of each.

    Raises:
        StylizationError: fewer than two.
    """
    pictures = _several(pictures, "pictures")
    first, second = np.triu_indices(len(pictures), 1)
    distances = {}
    for name, features, gap in _RULERS:
        measured = features(pictures, "pictures", mask)
        distances[name] = float(gap(measured[first], measured[second]).mean())
    return SetDistance(**distances)


def style_copy_distance(exemplars) -> SetDistance:
    """The anchor for the two distances: how far a true picture of the style is from the others of it.

    Returns:
        The mean over the exemplars, each measured against all others.

    Raises:
        StylizationError: fewer than two exemplars.
    """
    exemplars = _several(exemplars, "exemplars")
    distances = {}
    for name, features, gap in _RULERS:
        wanted = features(exemplars, "exemplars")
        distances[name] = float(gap(wanted, _others(wanted)).mean())
    return SetDistance(**distances)
