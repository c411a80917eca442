"""Flicker on sequences whose motion is known."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers import sequence
from stylization.stylization_core.rulers.sequence import flicker

SIDE = 128


def pan(step, count=3):
    """A camera that moves by ``step`` pixels a frame, across and half as fast down."""
    picture = data.astronaut().astype(np.float64) / 255
    corners = [(100 + step * i // 2, 120 + step * i) for i in range(count)]
    return np.stack([picture[top : top + SIDE, left : left + SIDE] for top, left in corners])


def look(frames):
    """A style that works on every pixel alone, so it moves exactly as the source does."""
    return 0.8 * (1 - frames)[..., [2, 0, 1]]


def test_without_a_source_it_is_the_mean_change():
    frames = np.stack([np.full((8, 8, 3), value) for value in (0.2, 0.5, 0.4)])
    assert flicker(frames) == pytest.approx([0.3, 0.1])
    assert flicker(torch.from_numpy(frames), mask=np.ones((1, 8, 8))) == pytest.approx([0.3, 0.1])


@pytest.mark.parametrize("step", [2, 6])
def test_motion_of_the_source_is_explained(step):
    source = pan(step)
    assert flicker(look(source))[0] > 0.03
    assert flicker(look(source), source).max() < 0.003


def test_brightness_that_jumps_is_told_exactly_beside_motion():
    source = pan(4)
    jumps = 0.06 * np.array([0, 1, 0])[:, None, None, None]
    assert flicker(look(source) + jumps, source) == pytest.approx([0.06, 0.06], abs=0.003)


def test_grain_made_anew_counts_and_grain_on_a_still_picture_does_not():
    source, noise = pan(0), 0.05 * np.random.default_rng(1).normal(size=(3, SIDE, SIDE, 3))
    frames = 0.2 + 0.6 * look(source)
    # the mean modulus of the difference of two normal numbers
    assert flicker(frames + noise, source) == pytest.approx([0.1 / np.pi**0.5] * 2, rel=0.05)
    assert flicker(frames + noise[:1], source) == pytest.approx([0, 0], abs=1e-3)
    moving = pan(4)
    assert flicker(0.2 + 0.6 * look(moving) + noise[:1], moving).min() > 0.04


def test_more_flicker_measures_more():
    source = pan(3)
    noise = np.random.default_rng(2).normal(size=source.shape)
    values = [flicker(look(source) + amount * noise, source).mean() for amount in (0.0, 0.02, 0.05, 0.1)]
    assert values == sorted(values)


def test_a_thing_that_moves_before_a_still_ground():
    picture = data.astronaut().astype(np.float64) / 255
    source = np.stack([picture[:SIDE, :SIDE]] * 3)
    for number in range(3):
        left = 20 + 5 * number
        source[number, 30:80, left : left + 50] = picture[300:350, 200:250]
    assert flicker(look(source), source).max() < 0.1 * flicker(look(source)).min() + 0.002


def test_a_cut_is_no_flicker_but_unknown():
    frames = np.stack([data.astronaut()[:SIDE, :SIDE], data.coffee()[:SIDE, :SIDE]]) / 255.0
    assert np.isnan(flicker(frames, frames)).all()


def test_only_the_marked_part_counts():
    source = pan(0)
    frames = source.copy()
    frames[1, :40] = 1 - frames[1, :40]
    mask = np.ones((1, SIDE, SIDE))
    mask[:, :40] = 0
    assert flicker(frames, source, mask) == pytest.approx([0, 0], abs=1e-3)
    assert flicker(frames, source, 1 - mask).min() > 0.2
    later = np.concatenate([mask, mask, 1 - mask])
    found = flicker(frames, source, later)
    assert found[0] == pytest.approx(0, abs=1e-3) and found[1] > 0.2


def test_a_large_picture_is_tracked_at_a_smaller_size():
    """And its motion scaled back: nearly everything is found again, where it is."""
    large = ndimage.zoom(pan(4, 2), (1, 6, 6, 1), order=1)
    before, steady = sequence._moved(look(large[0]), large[0], large[1])
    assert steady[:-20, :-30].mean() > 0.9
    assert np.abs(before - look(large[1]))[steady].mean() < 0.005


def test_what_comes_in_over_the_border_is_not_trusted(monkeypatch):
    """Even where the source there looks the same."""
    motion = np.stack([np.zeros((20, 30)), np.full((20, 30), 8.0)])
    monkeypatch.setattr(sequence, "_flow", lambda now, before: motion)
    even, ramp = np.full((20, 30, 3), 0.5), np.linspace(0, 1, 30)[None, :, None].repeat(20, 0).repeat(3, -1)
    moved, steady = sequence._moved(ramp, even, even)
    assert steady[:, :22].all() and not steady[:, 22:].any()
    assert moved[:, :22] == pytest.approx(ramp[:, 8:])


@pytest.mark.parametrize(
    ("frames", "source", "said"),
    [
        (np.zeros((1, 32, 32, 3)), None, "frames: there are 1"),
        (np.zeros((2, 32, 32, 3)), np.zeros((3, 32, 32, 3)), "3 frames of 32x32 pixels for 2 frames"),
        (np.zeros((2, 32, 32, 3)), np.zeros((2, 32, 48, 3)), "48x32 pixels for"),
        (np.zeros((2, 32, 32, 3)), np.full((2, 32, 32, 3), np.nan), "source.*NaN"),
        (np.zeros((2, 8, 32, 3)), np.zeros((2, 8, 32, 3)), "source.*at least 16"),
    ],
    ids=["one", "number", "size", "nan", "small"],
)
def test_bad_sequences_are_named(frames, source, said):
    with pytest.raises(StylizationError, match=said):
        flicker(frames, source)


def test_an_empty_mask_is_named():
    with pytest.raises(StylizationError, match="nothing is marked"):
        flicker(np.zeros((2, 32, 32, 3)), None, np.zeros((1, 32, 32)))
