"""Legibility on labels that PIL writes: what people can and cannot read."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from skimage import filters
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers.content import legibility

SHAPE = (72, 256)
WORDS = {14: "Fresh mountain honey 250 g", 24: "Mountain honey", 40: "HONEY 42"}
OTHERS = {14: "Bottled by the old riverside", 24: "Grandma pickle", 40: "TRUCK 78"}
MASK = np.zeros((1, *SHAPE))
MASK[:, 8:64, 8:248] = 1


def label(words, size, ink=(20, 20, 20), paper=(235, 230, 220)):
    picture = Image.new("RGB", SHAPE[::-1], paper)
    place = (16, SHAPE[0] // 2)
    ImageDraw.Draw(picture).text(place, words, ink, ImageFont.load_default(size), anchor="lm")
    return np.asarray(picture, np.float64)[None] / 255


def melted(picture, amount, seed=0):
    """Every place moved at random by ``amount`` pixels, smoothly over a glyph."""
    random = np.random.default_rng(seed)
    drift = [ndimage.gaussian_filter(random.normal(size=SHAPE), 4) for _ in range(2)]
    places = np.indices(SHAPE) + np.stack([amount * one / one.std() for one in drift])
    return np.stack(
        [ndimage.map_coordinates(picture[0, ..., c], places, order=1, mode="nearest") for c in range(3)], -1
    )[None]


@pytest.fixture(params=sorted(WORDS))
def size(request):
    return request.param


@pytest.fixture
def photo(size):
    return label(WORDS[size], size)


def read(photo, result):
    return legibility(photo, result, MASK)[0]


def test_restyled_but_readable_stays_high(size, photo):
    noise = np.random.default_rng(5).normal(size=photo.shape)
    shaded = photo * np.linspace(0.5, 1, SHAPE[1])[:, None]
    assert read(photo, photo) == pytest.approx(1, abs=1e-12)
    assert read(photo, label(WORDS[size], size, (90, 10, 30), (250, 210, 90))) > 0.95
    assert read(photo, 0.5 + 0.7 * (photo - 0.5)) > 0.95
    assert read(photo, 1 - photo) > 0.95
    assert read(photo, shaded) > 0.95
    assert read(photo, (photo + 0.1 * noise).clip(0, 1)) > 0.9
    assert read(photo, np.roll(photo, 1, 2)) > 0.95


def test_what_cannot_be_read_is_low(size, photo):
    assert read(photo, label(OTHERS[size], size)) < 0.3
    assert read(photo, melted(photo, 4)) < 0.3
    assert read(photo, ndimage.gaussian_filter(photo, (0, size / 5, size / 5, 0))) < 0.3
    assert read(photo, np.random.default_rng(6).uniform(size=photo.shape)) < 0.1
    assert read(photo, np.full_like(photo, 0.5)) == 0


def test_it_falls_with_blur_melting_and_lost_contrast(photo):
    blurs = [read(photo, ndimage.gaussian_filter(photo, (0, s, s, 0))) for s in (0.3, 1, 2, 4, 8)]
    melting = [read(photo, melted(photo, amount)) for amount in (0.5, 1, 2, 4)]
    fading = [read(photo, 0.5 + share * (photo - 0.5)) for share in (0.45, 0.3, 0.15, 0.05)]
    for values in (blurs, melting, fading):
        assert values == sorted(values, reverse=True) and values[0] > values[-1] + 0.3


def test_contrast_costs_nothing_down_to_a_half_then_in_proportion(photo):
    assert read(photo, 0.5 + 0.5 * (photo - 0.5)) == pytest.approx(1)
    assert read(photo, 0.5 + 0.2 * (photo - 0.5)) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("size", [24, 40])
def test_agreement_is_matthews_correlation_of_otsu_maps(size):
    """Against scikit-image and NumPy; the ground is even, so the local mean hardly matters; the contrast is left."""
    photo = label(WORDS[size], size)
    result = melted(photo, 1.5)
    everything = np.ones((1, *SHAPE))
    grey = [picture[0] @ np.array([0.2126, 0.7152, 0.0722]) for picture in (photo, result)]
    maps = [light > filters.threshold_otsu(light) for light in grey]
    here = [maps[0][1:-1, 1:-1], maps[1]]
    moves = [(down, right) for down in range(3) for right in range(3)]
    best = max(
        np.corrcoef(here[0].ravel(), here[1][down : down + SHAPE[0] - 2, right : right + SHAPE[1] - 2].ravel())[0, 1]
        for down, right in moves
    )
    assert legibility(photo, result, everything)[0] == pytest.approx(best, abs=0.03)


def test_letters_of_equal_luminance_are_not_seen(size, photo):
    assert read(photo, label(WORDS[size], size, (200, 60, 60), (60, 106, 60))) < 0.1


def test_only_the_marked_label_counts(photo):
    outside = np.where(MASK[..., None] > 0, photo, 0.3)
    assert read(photo, outside) == pytest.approx(1, abs=1e-12)


def test_no_mask_or_nothing_to_read(photo):
    with pytest.raises(StylizationError, match="mask: there is none.*Mark the text"):
        legibility(photo, photo, None)
    with pytest.raises(StylizationError, match="the photo is even where it marks"):
        legibility(np.full_like(photo, 0.5), photo, MASK)
