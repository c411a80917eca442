"""Holistic injection against scipy, numpy and sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from stylization.stylization_core.holistic import (
    LEVELS,
    STEEPEST,
    TOKENS,
    injected,
    interpolated,
    likeness,
    mean_and_std,
    mixed_statistics,
    statistics,
    transported,
)

PLACES = (np.arange(LEVELS) + 0.5) / LEVELS


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Features whose channels differ in place, spread and shape."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random)
    channels = torch.arange(shape[-1])
    x = torch.where(channels % 3 == 1, x.exp(), torch.where(channels % 3 == 2, x.relu() + 0.1 * x, x))
    return x * (0.2 + torch.rand(shape[-1], generator=random)) + 3 * torch.randn(shape[-1], generator=random)


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


# what is measured


def test_moments_are_scipys():
    x = drawn(2, 500, 9)
    found, wanted = statistics(x), numbers(x)
    assert numbers(found.mean)[:, 0] == pytest.approx(wanted.mean(1), rel=1e-5, abs=1e-5)
    assert numbers(found.std)[:, 0] == pytest.approx(wanted.std(1), rel=1e-5)
    assert numbers(found.skewness)[:, 0] == pytest.approx(stats.skew(wanted, 1), rel=1e-3, abs=1e-4)
    assert numbers(found.kurtosis)[:, 0] == pytest.approx(stats.kurtosis(wanted, 1, fisher=False), rel=1e-3)


def test_half_precision_does_not_overflow():
    """The fourth power of 300 is beyond half precision."""
    x = (300 * torch.randn(1, 400, 4, generator=torch.Generator().manual_seed(1))).half()
    found = statistics(x, table=True)
    assert all(part.dtype is torch.float32 and part.isfinite().all() for part in found)
    assert numbers(found.kurtosis)[0, 0] == pytest.approx(stats.kurtosis(numbers(x)[0], 0, fisher=False), rel=1e-3)


def test_far_mean_does_not_cancel():
    x = drawn(1, 300, 6) + 1e3
    assert numbers(statistics(x).std)[0, 0] == pytest.approx(numbers(x)[0].std(0), rel=1e-3)


@pytest.mark.parametrize("count", [LEVELS, 20, 500])
def test_table_is_numpys_hazen_quantiles(count):
    x = drawn(2, count, 6)
    wanted = np.quantile(numbers(x), PLACES, axis=1, method="hazen").transpose(1, 0, 2)
    assert numbers(statistics(x, table=True).quantiles) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_table_of_many_tokens_is_read_from_some():
    x = drawn(1, 3 * TOKENS + 5, 3)
    found = statistics(x, table=True).quantiles
    assert torch.equal(found, statistics(x[:, ::4], table=True).quantiles)


def test_whole_weights_repeat_tokens():
    x, counts = drawn(1, 40, 6), torch.tensor([0, 1, 2, 3] * 10)
    repeated = x.repeat_interleave(counts, 1)
    for one, other in zip(statistics(x, counts.float())[:4], statistics(repeated)[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_weighted_table_lies_where_the_weights_are():
    x, weights = torch.arange(100.0)[None, :, None], torch.zeros(100)
    weights[20:60] = 0.5
    found = statistics(x, weights, table=True).quantiles[0, :, 0]
    wanted = np.quantile(np.arange(20.0, 60.0), PLACES, method="hazen")
    assert numbers(found) == pytest.approx(wanted, abs=0.02)


def test_channel_without_spread_has_the_shape_of_none():
    found = statistics(torch.full((1, 9, 2), 0.3), table=True)
    assert found.std.max() < 1e-6 and (found.skewness == 0).all() and (found.kurtosis == 3).all()


# mixtures


def test_mixture_is_the_statistics_of_the_concatenation():
    parts = [drawn(1, count, 9, seed=seed) for seed, count in ((1, 400), (2, 100))]
    found = mixed_statistics([statistics(part, table=True) for part in parts], [400, 100])
    wanted = statistics(torch.cat(parts, 1), table=True)
    for one, other in zip(found[:4], wanted[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    # tables of 33 points stand for 500 values: within a point
    off = (found.quantiles - wanted.quantiles).abs() / wanted.std
    assert off.median() < 0.02 and off[:, 2:-2].max() < 0.4


def test_mixture_is_not_the_mean_of_the_spreads():
    one, other = statistics(torch.randn(1, 500, 2)), statistics(torch.randn(1, 500, 2) + 10)
    assert mixed_statistics([one, other], [1, 1]).std.min() > 4


def test_mixture_of_one_is_itself_and_weight_zero_drops():
    one, other = statistics(drawn(1, 50, 3), table=True), statistics(drawn(1, 50, 3, seed=4), table=True)
    assert mixed_statistics([one], [3.0]) is one
    for found, wanted in zip(mixed_statistics([one, other], [2.0, 0.0]), one, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
def test_mean_and_deviation_alone_are_the_same(weighted):
    x = 50 + drawn(2, 2500, 5)
    weights = torch.rand(2, 2500) if weighted else None
    found, wanted = mean_and_std(x, weights), statistics(x.double(), weights)
    torch.testing.assert_close(found, (wanted.mean.float(), wanted.std.float()), rtol=1e-4, atol=1e-5)
    half = mean_and_std(x.half(), weights)
    assert half[0].dtype == torch.float32
    torch.testing.assert_close(half, mean_and_std(x.half().float(), weights))


# what is injected


@pytest.mark.parametrize("strength", [0.6, torch.linspace(0, 1, 300)[None, :, None]])
def test_moments_mode_is_the_dual_relation(strength):
    """``x + w (tone + (1 - lambda) local)``, tone = m_s - m_c and local = z s_s - z s_c, as it is written down."""
    x, weights, style = drawn(2, 300, 5), torch.rand(300), statistics(drawn(1, 400, 5, seed=2))
    own = statistics(x, weights)
    z = (x - own.mean) / own.std
    wanted = x + strength * (style.mean - own.mean + 0.7 * (z * style.std - z * own.std))
    torch.testing.assert_close(injected(x, style, strength=strength, tone=0.3, weights=weights), wanted)


def test_strength_zero_is_the_object_itself():
    x = drawn(2, 20, 3)
    assert injected(x, statistics(drawn(1, 30, 3, seed=1)), strength=0.0) is x


@pytest.mark.parametrize("table", [False, True])
def test_own_statistics_change_nothing(table):
    x = drawn(1, 300, 9)
    torch.testing.assert_close(injected(x, statistics(x, table=table), tone=0.0), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("table", [False, True])
def test_mean_and_spread_become_the_styles(table):
    x, style = drawn(2, 600, 9), statistics(drawn(1, 800, 9, seed=3), table=table)
    found = statistics(injected(x, style, tone=0.0))
    tolerance = {"rtol": 0.1, "atol": 0.03} if table else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(found.mean, style.mean.expand_as(found.mean), **tolerance)
    torch.testing.assert_close(
        found.std, style.std.expand_as(found.std), **{**tolerance, "rtol": tolerance["rtol"] * 2}
    )


def test_quantile_mode_is_sorting_where_tables_hold_every_value():
    """The picture's k-th value becomes the style's k-th; slopes stay below the limit for like distributions."""
    x, style = torch.randn(1, LEVELS, 4), 2 * torch.randn(1, LEVELS, 4) + 1
    x, style = (torch.linspace(-1, 1, LEVELS)[None, :, None] + 0.003 * one for one in (x, style))
    found = injected(x, statistics(style, table=True), tone=0.0)
    order = x.argsort(1).argsort(1)
    torch.testing.assert_close(found, style.sort(1).values.gather(1, order), rtol=1e-3, atol=1e-3)


def test_shape_follows_the_style_in_quantile_mode_alone():
    x, bent = torch.randn(1, 2000, 3), torch.randn(1, 2000, 3).relu()
    skews = [statistics(injected(x, statistics(bent, table=table), tone=0.0)).skewness for table in (False, True)]
    assert skews[0].abs().max() < 0.2 and (skews[1] - statistics(bent).skewness).abs().max() < 0.3


def test_quantile_mode_weighs_the_pictures_own_table():
    """Tokens that do not count change nothing for those that do."""
    x, style = drawn(1, 300, 6), statistics(drawn(1, 400, 6, seed=2), table=True)
    weights = (torch.arange(300) < 120).float()
    found = injected(x, style, tone=0.0, weights=weights)[:, :120]
    torch.testing.assert_close(found, injected(x[:, :120], style, tone=0.0), rtol=1e-3, atol=1e-3)


def test_transport_rises_and_never_steeply():
    own, style = statistics(drawn(1, 500, 6), table=True), statistics(drawn(1, 500, 6, seed=2), table=True)
    tables = [(one.quantiles - one.mean) / one.std for one in (own, style)]
    z = torch.linspace(-6, 6, 2001)[None, :, None].expand(1, -1, 6)
    steps = transported(z, *tables).diff(dim=1) / (12 / 2000)
    assert steps.min() >= -1e-3 and steps.max() <= STEEPEST + 1e-2
    # order of the tokens stays, so edges stay where they are
    assert steps[:, [0, -1]].sub(1).abs().max() < 1e-2


def test_tone_is_a_shift_and_nothing_else():
    x, style = drawn(1, 200, 6), statistics(drawn(1, 200, 6, seed=3), table=True)
    moved = injected(x, style, tone=1.0) - x
    assert (moved - moved[:, :1]).abs().max() < 1e-5
    torch.testing.assert_close(moved[:, :1], style.mean - statistics(x).mean, rtol=1e-4, atol=1e-5)


def test_slider_and_strength_are_linear():
    x, style = drawn(1, 200, 6), statistics(drawn(1, 200, 6, seed=3), table=True)
    whole, shift = injected(x, style, tone=0.0) - x, injected(x, style, tone=1.0) - x
    torch.testing.assert_close(injected(x, style, tone=0.25) - x, 0.75 * whole + 0.25 * shift, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(injected(x, style, tone=0.0, strength=0.3) - x, 0.3 * whole, rtol=1e-4, atol=1e-5)


def test_likeness_is_the_cosine_of_means():
    x, style = drawn(3, 50, 6), drawn(1, 60, 6, seed=2)
    found = likeness(statistics(x).mean, statistics(style).mean)
    one, other = numbers(x).mean(1), numbers(style).mean(1)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert found.shape == (3, 1, 1) and numbers(found)[:, 0, 0] == pytest.approx((1 + cosine) / 2, rel=1e-4)
    given = injected(x, statistics(style), tone=found)
    torch.testing.assert_close(injected(x, statistics(style)), given)


def test_rows_do_not_see_each_other():
    x, style = drawn(3, 40, 6), statistics(drawn(1, 30, 6, seed=1), table=True)
    together = injected(x, style)
    assert torch.equal(together, torch.cat([injected(row[None], style) for row in x]))


def test_interpolation_is_numpys():
    knots, values = (
        np.sort(np.random.default_rng(1).normal(size=(LEVELS, 4)), 0),
        np.random.default_rng(2).normal(size=(LEVELS, 4)),
    )
    x = np.random.default_rng(3).normal(size=(50, 4)) * 2
    found = interpolated(*(torch.from_numpy(one)[None] for one in (x, knots, values)))[0]
    wanted = np.stack([np.interp(x[:, c], knots[:, c], values[:, c]) for c in range(4)], 1)
    assert found.numpy() == pytest.approx(wanted)


def test_gradients_reach_the_features():
    x = drawn(1, 40, 3).requires_grad_(True)
    injected(x, statistics(drawn(1, 50, 3, seed=1), table=True)).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0
