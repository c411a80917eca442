"""Statistics of tokens and groups: AdaIN, moments, mixtures and group norms in closed form."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.shared_attention import (
    GroupMoments,
    Moments,
    adain,
    group_mixture,
    group_moments,
    mixed_moments,
    moments,
    pooled_group_norm,
)

EPSILON = 1e-5
SINGLE = 2e-6
BINARY = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.double() - other.double()).abs().max().item()


def published_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of one head (B, N, d) over tokens: unbiased, epsilon inside the root."""
    mean = x.sum(1, keepdim=True) / x.shape[1]
    return mean, (((x - mean) ** 2).sum(1, keepdim=True) / (x.shape[1] - 1) + EPSILON).sqrt()


def published_adain(x: torch.Tensor, y: torch.Tensor, heads: int) -> torch.Tensor:
    """Section 3.2 for each head: x to the statistics of y."""
    found = []
    for one, other in zip(x.chunk(heads, -1), y.chunk(heads, -1), strict=True):
        mean, std = published_statistics(one)
        to_mean, to_std = published_statistics(other)
        found.append(to_std * (one - mean) / std + to_mean)
    return torch.cat(found, -1)


# statistics


def test_adain_of_no_strength_is_the_object_itself():
    x = drawn(2, 6, 12)
    assert adain(x, moments(drawn(1, 7, 12, seed=1)), 0.0) is x


def test_adain_gives_the_wanted_moments():
    x, to = 3 * drawn(2, 60, 12) + 5, moments(0.2 * drawn(1, 70, 12, seed=1) - 2)
    found = moments(adain(x, to))
    assert difference(found.mean, to.mean.expand(2, -1, -1)) < 1e-5
    assert difference(found.std, to.std.expand(2, -1, -1)) < 1e-4


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9])
def test_adain_strength_is_linear(strength):
    x, to = 3 * drawn(2, 6, 12) + 5, moments(0.2 * drawn(1, 7, 12, seed=1) - 2)
    expected = (1 - strength) * x + strength * adain(x, to)
    assert difference(adain(x, to, strength), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_adain_rounds_once(dtype):
    """Half a unit in the last place of the exact value of the same operands, besides float32's own rounding."""
    x, y = (3 * drawn(2, 50, 8) + 5).to(dtype), (0.2 * drawn(1, 50, 8, seed=1) - 2).to(dtype)
    exact = published_adain(x.double(), y.double().expand(2, -1, -1), 1)
    found = adain(x, moments(y))
    assert found.dtype == dtype
    assert difference(found, exact) <= exact.abs().max() * torch.finfo(dtype).eps / 2 + 4 * SINGLE


@pytest.mark.parametrize("count", [2, 3, 50])
def test_moments_are_unbiased_with_epsilon_inside_the_root(count):
    x = 1e-3 * drawn(2, count, 5)
    mean, std = published_statistics(x)
    found = moments(x)
    assert found.mean.shape == found.std.shape == (2, 1, 5)
    assert difference(found.mean, mean) < 1e-9
    assert difference(found.std, std) < 1e-8


def test_single_token_has_no_spread():
    x = drawn(2, 1, 5)
    for weights in (None, torch.ones(1)):
        found = moments(x, weights)
        assert difference(found.mean, x) < 1e-6
        assert difference(found.std, torch.full_like(x, math.sqrt(EPSILON))) < 1e-8


def test_moments_of_half_precision_are_taken_in_single():
    x = (100 + drawn(1, 4096, 3)).half()
    assert difference(moments(x).std, x.double().std(1, keepdim=True)) < 1e-4


@pytest.mark.parametrize("factor", [0.1, 1.0, 7.0])
def test_equal_weights_are_no_weights(factor):
    x = drawn(2, 9, 5)
    for one, other in zip(moments(x, torch.full((9,), factor)), moments(x), strict=True):
        assert difference(one, other) < SINGLE


def test_weights_of_zero_drop_tokens():
    x = drawn(2, 7, 5)
    for one, other in zip(moments(x, BINARY), moments(x[:, BINARY > 0]), strict=True):
        assert difference(one, other) < SINGLE


def test_whole_weights_repeat_tokens():
    """Mean and biased variance are those of the repeated tokens; the correction counts each token once."""
    x, times = drawn(2, 5, 4), torch.tensor([1, 3, 2, 0, 4])
    repeated = x.repeat_interleave(times, 1)
    found, share = moments(x, times.float()), times / times.sum()
    assert difference(found.mean, repeated.mean(1, keepdim=True)) < SINGLE
    biased = (found.std.double() ** 2 - EPSILON) * (1 - (share.double() ** 2).sum())
    assert difference(biased, repeated.var(1, keepdim=True, correction=0)) < 5 * SINGLE


@pytest.mark.parametrize("sizes", [(4, 4), (3, 9), (2, 5, 11)])
def test_mixture_has_the_moments_of_the_concatenation(sizes):
    """Exactly so for biased statistics, each population weighted by its size."""
    parts = [drawn(2, size, 5, seed=size) * size + 3 * index for index, size in enumerate(sizes)]
    every = torch.cat(parts, 1)
    given = [Moments(x.mean(1, keepdim=True), x.std(1, keepdim=True, correction=0)) for x in parts]
    found = mixed_moments(given, [float(size) for size in sizes])
    assert difference(found.mean, every.mean(1, keepdim=True)) < 1e-12
    assert difference(found.std, every.std(1, keepdim=True, correction=0)) < 1e-12


@pytest.mark.parametrize("sizes", [(20, 20), (10, 40)])
def test_mixture_of_unbiased_moments_differs_by_bessels_terms(sizes):
    """By sum(s^2 (N - n)) / (N (N - 1)) - (spread of the means) / (N - 1) in the variance."""
    parts = [drawn(1, size, 5, seed=size + index) + 2 * index for index, size in enumerate(sizes)]
    every, total = torch.cat(parts, 1), sum(sizes)
    found = mixed_moments([moments(x) for x in parts], [float(size) for size in sizes])
    inner = sum(x.var(1, keepdim=True) * (total - x.shape[1]) for x in parts) / (total * (total - 1))
    mean = every.mean(1, keepdim=True)
    outer = sum(x.shape[1] / total * (x.mean(1, keepdim=True) - mean) ** 2 for x in parts) / (total - 1)
    expected = every.var(1, keepdim=True) + EPSILON + inner - outer
    assert difference(found.std.double() ** 2, expected) < 1e-5


def test_mixture_is_not_the_mean_of_the_spreads():
    parts = [Moments(torch.full((1, 1, 1), mean), torch.zeros(1, 1, 1)) for mean in (-1.0, 1.0)]
    assert mixed_moments(parts, [2.0, 2.0]).std.item() == pytest.approx(1.0)


def test_mixture_of_one_is_itself():
    one = moments(drawn(1, 4, 5))
    assert mixed_moments([one], [0.3]) is one


# group norms


@pytest.mark.parametrize(("shape", "groups"), [((2, 8, 6, 5), 4), ((3, 4, 7, 7), 1), ((1, 6, 3, 2), 6)])
@pytest.mark.parametrize("epsilon", [1e-6, 0.1])
def test_closed_form_is_group_norm_of_the_concatenation(shape, groups, epsilon):
    """Concatenated along height, as published, and cut again."""
    x, reference = drawn(*shape), 2 * drawn(1, *shape[1:], seed=1) + 1
    both = torch.cat([x, reference.expand_as(x)], -2)
    expected = F.group_norm(both, groups, eps=epsilon)[..., : shape[-2], :]
    own, other = group_moments(x, groups), group_moments(reference, groups)
    gain, shift = pooled_group_norm(own, GroupMoments(*(each.expand_as(own.mean) for each in other)), epsilon)
    assert gain.shape == shift.shape == (shape[0], groups)
    wide = [each.repeat_interleave(shape[1] // groups, 1)[..., None, None] for each in (gain, shift)]
    assert difference(F.group_norm(x, groups, eps=epsilon) * wide[0] + wide[1], expected) < 5 * SINGLE


def test_group_norm_pooled_with_itself_stays():
    own = group_moments(drawn(2, 8, 6, 5), 4)
    gain, shift = pooled_group_norm(own, own, 1e-5)
    assert difference(gain, torch.ones_like(gain)) < SINGLE
    assert difference(shift, torch.zeros_like(shift)) < SINGLE


def test_group_moments_are_those_of_group_norm():
    x = 3 * drawn(2, 8, 6, 5) + 2
    mean, var = [each.repeat_interleave(2, 1)[..., None, None] for each in group_moments(x, 4)]
    assert difference((x - mean) / (var + 1e-3).sqrt(), F.group_norm(x, 4, eps=1e-3)) < SINGLE


def test_group_mixture_pools_the_rows_of_all_references():
    """Weighted by their rows, it is one population of all pixels."""
    parts = [drawn(2, 8, 4, 5) + 1, 2 * drawn(3, 8, 4, 5, seed=1), drawn(1, 8, 4, 5, seed=2) - 4]
    found = group_mixture([group_moments(x, 4) for x in parts], [2.0, 3.0, 1.0])
    every = torch.cat([x.reshape(-1, 4, 2, 4, 5) for x in parts]).transpose(0, 1).reshape(4, -1)
    assert found.mean.shape == found.var.shape == (1, 4)
    assert difference(found.mean[0], every.mean(1)) < SINGLE
    assert difference(found.var[0], every.var(1, correction=0)) < 10 * SINGLE


def test_group_mixture_weighs_references():
    one, other = group_moments(drawn(1, 8, 4, 5), 4), group_moments(drawn(1, 8, 4, 5, seed=1) + 3, 4)
    weighted = group_mixture([one, other], [2.0, 1.0])
    repeated = group_mixture([one, one, other], [1.0, 1.0, 1.0])
    assert all(difference(*pair) < SINGLE for pair in zip(weighted, repeated, strict=True))
