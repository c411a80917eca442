"""Deltas on activations against the same deltas on weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.low_rank import ConvGeometry, dense, gain, low_rank

GEOMETRIES = [
    ConvGeometry((1, 1), (1, 1), (1, 1), 1),
    ConvGeometry((2, 2), (1, 1), (1, 1), 1),
    ConvGeometry((2, 1), (0, 2), (1, 2), 1),
    ConvGeometry((1, 1), "same", (1, 1), 1),
]
RANK, INPUTS, OUTPUTS, SCALE = 3, 6, 8, 0.7


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolved(x, weight, conv):
    return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


@pytest.mark.parametrize("leading", [(2,), (2, 5), (2, 5, 4)])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_linear_delta_equals_the_weights(leading, kernel):
    x, up, down = drawn(*leading, INPUTS), drawn(OUTPUTS, RANK, *kernel, seed=1), drawn(RANK, INPUTS, *kernel, seed=2)
    expected = F.linear(x, SCALE * up.flatten(1) @ down.flatten(1))
    torch.testing.assert_close(low_rank(x, up, down, None, SCALE), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("conv", GEOMETRIES)
@pytest.mark.parametrize("size", [(8, 8), (13, 9)])
def test_convolution_delta_equals_the_weights(conv, size):
    x, up, down = drawn(2, INPUTS, *size), drawn(OUTPUTS, RANK, 1, 1, seed=1), drawn(RANK, INPUTS, 3, 3, seed=2)
    weight = SCALE * torch.einsum("or,rikl->oikl", up[..., 0, 0], down)
    torch.testing.assert_close(low_rank(x, up, down, None, SCALE, conv), convolved(x, weight, conv), atol=1e-12, rtol=0)


@pytest.mark.parametrize("conv", GEOMETRIES)
def test_tucker_delta_equals_the_weights(conv):
    x, up, down = drawn(2, INPUTS, 9, 7), drawn(OUTPUTS, RANK, 1, 1, seed=1), drawn(RANK, INPUTS, 1, 1, seed=2)
    mid = drawn(RANK, RANK, 3, 3, seed=3)
    weight = SCALE * torch.einsum("or,rskl,si->oikl", up[..., 0, 0], mid, down[..., 0, 0])
    torch.testing.assert_close(low_rank(x, up, down, mid, SCALE, conv), convolved(x, weight, conv), atol=1e-12, rtol=0)


def test_linear_factors_act_on_a_1x1_convolution():
    conv = ConvGeometry((1, 1), (0, 0), (1, 1), 1)
    x, up, down = drawn(2, INPUTS, 5, 4), drawn(OUTPUTS, RANK, seed=1), drawn(RANK, INPUTS, seed=2)
    weight = SCALE * (up @ down)[:, :, None, None]
    torch.testing.assert_close(low_rank(x, up, down, None, SCALE, conv), convolved(x, weight, conv), atol=1e-12, rtol=0)


def test_scale_zero_adds_exactly_nothing():
    added = low_rank(drawn(2, INPUTS), drawn(OUTPUTS, RANK), drawn(RANK, INPUTS), None, 0.0)
    assert torch.count_nonzero(added) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_dense_convolution_delta_is_the_convolution_itself(groups):
    conv = ConvGeometry((2, 2), (1, 1), (1, 1), groups)
    x, delta = drawn(2, INPUTS, 9, 7), drawn(OUTPUTS, INPUTS // groups, 3, 3, seed=1)
    assert torch.equal(dense(x, delta, conv), convolved(x, delta, conv))


@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_dense_linear_delta_is_the_product(kernel):
    x, delta = drawn(2, 5, INPUTS), drawn(OUTPUTS, INPUTS, *kernel, seed=1)
    assert torch.equal(dense(x, delta), F.linear(x, delta.flatten(1)))


NORMED = {
    "group": (torch.nn.GroupNorm(2, 6), (2, 6, 5, 4)),
    "layer": (torch.nn.LayerNorm(6), (2, 7, 6)),
    "root mean square": (torch.nn.RMSNorm(6, eps=1e-5), (2, 7, 6)),
}


@pytest.mark.parametrize("kind", NORMED)
def test_a_delta_of_a_gain_is_the_difference_of_two_norms(kind):
    norm, shape = NORMED[kind]
    x, delta = torch.randn(shape, generator=torch.Generator().manual_seed(3)), torch.linspace(-1, 2, 6)
    with torch.no_grad():
        plain = norm(x)
        found = gain(x, delta, norm)
        norm.weight += delta
        changed = norm(x)
        norm.weight -= delta
    assert torch.allclose(found, changed - plain, atol=1e-5) and found.abs().max() > 0.5
