"""Composites that keep what lies outside a mask."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.composite import composite, feathered_inwards, reach


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
