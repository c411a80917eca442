"""The content rulers on pairs with known truth, and against the libraries they stand on."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import color, data, metrics
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers.content import (
    color_change,
    edge_agreement,
    low_band_distance,
    shift_pixels,
    structure_similarity,
)

RULERS = (structure_similarity, edge_agreement, low_band_distance, shift_pixels)
PERFECT = {structure_similarity: 1.0, edge_agreement: 1.0, low_band_distance: 0.0, shift_pixels: 0.0}


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()[:256, 64:448].astype(np.float64)[None] / 255


@pytest.fixture(scope="module")
def other():
    return data.chelsea()[:256, :384].astype(np.float64)[None] / 255


def blurred(image, sigma):
    return ndimage.gaussian_filter(image, (0, sigma, sigma, 0))


def moved(image, down, right):
    return np.roll(image, (down, right), (1, 2))


def with_other_hue(image):
    """All hues turned by a third, at the same luminance as far as the gamut allows."""
    lch = color.lab2lch(color.rgb2lab(image))
    lch[..., 2] += 2 * np.pi / 3
    return color.lab2rgb(color.lch2lab(lch)).clip(0, 1)


@pytest.mark.parametrize("ruler", RULERS, ids=lambda ruler: ruler.__name__)
def test_the_photo_itself_is_the_perfect_anchor(ruler, photo):
    assert ruler(photo, photo) == pytest.approx([PERFECT[ruler]], abs=1e-9)


@pytest.mark.parametrize("ruler", RULERS, ids=lambda ruler: ruler.__name__)
def test_batches_and_tensors(ruler, photo, other):
    results = np.concatenate([photo, other, blurred(photo, 2)])
    one_by_one = np.concatenate([ruler(photo, results[i : i + 1]) for i in range(3)])
    assert ruler(torch.from_numpy(photo), torch.from_numpy(results)) == pytest.approx(one_by_one)
    assert ruler(photo[0], results[0]).shape == (1,)


@pytest.mark.parametrize("ruler", (structure_similarity, edge_agreement), ids=lambda ruler: ruler.__name__)
def test_falls_with_blur_and_noise_and_is_low_for_another_picture(ruler, photo, other):
    noise = np.random.default_rng(1).normal(size=photo.shape)
    blurs = [ruler(photo, blurred(photo, sigma))[0] for sigma in (1, 2, 4, 8)]
    noises = [ruler(photo, (photo + amount * noise).clip(0, 1))[0] for amount in (0.05, 0.15, 0.4)]
    assert blurs == sorted(blurs, reverse=True) and noises == sorted(noises, reverse=True)
    assert abs(ruler(photo, other)[0]) < 0.35


@pytest.mark.parametrize("ruler", RULERS, ids=lambda ruler: ruler.__name__)
def test_hue_hardly_matters(ruler, photo):
    worst = {structure_similarity: 0.85, edge_agreement: 0.95, low_band_distance: 0.15, shift_pixels: 0.15}[ruler]
    value = ruler(photo, with_other_hue(photo))[0]
    assert value >= worst if PERFECT[ruler] == 1 else value <= worst


def test_structure_similarity_ignores_mean_tone_and_agrees_with_scikit_image_where_means_agree(photo):
    soft = 0.3 + 0.4 * photo
    assert structure_similarity(soft, soft + 0.2) == pytest.approx([1.0], abs=1e-6)
    grey = soft @ np.array([0.2126, 0.7152, 0.0722])
    noisy = grey + 0.05 * np.random.default_rng(2).normal(size=grey.shape)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    whole = metrics.structural_similarity(grey[0], noisy[0], **settings)
    stacked = [np.repeat(image[..., None], 3, -1) for image in (grey, noisy)]
    # zero-mean noise leaves local means as they are, so the luminance term is nearly 1 in the whole index too
    assert structure_similarity(*stacked)[0] == pytest.approx(whole, abs=0.01)


def test_structure_similarity_is_contrast_times_structure_of_wang(photo):
    """Equation 6 of Wang et al. 2004 without l, by SciPy's Gaussian window, over the windows that lie inside."""
    noisy = (photo + 0.1 * np.random.default_rng(13).normal(size=photo.shape)).clip(0, 1)
    first, second = (picture[0] @ np.array([0.2126, 0.7152, 0.0722]) for picture in (photo, noisy))

    def mean(values):
        return ndimage.gaussian_filter(values, 1.5, truncate=3.5)

    both = mean(first * second) - mean(first) * mean(second)
    own = sum(mean(each**2) - mean(each) ** 2 for each in (first, second))
    local = (2 * both + 0.03**2) / (own + 0.03**2)
    assert structure_similarity(photo, noisy)[0] == pytest.approx(local[5:-5, 5:-5].mean(), abs=1e-5)


def test_structure_similarity_is_negative_for_a_negative():
    """Where there is texture everywhere; flat areas of a photograph count as alike."""
    texture = np.random.default_rng(12).uniform(size=(1, 64, 64, 1)).repeat(3, -1)
    assert structure_similarity(texture, 1 - texture)[0] < -0.9


def test_edge_agreement_ignores_contrast_and_the_sign_of_edges(photo):
    soft = 0.3 + 0.4 * photo
    assert edge_agreement(photo, soft) == pytest.approx([1.0], abs=1e-9)
    assert edge_agreement(photo, 1 - photo) == pytest.approx([1.0], abs=1e-9)


def test_edge_agreement_forgives_one_pixel_not_eight(photo):
    assert edge_agreement(photo, moved(photo, 0, 1))[0] > 0.85
    assert edge_agreement(photo, moved(photo, 0, 8))[0] < 0.5


def test_edge_agreement_without_edges():
    grey, white = np.full((1, 32, 32, 3), 0.5), np.ones((1, 32, 32, 3))
    assert edge_agreement(grey, white) == pytest.approx([0.0])
    assert edge_agreement(grey, grey) == pytest.approx([1.0])


def test_low_band_sees_layout_only(photo, other):
    noise = 0.1 * np.random.default_rng(3).normal(size=photo.shape)
    assert low_band_distance(photo, blurred(photo, 2))[0] < 0.1
    assert low_band_distance(photo, photo + noise)[0] < 0.1
    assert low_band_distance(0.5 * photo, 0.5 * photo + 0.3) == pytest.approx([0.0], abs=1e-9)
    assert low_band_distance(photo, np.full_like(photo, 0.5)) == pytest.approx([2**0.5], abs=1e-9)
    assert low_band_distance(photo, 1 - photo) == pytest.approx([2.0], abs=1e-9)
    assert low_band_distance(photo, other)[0] > 0.9


@pytest.mark.parametrize("shift", [(0, 3), (5, 0), (-4, 7)])
def test_shift_is_found_exactly_in_whole_pixels(photo, shift):
    assert shift_pixels(photo, moved(photo, *shift))[0] == pytest.approx(np.hypot(*shift), abs=0.3)


def test_shift_is_found_below_a_pixel_and_under_another_look(photo):
    half = np.stack([ndimage.shift(photo[0, ..., c], (0.5, 0), order=3, mode="nearest") for c in range(3)], -1)
    assert shift_pixels(photo, half)[0] == pytest.approx(0.5, abs=0.15)
    posterised = np.round(with_other_hue(moved(photo, 0, 4)) * 4) / 4
    assert shift_pixels(photo, posterised)[0] == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("ruler", RULERS, ids=lambda ruler: ruler.__name__)
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (np.zeros((1, 32, 48, 3)), "48x32"),
        (np.zeros((2, 32, 32, 4)), "not \\(B, H, W, 3\\)"),
        (np.zeros((1, 32, 32, 3), np.uint8), "uint8"),
        (np.full((1, 32, 32, 3), np.nan), "NaN"),
        (np.zeros((0, 32, 32, 3)), "shape"),
    ],
    ids=["size", "channels", "integers", "nan", "empty"],
)
def test_bad_input_is_named(ruler, broken, said):
    with pytest.raises(StylizationError, match=said):
        ruler(np.full((1, 32, 32, 3), 0.5), broken)


def test_batches_that_do_not_match():
    with pytest.raises(StylizationError, match="2 and 3 pictures"):
        structure_similarity(np.zeros((2, 32, 32, 3)), np.zeros((3, 32, 32, 3)))


SHARMA = [
    ((50, 2.5, 0), (56, -27, -3), 31.9030),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((61.2901, 3.7196, -5.3901), (61.4292, 2.2480, -4.9620), 1.8731),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
]
"""Lab, Lab and Delta E 2000 from table 1 of Sharma et al. 2005, those that sRGB can show."""


@pytest.mark.parametrize(("first", "second", "wanted"), SHARMA)
def test_color_change_of_even_pictures_is_the_published_one(first, second, wanted):
    pictures = [color.lab2rgb(np.broadcast_to(np.array(lab, float), (1, 8, 8, 3))) for lab in (first, second)]
    assert color_change(*pictures)[0] == pytest.approx(wanted, abs=2e-3)


def test_color_change_is_the_mean_over_pixels(photo, other):
    wanted = color.deltaE_ciede2000(color.rgb2lab(photo), color.rgb2lab(other)).mean()
    assert color_change(photo, other)[0] == pytest.approx(wanted)
    mask = np.zeros((1, 256, 384))
    mask[:, :, :192], mask[:, :, 192:288] = 1.0, 0.5
    weighted = color_change(photo, other, mask)[0]
    parts = [color_change(photo[:, :, s], other[:, :, s])[0] for s in (slice(192), slice(192, 288))]
    assert weighted == pytest.approx((parts[0] * 192 + parts[1] * 48) / 240)


def test_color_change_of_black_to_white_and_of_greys():
    """Of greys, Delta E 2000 is the difference in lightness over its weight S_L at their mean lightness."""
    grey = [color.lab2rgb(np.broadcast_to(np.array([light, 0.0, 0.0]), (1, 4, 4, 3))) for light in (40.0, 70.0)]
    mean = 55.0
    weight = 1 + 0.015 * (mean - 50) ** 2 / np.sqrt(20 + (mean - 50) ** 2)
    assert color_change(*grey)[0] == pytest.approx(30 / weight, rel=1e-3)
    assert color_change(np.zeros((1, 4, 4, 3)), np.ones((1, 4, 4, 3)))[0] == pytest.approx(100, abs=0.01)


def test_color_change_grows_with_hue(photo):
    lch = color.lab2lch(color.rgb2lab(0.3 + 0.4 * photo))
    turned = []
    for angle in (0.1, 0.4, 1.0):
        other = lch.copy()
        other[..., 2] += angle
        turned.append(color_change(color.lab2rgb(color.lch2lab(lch)), color.lab2rgb(color.lch2lab(other)))[0])
    assert turned == sorted(turned) and turned[0] > 0.5


@pytest.mark.parametrize(("ruler", "least"), [(structure_similarity, 11), (shift_pixels, 8)])
def test_pictures_too_small_are_named(ruler, least):
    enough = np.random.default_rng(7).uniform(size=(1, least, 40, 3))
    assert np.isfinite(ruler(enough, enough)).all()
    with pytest.raises(StylizationError, match=f"40x{least - 1} pixels.*at least {least}"):
        ruler(enough[:, 1:], enough[:, 1:])


@pytest.mark.parametrize("part", [0.25, 0.5, 0.8])
def test_shift_below_a_pixel_by_the_fourier_shift_theorem(part):
    """A band-limited texture, moved exactly."""
    texture = ndimage.gaussian_filter(np.random.default_rng(8).normal(size=(96, 128)), 2, mode="wrap")
    texture = 0.5 + 0.1 * texture / texture.std()
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(texture), (3 + part, 0))).real
    pictures = [each[None, ..., None].repeat(3, -1) for each in (texture, moved)]
    assert shift_pixels(*pictures)[0] == pytest.approx(3 + part, abs=0.11)


def test_low_band_of_cosines_is_their_closed_form():
    """One wave of the basis against another: norms of two coefficients; beyond the band nothing is seen."""
    places = (np.arange(64) + 0.5) / 64
    wave = {number: 0.5 + 0.2 * np.cos(np.pi * number * places)[None, :, None, None] for number in (3, 5, 16, 17)}
    wave = {number: np.broadcast_to(each, (1, 64, 64, 3)) for number, each in wave.items()}
    assert low_band_distance(wave[3], wave[5]) == pytest.approx([2**0.5])
    assert low_band_distance(wave[3], 0.25 + 0.5 * wave[3]) == pytest.approx([0.5 / (1.25 / 2) ** 0.5])
    assert low_band_distance(wave[3], wave[3] + wave[17] - 0.5) == pytest.approx([0], abs=1e-9)
    assert low_band_distance(wave[3], wave[3] + wave[16] - 0.5)[0] > 0.5


def test_a_crop_and_a_scaling_cost_on_every_ruler_of_places(photo):
    """The same subject, drawn larger by a tenth, is not where it was."""
    zoomed = ndimage.zoom(photo[0], (1.1, 1.1, 1), order=1)[None, 13:269, 19:403].clip(0, 1)
    assert structure_similarity(photo, zoomed)[0] < 0.6
    assert edge_agreement(photo, zoomed)[0] < 0.5
    assert low_band_distance(photo, zoomed)[0] > 0.3
