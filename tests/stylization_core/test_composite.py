"""Composites that keep what lies outside a mask."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.composite import composite, protected, reach
from stylization.stylization_core.masks import feathered_inwards, feathered_outwards


def test_reach_of_soft_masks():
    masks = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.5, 0.3]])
    torch.testing.assert_close(reach(masks), torch.tensor([0.0, 0.75, 1.0]))


@pytest.mark.parametrize("width", [1.0, 5.0, 40.0])
def test_soft_borders_lie_inside(width):
    mask = torch.zeros(1, 30, 50)
    mask[:, 5:25, 10:40] = 1
    mask[:, :, 30:34] *= 0.5
    found = feathered_inwards(mask, width)
    assert (found <= mask).all() and (found[mask == 0] == 0).all()
    assert (found < mask).any()


def test_far_from_the_border_nothing_changes():
    mask = torch.zeros(1, 60, 60)
    mask[:, :, 20:] = 1
    found = feathered_inwards(mask, 6.0)
    assert torch.equal(found[:, :, 26:], mask[:, :, 26:])
    assert (found[0, 30, 20:26].diff() > 0).all() and found[0, 30, 20] < 0.2
    assert feathered_inwards(mask, 0.0) is mask


def test_nan_outside_does_not_come_in():
    original, styled = torch.rand(1, 4, 6, 3), torch.full((1, 4, 6, 3), float("nan"))
    mask = torch.zeros(1, 4, 6)
    assert torch.equal(composite(original, styled, mask), original)


def test_one_original_serves_many():
    original, styled = torch.rand(1, 4, 6, 3), torch.rand(3, 4, 6, 3)
    assert composite(original, styled, torch.full((1, 4, 6), 0.25)).shape == (3, 4, 6, 3)


@pytest.mark.parametrize("width", [1.0, 6.0, 30.0])
def test_soft_borders_lie_outside(width):
    """Also around corners and dots: next to the mask they are nearly 1, and from there they only fall."""
    mask = torch.zeros(1, 80, 90)
    mask[:, 30:50, 40:60], mask[:, 40, 20] = 1, 1
    found, radius = feathered_outwards(mask, width), max(1, int(width / 2))
    assert (found[mask == 1] == 1).all() and (found >= mask).all()
    beside = found[0, [29, 29, 35, 50], [45, 40, 60, 60]]
    first = 2 * radius / (2 * radius + 1)
    torch.testing.assert_close(beside, torch.tensor([first, first, first, first**2]))
    assert (found[0, 35, 60:].diff() <= 0).all()
    if radius < 10:
        assert found[0, 35, 59 + 2 * radius] > 0 and (found[0, 35, 60 + 2 * radius :] == 0).all()
    assert feathered_outwards(mask, 0.0) is mask


@pytest.mark.parametrize("feather", [0.0, 3.0, 9.0])
def test_protected_part_is_the_original_to_the_last_bit(feather):
    original, styled = torch.rand(2, 40, 60, 3), torch.rand(2, 40, 60, 3)
    mask = torch.zeros(1, 40, 60)
    mask[:, 12:30, 20:40] = 1
    found, taken = protected(original, styled, mask, feather)
    inside = mask[0] == 1
    assert torch.equal(found[:, inside], original[:, inside])
    assert (taken[0][inside] == 0).all() and taken[0, 20, 40] > 0
    assert torch.equal(found[:, :, : 20 - int(feather)], styled[:, :, : 20 - int(feather)])
    assert bool((taken[0, 20, 40:].diff() >= 0).all()) and taken[0, 20, -1] == 1
    if feather:
        assert 0 < taken[0, 20, 40] < 1


def test_grey_of_a_mask_protects_in_part():
    original, styled = torch.zeros(1, 4, 6, 3), torch.ones(1, 4, 6, 3)
    found, _ = protected(original, styled, torch.full((1, 4, 6), 0.25), 0.0)
    torch.testing.assert_close(found, torch.full_like(found, 0.75))
