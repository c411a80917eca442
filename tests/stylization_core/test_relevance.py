"""The relevance map of Semantic-Aware Gradient Refinement."""

from __future__ import annotations

import pytest
import scipy.ndimage
import torch
from stylization.stylization_core.masks import gaussian_blur
from stylization.stylization_core.relevance import (
    MEAN_RELEVANCE,
    discrepancy,
    live_relevance,
    minmax,
    obeyed,
    robust_relevance,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return drawn(*shape, seed=seed).abs()


def test_channels_are_averaged_before_the_modulus():
    edited = torch.tensor([1.0, -1.0, 3.0, -3.0]).view(1, 4, 1, 1).expand(1, 4, 2, 2)
    assert torch.equal(discrepancy(edited, torch.zeros(1, 4, 2, 2)), torch.zeros(1, 1, 2, 2))


def test_discrepancy_is_symmetric_and_has_one_channel():
    one, two = drawn(2, 4, 5, 6, seed=1), drawn(2, 4, 5, 6, seed=2)
    assert discrepancy(one, two).shape == (2, 1, 5, 6)
    assert torch.equal(discrepancy(one, two), discrepancy(two, one))


def test_minmax_is_the_published_scaling_of_each_map_by_itself():
    field = maps(3, 1, 8, 6) * torch.tensor([1.0, 100.0, 1e-4]).view(3, 1, 1, 1)
    for one, scaled in zip(field, minmax(field), strict=True):
        torch.testing.assert_close(scaled, (one - one.min()) / (one.max() - one.min()))


@pytest.mark.parametrize("level", [0.0, 7.0, 1e-30])
def test_flat_map_becomes_ones(level):
    assert torch.equal(minmax(torch.full((2, 1, 4, 4), level)), torch.ones(2, 1, 4, 4))


def test_uniform_map_has_the_mean_of_a_published_map_on_unstructured_predictions():
    field = minmax(discrepancy(drawn(20, 4, 64, 64, seed=3), torch.zeros(20, 4, 64, 64)))
    assert field.mean().item() == pytest.approx(MEAN_RELEVANCE, abs=0.02)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
@pytest.mark.parametrize("size", [(16, 12), (13, 9), (1, 7), (1, 1)])
def test_blur_is_scipys(size, sigma):
    field = drawn(2, 3, *size).double()
    radius = -int(-3 * sigma // 1)
    widths, radii = (0, 0, sigma, sigma), (0, 0, radius, radius)
    blurred = scipy.ndimage.gaussian_filter(field.numpy(), widths, mode="nearest", radius=radii)
    torch.testing.assert_close(gaussian_blur(field, sigma), torch.from_numpy(blurred), atol=1e-12, rtol=0)


def test_blur_of_width_zero_is_the_field_itself():
    field = drawn(1, 1, 4, 4)
    assert gaussian_blur(field, 0.0) is field


@pytest.mark.parametrize("size", [(64, 64), (13, 9), (1, 7), (1, 1)])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_relevance_fills_the_range_above_its_floor(size, floor):
    relevance = robust_relevance(maps(4, 2, 1, *size), floor=floor)
    assert relevance.shape == (2, 1, *size)
    assert relevance.min() >= floor
    assert relevance.max() == pytest.approx(1.0, abs=1e-6)


def test_relevance_of_flat_maps_is_one_everywhere():
    assert torch.equal(robust_relevance(torch.full((4, 2, 1, 6, 5), 0.3)), torch.ones(2, 1, 6, 5))


def test_relevance_of_no_discrepancy_at_all_is_one_everywhere():
    assert torch.equal(robust_relevance(torch.zeros(4, 1, 1, 6, 5)), torch.ones(1, 1, 6, 5))


def test_relevance_broadcasts_over_channels():
    relevance = robust_relevance(maps(4, 2, 1, 6, 5))
    assert (drawn(2, 16, 6, 5) * relevance).shape == (2, 16, 6, 5)


def test_one_outlier_does_not_set_the_scale():
    field = maps(1, 1, 1, 64, 64)
    spiked = field.clone()
    spiked[..., 10, 10] = 1e4
    plain, with_outlier = robust_relevance(field, blur=0.0), robust_relevance(spiked, blur=0.0)
    assert (plain - with_outlier).abs().flatten().sort().values[:-1].max() < 0.02
    assert minmax(spiked[0]).mean() < 0.01  # the published scaling loses the whole map to it


def test_each_noise_level_counts_by_its_shape_not_its_scale():
    levels = maps(4, 1, 1, 16, 16)
    scaled = levels * torch.tensor([1.0, 10.0, 1e3, 1e-3]).view(4, 1, 1, 1, 1)
    torch.testing.assert_close(robust_relevance(scaled), robust_relevance(levels))


def test_pictures_of_a_batch_do_not_see_each_other():
    levels = maps(4, 3, 1, 12, 10)
    alone = torch.cat([robust_relevance(levels[:, [row]]) for row in range(3)])
    torch.testing.assert_close(robust_relevance(levels), alone, atol=1e-6, rtol=0)


def test_relevance_finds_where_the_predictions_differ():
    levels = 0.1 * maps(4, 1, 1, 32, 32)
    levels[..., 8:16, 8:16] += 1.0
    relevance = robust_relevance(levels)[0, 0]
    assert relevance[9:15, 9:15].min() > 0.8
    assert relevance[20:, 20:].max() < 0.3


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 1, 2, 8, 8)])
def test_maps_of_another_shape_are_refused_with_what_was_found(shape):
    with pytest.raises(ValueError, match="K, B, 1, H, W"):
        robust_relevance(torch.zeros(shape))


def test_live_map_is_the_published_one_lifted_to_the_floor():
    edited, empty = drawn(2, 4, 5, 6), drawn(2, 4, 5, 6, seed=1)
    field = (edited - empty).mean(1, keepdim=True).abs()
    low, high = field.amin((1, 2, 3), keepdim=True), field.amax((1, 2, 3), keepdim=True)
    published = (field - low) / (high - low)
    assert torch.allclose(live_relevance(edited, empty), published)
    assert torch.allclose(live_relevance(edited, empty, floor=0.25), 0.25 + 0.75 * published)
    assert torch.equal(live_relevance(edited, edited), torch.ones(2, 1, 5, 6))


def test_obeyed_leaves_the_content_where_the_map_is_dark():
    denoised, content = drawn(2, 4, 3, 3), drawn(1, 4, 3, 3, seed=1)
    dark, bright = torch.zeros(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    assert torch.equal(obeyed(denoised, content, dark), content.expand_as(denoised))
    assert torch.equal(obeyed(denoised, content, bright), denoised)
    assert obeyed(denoised, content, dark, share=0.0) is denoised
    assert torch.allclose(obeyed(denoised, content, dark, share=0.5), (denoised + content) / 2)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_does_not_become_ones(broken):
    field = drawn(2, 1, 6, 5).abs()
    field[1, 0, 2, 2] = broken
    assert torch.isfinite(minmax(field)[0]).all() and not torch.isfinite(minmax(field)[1]).all()
    assert not torch.isfinite(robust_relevance(field[None])[1]).all()
