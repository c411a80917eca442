"""Pairs of parts of pictures, levels and their weights."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.training_pairs import (
    drawn_cross_pairs,
    drawn_pairs,
    level_weight,
    moment_distance,
    places,
    spread_shares,
    structure_distance,
)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_parts_lie_inside_and_apart_where_there_is_room():
    generator = draws()
    for _ in range(200):
        one, other = places((32, 16), 8, generator)
        assert all(0 <= y <= 24 and 0 <= x <= 8 for y, x in (one, other))
        assert max(abs(one[0] - other[0]), abs(one[1] - other[1])) >= 8


def test_picture_of_the_parts_own_size_gives_itself_twice():
    latent = torch.randn(4, 8, 8, generator=draws())
    targets, styles = drawn_pairs([latent], 8, 3, draws())
    assert torch.equal(targets, latent.expand(3, -1, -1, -1)) and torch.equal(styles, targets)


def test_pairs_are_of_one_picture_and_pictures_do_not_repeat_before_all_were_drawn():
    latents = [torch.full((4, 16, 12), float(index)) for index in range(5)]
    targets, styles = drawn_pairs(latents, 8, 5, draws(3))
    values = targets.mean((1, 2, 3)).tolist()
    assert sorted(values) == [0, 1, 2, 3, 4] and values == styles.mean((1, 2, 3)).tolist()


def test_shares_are_spread_over_the_range():
    found = spread_shares(4, draws())
    assert (found * 4).floor().tolist() == [0, 1, 2, 3]
    assert 0 < float(spread_shares(1, draws(1))) < 1


@pytest.mark.parametrize(("ratio", "weight"), [(1.0, 2.0), (0.1, 101.0), (10.0, 1.01)])
def test_weight_makes_it_the_loss_of_a_v_prediction(ratio, weight):
    """v = alpha noise - sd x, of unit variance: its error is that of x over sd squared."""
    found = float(level_weight(torch.tensor(ratio)))
    assert found == pytest.approx(weight, rel=1e-5)
    sd = ratio / (1 + ratio**2) ** 0.5
    assert found == pytest.approx(1 / sd**2, rel=1e-5)


def test_cross_pairs_are_of_different_pictures():
    latents = [torch.full((4, 12, 12), float(index)) for index in range(5)]
    for seed in range(20):
        targets, styles = drawn_cross_pairs(latents, 8, 3, draws(seed))
        assert targets.shape == styles.shape == (3, 4, 8, 8)
        assert not (targets.mean((1, 2, 3)) == styles.mean((1, 2, 3))).any()


def test_moment_distance_is_of_means_spreads_and_slopes():
    x = torch.randn(2, 3, 8, 8, generator=draws())
    assert moment_distance(x, x.flip(-1)).max() < 1e-10
    # a quarter of the moments are means
    assert moment_distance(x + 2, x).tolist() == pytest.approx([1.0, 1.0], rel=1e-4)
    smooth = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    shuffled = smooth.flatten()[torch.randperm(64, generator=draws())].reshape(1, 1, 8, 8)
    assert moment_distance(smooth, shuffled) > 0.1


def test_structure_distance_does_not_see_tone_and_contrast():
    x = torch.randn(2, 3, 8, 8, generator=draws())
    factors = torch.tensor([0.5, 2.0, 3.0]).reshape(1, 3, 1, 1)
    assert structure_distance(x * factors + 4, x).max() < 1e-3
    assert structure_distance(x.flip(-1), x).min() > 0.5
