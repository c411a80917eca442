"""The seam ruler on pictures whose steps are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data
from stylization.stylization_core.composite import protected
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers.seam import VISIBLE, seam


@pytest.fixture
def mask():
    mask = np.zeros((1, 40, 60))
    mask[:, 10:30, 15:45] = 1
    return mask


@pytest.fixture(scope="module")
def photos():
    found = [one[:120, 100:260].astype(np.float64)[None] / 255 for one in (data.astronaut(), data.chelsea())]
    return [torch.from_numpy(one).float() for one in found]


def grey(value, size=(40, 60)):
    return np.full((1, *size, 3), value)


@pytest.mark.parametrize("step", [0.1, 0.3, 0.6])
def test_step_between_constant_colours_is_measured_in_visible_steps(mask, step):
    composite = grey(0.2) + step * mask[..., None]
    assert seam(composite, mask, grey(0.2), grey(0.2 + step)) == pytest.approx([step / VISIBLE])


def test_step_counts_beside_those_that_are_there_anyhow(mask):
    """Stripes of 0.1 have steps of 0.1 at every border; the mean over both pictures counts."""
    stripes = 0.4 + 0.1 * (np.indices((40, 60)).sum(0) % 2)[None, ..., None] * np.ones(3)
    composite = np.where(mask[..., None] > 0, grey(0.9), stripes)
    outside = 0.5 - 0.05  # neighbours are 0.4 and 0.5 in turn
    assert seam(composite, mask, stripes, grey(0.9)) == pytest.approx([(0.9 - outside) / 0.05], rel=0.02)


@pytest.mark.parametrize("turned", [False, True])
def test_without_others_it_is_the_border_over_everywhere(turned):
    """Of pixels' steps across a straight border: mean there over the mean of that direction in the whole picture."""
    random = np.random.default_rng(3).uniform(size=(1, 32, 48, 3))
    mask = np.zeros((1, 32, 48))
    mask[:, :, :20] = 1
    slope = np.abs(np.diff(random[0], axis=1)).mean((0, 2))
    if turned:
        random, mask = random.transpose(0, 2, 1, 3), mask.transpose(0, 2, 1)
    assert seam(random, mask) == pytest.approx([slope[19] / slope.mean()])


def test_equal_pictures_have_no_seam(photos, mask):
    inside = np.zeros((1, 120, 160))
    inside[:, 30:80, 40:110] = 1
    assert seam(photos[0], inside, photos[0], photos[0]) == pytest.approx([1.0])
    assert seam(grey(0.5), mask, grey(0.5)) == pytest.approx([1.0])


def test_grows_with_the_step_and_falls_with_the_feather(photos):
    original = photos[0]
    mask = torch.zeros(1, 120, 160)
    mask[:, 30:80, 40:110] = 1
    apart = [original + amount * (1 - original) for amount in (0.0, 0.2, 0.4, 0.8)]
    steps = [seam(protected(original, one, mask, 0.0)[0], mask, original, one)[0] for one in apart]
    assert steps == sorted(steps) and steps[0] == 1.0 and steps[-1] > steps[1] + 1
    soft = [seam(protected(original, apart[-1], mask, one)[0], mask, original, apart[-1])[0] for one in (0, 2, 8, 24)]
    assert soft == sorted(soft, reverse=True) and soft[-1] < soft[0] - 1


def test_an_unrelated_picture_shows(photos):
    mask = torch.zeros(1, 120, 160)
    mask[:, 30:80, 40:110] = 1
    original, other = photos
    assert seam(protected(original, other, mask, 0.0)[0], mask, original, other)[0] > 3


def test_mask_without_a_border_has_no_seam():
    random = np.random.default_rng(3).uniform(size=(1, 8, 8, 3))
    assert seam(random, np.ones((1, 8, 8))) == pytest.approx([1.0])


def test_border_lies_where_a_soft_mask_is_half_its_highest(mask):
    composite = grey(0.2) + 0.3 * mask[..., None]
    soft = 0.6 * mask
    soft[:, 9, 15:45] = 0.2
    assert seam(composite, soft, grey(0.2)) == pytest.approx(seam(composite, mask, grey(0.2)))


def test_batches_and_tensors(photos):
    mask = torch.zeros(2, 120, 160)
    mask[0, :, :70], mask[1, 40:] = 1, 1
    results = torch.cat(photos)
    alone = [seam(results[[row]], mask[[row]], photos[0])[0] for row in range(2)]
    assert seam(results, mask, photos[0]) == pytest.approx(alone)
    assert seam(results, mask, photos[0], results)[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((grey(0.5), np.zeros((1, 40, 60))), "nothing is marked"),
        ((grey(0.5), np.ones((1, 40, 61))), "61x40 pixels, the pictures are 60x40"),
        ((grey(0.5), np.ones((1, 40, 60)), grey(0.5, (40, 61))), "beside: it is"),
        ((grey(0.5), np.ones((1, 40, 60)), grey(np.nan)), "beside: some values are NaN"),
    ],
)
def test_bad_input_is_named(given, said):
    with pytest.raises(StylizationError, match=said):
        seam(*given)
