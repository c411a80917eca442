"""Every ruler with a mask: only what is marked counts."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.signal.windows import hann
from skimage import data
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers import content, images, style
from stylization.stylization_core.rulers.catalogue import CONTENT, STYLE

SIDE = 192
INSIDE = (slice(0, 1), slice(60, 140), slice(50, 150))
REACH = {"structure": 6, "edges": 13, "low_band": 0, "shift": 8, "color_change": 0, "legibility": 0}
"""Pixels beyond the mask that a ruler's filters still see."""


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()[:SIDE, 120 : 120 + SIDE].astype(np.float64)[None] / 255


@pytest.fixture(scope="module")
def result(photo):
    """Something like a stylization: other colours, softer, some grain."""
    soft = ndimage.gaussian_filter(0.15 + 0.7 * photo[..., [1, 2, 0]], (0, 1, 1, 0))
    return (soft + 0.03 * np.random.default_rng(1).normal(size=photo.shape)).clip(0, 1)


@pytest.fixture(scope="module")
def mask():
    found = np.zeros((1, SIDE, SIDE))
    found[INSIDE] = 1
    return found


def changed(picture, where):
    """Noise where ``where`` (1, H, W) says."""
    noise = np.random.default_rng(2).uniform(size=picture.shape)
    return np.where(where[..., None], noise, picture)


def grown(mask, reach):
    return ndimage.binary_dilation(mask > 0, np.ones((1, 3, 3)), iterations=reach) if reach else mask > 0


ALL = {**CONTENT, **STYLE}


@pytest.mark.parametrize("key", ALL)
def test_a_mask_of_everything_is_no_mask(key, photo, result):
    ruler = ALL[key]
    if not ruler.needs_mask:
        everything = np.ones((1, SIDE, SIDE))
        assert ruler.measure(photo, result, mask=everything) == pytest.approx(ruler.measure(photo, result), abs=1e-12)


@pytest.mark.parametrize("key", CONTENT)
def test_what_is_outside_does_not_count_and_what_is_inside_does(key, photo, result, mask):
    ruler = CONTENT[key]
    value = ruler.measure(photo, result, mask=mask)
    outside = changed(result, ~grown(mask, REACH[key]))
    assert ruler.measure(photo, outside, mask=mask) == pytest.approx(value, abs=1e-9)
    disc = mask * (np.hypot(np.arange(SIDE)[:, None] - 100, np.arange(SIDE) - 100) < 39)
    outside = changed(result, ~grown(disc, REACH[key]))
    value = ruler.measure(photo, result, mask=disc)
    assert ruler.measure(photo, outside, mask=disc) == pytest.approx(value, abs=1e-9)
    value = ruler.measure(photo, result, mask=mask)
    inside = ruler.measure(photo, changed(result, mask > 0), mask=mask)
    assert (inside < value - 0.05) if ruler.higher else (inside > value + 0.2)


@pytest.mark.parametrize("key", STYLE)
def test_style_of_a_region(key, photo, result, mask):
    """Noise where the mask is: near to noise, whatever is around; noise around it: still the photo."""
    ruler = STYLE[key]
    exemplar = changed(photo, np.ones_like(mask, bool))
    patched = changed(photo, grown(mask, 50 if key == "texture" else 0))
    assert ruler.measure(patched, exemplar, mask=mask)[0] < 0.2 * ruler.measure(photo, exemplar, mask=mask)[0]
    far = changed(photo, ~grown(mask, 50 if key == "texture" else 0))
    assert ruler.measure(far, photo, mask=mask)[0] < 0.6 * ruler.measure(patched, photo, mask=mask)[0]


def test_colour_of_a_region_is_the_colour_of_its_crop(photo, result, mask):
    cropped = style.color_distance(photo[INSIDE], result)
    assert style.color_distance(photo, result, mask) == pytest.approx(cropped, abs=1e-9)


def test_texture_at_half_marks_counts_and_below_does_not(photo, result, mask):
    soft = np.maximum(mask, 0.49)
    assert style.texture_distance(photo, result, soft) == pytest.approx(style.texture_distance(photo, result, mask))
    assert style.texture_distance(photo, result, 0.3 * mask) == pytest.approx(
        style.texture_distance(photo, result, mask)
    )


@pytest.mark.parametrize("shape", ["rectangle", "disc", "soft", "two"])
@pytest.mark.parametrize("shift", [(0, 3), (-4, 6), (9, 0)])
def test_a_shift_inside_a_mask_is_found(photo, shape, shift):
    """The mask stands still while the picture moves under it, and that must not pull the peak to 0."""
    down, right = np.mgrid[:SIDE, :SIDE]
    disc = (np.hypot(down - 90, right - 100) < 55).astype(float)
    marks = {
        "rectangle": ((abs(down - 90) < 50) & (abs(right - 100) < 60)).astype(float),
        "disc": disc,
        "soft": ndimage.gaussian_filter(disc, 6),
        "two": disc + (np.hypot(down - 160, right - 30) < 20),
    }
    moved = np.roll(photo, shift, (1, 2))
    found = CONTENT["shift"].measure(photo, moved, mask=marks[shape])[0]
    assert found == pytest.approx(np.hypot(*shift), abs=0.35)


@pytest.mark.parametrize("shift", [(0, 5), (12, 12)])
@pytest.mark.parametrize("framed", [False, True])
def test_neither_the_shape_of_a_mask_nor_a_frame_along_it_holds_a_shift(shift, framed):
    """Soft texture moves, the mask and what is around it stand still; both are alike in the two pictures."""
    random = np.random.default_rng(3).uniform(size=(1, SIDE, SIDE, 1)).repeat(3, -1)
    texture = 0.3 + 0.4 * ndimage.gaussian_filter(random, (0, 1.5, 1.5, 0), mode="wrap")
    down, right = np.mgrid[:SIDE, :SIDE]
    for disc in (np.hypot(down - 90, right - 100) < 55, (abs(down - 90) < 40) & (abs(right - 100) < 60)):
        pictures = [texture, np.roll(texture, shift, (1, 2))]
        if framed:
            pictures = [np.where(disc[..., None], picture, 0.1) for picture in pictures]
        found = CONTENT["shift"].measure(*pictures, mask=disc.astype(float))[0]
        assert found == pytest.approx(np.hypot(*shift), abs=0.2)


def test_windows_of_a_shift_fall_to_the_border():
    assert content._window(np.ones((6, 9))) == pytest.approx(np.outer(hann(8)[1:-1], hann(11)[1:-1]))
    corner = np.triu(np.ones((30, 30)))
    window = content._window(corner)
    assert (window[corner == 0] == 0).all() and window.max() == pytest.approx(1)
    assert window[0].max() < 0.1 and np.diagonal(window).max() < 0.1


@pytest.mark.parametrize("key", ALL)
def test_batches_of_masks(key, photo, result, mask):
    """One mask for all, and one a picture; NumPy and torch; one photo or exemplar set against many."""
    ruler = ALL[key]
    other = np.roll(mask, (30, 30), (1, 2))
    results = np.concatenate([result, np.roll(result, 2, 2)])
    both = ruler.measure(
        *((photo, results) if key in CONTENT else (results, photo)), mask=np.concatenate([mask, other])
    )

    def one(number, area):
        case = results[number : number + 1]
        return ruler.measure(*((photo, case) if key in CONTENT else (case, photo)), mask=area)[0]

    assert both == pytest.approx([one(0, mask), one(1, other)])
    tensors = [torch.from_numpy(each) for each in ((photo, results) if key in CONTENT else (results, photo))]
    shared = ruler.measure(*tensors, mask=torch.from_numpy(mask[0]).float())
    assert shared == pytest.approx([one(0, mask), one(1, mask)], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("key", ALL)
@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.ones((1, 64, 48)), "48x64.*64x64"),
        (np.ones((3, 64, 64)), "3 entries for 1"),
        (np.full((1, 64, 64), np.nan), "NaN"),
        (np.zeros((1, 64, 64)), "nothing is marked in entry 0"),
        (np.ones(64), "not \\(B, H, W\\)"),
        (np.ones((0, 64, 64)), "not \\(B, H, W\\)"),
    ],
    ids=["size", "number", "nan", "empty", "flat", "none"],
)
def test_bad_masks_are_named(key, mask, said):
    pictures = np.random.default_rng(4).uniform(size=(2, 1, 64, 64, 3))
    with pytest.raises(StylizationError, match=f"mask.*{said}"):
        ALL[key].measure(*pictures, mask=mask)


def test_the_empty_entry_of_several_is_named():
    masks = np.ones((3, 8, 8))
    masks[1] = 0
    with pytest.raises(StylizationError, match="entry 1"):
        images.areas(masks, 3, (8, 8))


def test_masks_are_clipped_and_may_have_a_channel():
    marks = np.linspace(-1, 2, 64).reshape(1, 1, 8, 8)
    (found,) = images.areas(marks, 1, (8, 8))
    assert found.min() == 0 and found.max() == 1 and found.dtype == np.float64
    assert np.array_equal(images.areas(marks[0, 0] > 0, 1, (8, 8))[0], marks[0, 0] > 0)
    assert images.areas(None, 2, (8, 8)) == [None, None]


def test_a_mask_too_small_for_a_shift_is_named(photo, result):
    mark = np.zeros((1, SIDE, SIDE))
    mark[:, 50:53, 50:90] = 1
    with pytest.raises(StylizationError, match="what the mask marks.*40x3.*at least 8"):
        CONTENT["shift"].measure(photo, result, mask=mark)


def test_a_mask_on_the_border_alone_is_measured(photo, result):
    mark = np.zeros((1, SIDE, SIDE))
    mark[:, :3] = 1
    assert CONTENT["structure"].measure(photo, photo, mask=mark) == pytest.approx([1])
    assert CONTENT["structure"].measure(photo, result, mask=mark)[0] < 1


def test_progress_and_sets_of_a_region(photo, result, mask):
    exemplars = np.concatenate([result, 1 - photo])
    crops = [picture[:, 60:140, 50:150] for picture in (photo, result)]
    whole = style.style_progress(*crops, exemplars).color
    assert style.style_progress(photo, result, exemplars, mask).color == pytest.approx(whole)
    several = style.style_progress(photo, np.concatenate([result, result]), exemplars, np.concatenate([mask, mask]))
    assert several.color == pytest.approx([whole[0], whole[0]])
    masked = style.set_distance(np.concatenate([photo, result]), mask)
    assert masked.color == pytest.approx(style.color_distance(photo, crops[1], mask)[0])
