"""The style rulers on pairs with known truth, and against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from skimage import color, data, exposure
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers.style import (
    SCALES,
    color_distance,
    set_distance,
    style_copy_progress,
    style_progress,
    texture_distance,
    texture_statistics,
)

SHAPE = (1, 96, 128, 3)


def random_picture(seed, shape=SHAPE):
    return np.random.default_rng(seed).uniform(0.25, 0.75, size=shape)


def crops(image, count):
    """``count`` neighbouring crops of one picture, as float batches."""
    return np.stack([image[:192, i * 90 : i * 90 + 256] for i in range(count)]).astype(np.float64) / 255


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()[:192, 64:320].astype(np.float64)[None] / 255


@pytest.fixture(scope="module")
def style():
    """Three crops of one stained tissue: alike in colour and texture, alien to the photo."""
    return crops(data.immunohistochemistry(), 3)


@pytest.mark.parametrize("shift", [(10.0, 0.0, 0.0), (0.0, -8.0, 0.0), (4.0, 3.0, -5.0)])
def test_color_distance_of_a_shift_is_its_delta_e(shift):
    lab = np.random.default_rng(4).uniform((40, -15, -15), (60, 15, 15), size=SHAPE)
    first, second = (color.lab2rgb(values) for values in (lab, lab + np.array(shift)))
    assert color_distance(first, second)[0] == pytest.approx(np.linalg.norm(shift), rel=0.01)


def test_color_distance_of_greys_agrees_with_scipy():
    """Two clouds on the lightness axis: every direction sees a scaled copy of one 1-D transport problem."""
    rng = np.random.default_rng(5)
    light = [rng.uniform(20, 60, 96 * 128), rng.uniform(45, 85, 96 * 128)]
    pictures = [color.lab2rgb(np.stack([grey, 0 * grey, 0 * grey], -1).reshape(SHAPE)) for grey in light]
    # of equal shape, so that the optimal transport is a shift and the 1- and 2-Wasserstein distances agree
    assert color_distance(*pictures)[0] == pytest.approx(stats.wasserstein_distance(*light), rel=0.02)


def test_color_distance_ignores_where_colors_stand(photo):
    shuffled = np.random.default_rng(6).permutation(photo.reshape(-1, 3)).reshape(photo.shape)
    assert color_distance(photo, shuffled)[0] < 0.5 < 5 < color_distance(photo, 1 - photo)[0]


def test_color_distance_grows_with_the_hue_shift():
    base = color.lab2lch(np.random.default_rng(7).uniform((40, 10, 10), (60, 30, 30), size=SHAPE))
    turned = []
    for angle in (0.2, 0.6, 1.2):
        other = base.copy()
        other[..., 2] += angle
        turned.append(color_distance(color.lab2rgb(color.lch2lab(base)), color.lab2rgb(color.lch2lab(other)))[0])
    assert turned == sorted(turned) and turned[0] > 1


def test_texture_distance_of_twice_the_contrast_is_its_share_of_an_octave():
    """Energies all rise by one octave, sparsities stay: the root mean square over both halves is sqrt(1/2)."""
    weak = 0.5 + 0.8 * (random_picture(8) - 0.5)
    strong = 0.5 + 1.6 * (random_picture(8) - 0.5)
    assert texture_distance(weak, strong)[0] == pytest.approx(0.5**0.5, rel=1e-6)


def test_texture_distance_ignores_hue_and_mean_tone():
    light = random_picture(9, (1, 96, 128, 1)) * 0.4
    assert texture_distance(light.repeat(3, -1), 0.3 + light.repeat(3, -1))[0] == pytest.approx(0, abs=1e-9)


def test_texture_distance_grows_with_blur_and_noise(photo):
    blurs = [texture_distance(ndimage.gaussian_filter(photo, (0, s, s, 0)), photo)[0] for s in (0.5, 1, 2, 4)]
    noise = np.random.default_rng(10).normal(size=photo.shape)
    noises = [texture_distance((photo + a * noise).clip(0, 1), photo)[0] for a in (0.02, 0.05, 0.15)]
    assert blurs == sorted(blurs) and noises == sorted(noises)


def test_texture_distance_knows_one_texture_from_another(style):
    """Crops of one material are nearer to each other than to another material at the same contrast."""
    brick, grass = (np.repeat(crops(getattr(data, name)(), 2)[..., None], 3, -1) for name in ("brick", "grass"))
    matched = exposure.match_histograms(grass[0], brick[0])[None]
    assert texture_distance(brick[:1], brick[1:])[0] < 0.5 * texture_distance(matched, brick[1:])[0]


def test_texture_statistics_tell_orientation_and_scale():
    across = 0.5 + 0.4 * np.sin(np.arange(128) * np.pi / 4)[None, :, None].repeat(96, 0).repeat(3, -1)
    energies = texture_statistics(across)[:, 0].reshape(SCALES, 3)
    scale, orientation = np.unravel_index(energies.argmax(), energies.shape)
    # a wave along x with a period of 8 pixels: vertical details of the second octave; coarsest first
    assert (scale, orientation) == (SCALES - 2, 1) or (scale, orientation) == (SCALES - 3, 1)
    turned = texture_statistics(across.transpose(1, 0, 2))[:, 0].reshape(SCALES, 3)
    assert turned[scale].argmax() == 0


def test_texture_distance_of_flat_pictures_is_finite():
    flat = np.full(SHAPE, 0.5)
    assert texture_distance(flat, flat)[0] == 0
    assert np.isfinite(texture_distance(flat, random_picture(11))[0])


def test_progress_has_its_anchors(photo, style):
    identity = style_progress(photo, photo, style)
    assert identity.color == pytest.approx([0]) and identity.texture == pytest.approx([0])
    copy = style_progress(photo, style[:1], style[:1])
    assert copy.combined == pytest.approx([1])
    anchor = style_copy_progress(photo, style)
    assert 0.5 < anchor.combined[0] < 1
    one_out = [style_progress(photo, style[i], np.delete(style, i, axis=0)).combined for i in range(3)]
    assert anchor.combined[0] == pytest.approx(np.mean(one_out))


def test_progress_grows_on_the_way_and_colour_alone_wins_half(photo, style):
    matched = exposure.match_histograms(photo[0], style[0], channel_axis=-1)[None]
    shares = [style_progress(photo, photo + t * (matched - photo), style).color[0] for t in (0.25, 0.5, 1.0)]
    assert shares == sorted(shares) and shares[0] > 0
    whole = style_progress(photo, matched, style)
    assert whole.color[0] > 0.6 and whole.texture[0] < whole.color[0]
    assert whole.combined[0] == pytest.approx((whole.color[0] + whole.texture[0]) / 2)


def test_progress_is_negative_away_from_the_style(photo, style):
    away = np.zeros_like(photo)
    away[..., 1] = 1
    assert style_progress(photo, away, style).combined[0] < 0


def test_seeded_and_batched(photo, style):
    results = np.concatenate([photo, 1 - photo])
    for distance in (color_distance, texture_distance):
        both = distance(torch.from_numpy(results), torch.from_numpy(style))
        assert both.shape == (2,) and np.array_equal(both, distance(results, style))
        assert both[1] == pytest.approx(distance(1 - photo, style)[0])


def test_bad_input_is_named(photo, style):
    with pytest.raises(StylizationError, match="exemplars"):
        color_distance(photo, np.zeros((1, 8, 8, 4)))
    with pytest.raises(StylizationError, match="at least 32 pixels"):
        texture_distance(np.zeros((1, 16, 64, 3)), style)
    with pytest.raises(StylizationError, match="distance to the exemplars is 0"):
        style_progress(photo, photo, photo)
    with pytest.raises(StylizationError, match="there are 1"):
        style_copy_progress(photo, style[:1])


def test_set_distance_is_the_mean_over_pairs(photo, style):
    found = set_distance(np.concatenate([photo[:, :, :192], style[:2, :, :192]]))
    pictures = [photo[:, :, :192], style[:1, :, :192], style[1:2, :, :192]]
    pairs = [(pictures[i], pictures[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.color == pytest.approx(np.mean([color_distance(*pair)[0] for pair in pairs]))
    assert found.texture == pytest.approx(np.mean([texture_distance(*pair)[0] for pair in pairs]))


def test_set_of_one_style_is_nearer_than_a_mixed_one(photo, style):
    alike, mixed = set_distance(style), set_distance(np.concatenate([photo, style[:2]]))
    assert alike.color < mixed.color and alike.texture < mixed.texture
    same = set_distance(np.concatenate([photo, photo]))
    assert same.color == 0 and same.texture == 0


def test_set_of_one_picture_is_refused(photo):
    with pytest.raises(StylizationError, match="pictures.*1"):
        set_distance(photo)
