"""The cosine transform and the low band of Progressive Spectrum Regularization."""

from __future__ import annotations

import pytest
import scipy.fft
import torch
from stylization.stylization_core import protection, spectrum
from stylization.stylization_core.spectrum import (
    dct2,
    dct_matrix,
    hold_band,
    idct2,
    low_band,
    spectrum_gradient,
    spectrum_loss,
    spectrum_prox,
)
from torch.utils._python_dispatch import TorchDispatchMode

SIZES = [(64, 64), (13, 9), (9, 13), (64, 96), (1, 7), (7, 1), (1, 1), (2, 3)]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def published_triangle(n: int, t: int) -> torch.Tensor:
    """The mask of the public code for a square latent: u + v <= int(t / 500 * (2n - 2))."""
    index = torch.arange(n)
    return index[:, None] + index[None, :] <= int(t / 500 * (2 * n - 2))


@pytest.mark.parametrize("size", SIZES)
def test_dct2_is_scipys_orthonormal_transform(size):
    x = drawn(2, 3, *size)
    expected = torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"))
    assert (dct2(x) - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("size", SIZES)
def test_idct2_inverts_dct2(size):
    x = drawn(2, 3, *size)
    assert (idct2(dct2(x)) - x).abs().max() <= 1e-12


@pytest.mark.parametrize("n", [1, 2, 13, 64])
def test_dct_matrix_is_orthonormal(n):
    matrix = dct_matrix(n, dtype=torch.float64)
    assert (matrix @ matrix.T - torch.eye(n, dtype=torch.float64)).abs().max() <= 1e-12


def test_dct2_keeps_dtype_and_shape():
    x = drawn(1, 4, 6, 5, dtype=torch.float32)
    assert dct2(x).dtype == torch.float32
    assert dct2(x).shape == x.shape


def test_matrix_made_under_inference_mode_serves_autograd_later():
    with torch.inference_mode():
        dct_matrix(37)
    x = drawn(1, 1, 37, 37, dtype=torch.float32).requires_grad_()
    dct2(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("size", [(16, 16), (13, 9), (1, 7)])
def test_gradient_in_closed_form_is_autograds(size, rate):
    x, reference = drawn(2, 4, *size, seed=1).requires_grad_(), drawn(2, 4, *size, seed=2)
    (spectrum_loss(x, reference, rate) * x.numel()).backward()
    assert (spectrum_gradient(x.detach(), reference, rate) - x.grad).abs().max() <= 1e-12


def test_gradient_of_equal_latents_is_zero():
    x = drawn(1, 4, 8, 8)
    assert torch.equal(spectrum_gradient(x, x, 1.0), torch.zeros_like(x))


@pytest.mark.parametrize(("color_weight", "share"), [(0.0, 0.0), (1.0, 1.0), (3.0, 3.0)])
def test_color_weight_scales_the_mean_of_the_gradient_and_nothing_else(color_weight, share):
    x, reference = drawn(1, 4, 8, 6, seed=1), drawn(1, 4, 8, 6, seed=2)
    plain = spectrum_gradient(x, reference, 0.6)
    weighted = spectrum_gradient(x, reference, 0.6, color_weight=color_weight)
    mean, weighted_mean = plain.mean((-2, -1), keepdim=True), weighted.mean((-2, -1), keepdim=True)
    torch.testing.assert_close(weighted_mean, share * mean, atol=1e-12, rtol=0)
    torch.testing.assert_close(weighted - weighted_mean, plain - mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("t", "tau", "kept"), [(499, 125, 0.9998), (251, 63, 0.508), (121, 30, 0.121), (21, 5, 0.005)])
def test_band_of_a_square_latent_is_the_published_one(t, tau, kept):
    band = low_band(64, 64, t / 500)
    assert band.float().mean().item() == pytest.approx(kept, abs=5e-4)
    assert band[0].sum().item() == min(tau, 63) + 1


def test_band_is_the_published_triangle_at_every_timestep():
    assert all(torch.equal(low_band(64, 64, t / 500), published_triangle(64, t)) for t in range(21, 500, 2))


@pytest.mark.parametrize(("height", "width"), [(64, 72), (64, 113), (113, 64), (13, 9), (1, 7), (7, 1), (1, 1)])
@pytest.mark.parametrize("rate", [0.0, 0.042, 0.5, 0.958, 1.0])
def test_band_never_fails_and_always_holds_the_mean_colour(height, width, rate):
    band = low_band(height, width, rate)
    assert band.shape == (height, width)
    assert band[0, 0]
    assert band.all() if rate == 1.0 else True


@pytest.mark.parametrize("rate", [0.042, 0.242, 0.502])
def test_band_is_the_same_share_whatever_the_aspect(rate):
    square, wide = low_band(64, 64, rate).float().mean(), low_band(64, 113, rate).float().mean()
    assert abs(square - wide) < 0.01


def test_band_of_rate_zero_is_the_mean_colour_alone():
    assert low_band(13, 9, 0.0).sum() == 1


def test_band_grows_with_the_noise_level():
    shares = [low_band(13, 9, rate / 20).sum().item() for rate in range(21)]
    assert shares == sorted(shares)
    assert shares[-1] == 13 * 9


@pytest.mark.parametrize("rate", [-0.01, 1.01, float("nan")])
def test_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        low_band(8, 8, rate)


def test_matrix_of_no_cells_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        dct_matrix(0)


# proximal form and hold


def scipy_dct(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(scipy.fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_proximal_step_minimises_its_own_objective(rate):
    """argmin_z 1/2 |z - x|^2 + threshold |M DCT(z - reference)|_1: no nearby point is better."""
    x, reference, threshold = drawn(2, 3, 6, 9), drawn(2, 3, 6, 9, seed=1), 0.4
    band = low_band(6, 9, rate)

    def objective(z):
        return 0.5 * (z - x).square().sum() + threshold * (scipy_dct(z - reference).abs() * band).sum()

    found = spectrum_prox(x, reference, rate, threshold)
    best = objective(found)
    for seed in range(20):
        step = drawn(2, 3, 6, 9, seed=10 + seed)
        assert all(objective(found + size * step) > best for size in (1e-1, 1e-2, 1e-3))


def test_infinite_threshold_locks_the_band_and_leaves_the_rest():
    x, reference = drawn(1, 2, 8, 5), drawn(1, 2, 8, 5, seed=1)
    found = scipy_dct(spectrum_prox(x, reference, 0.5, float("inf")) - reference)
    band = low_band(8, 5, 0.5)
    assert found[..., band].abs().max() < 1e-12
    assert torch.allclose(found[..., ~band], scipy_dct(x - reference)[..., ~band])


def test_color_weight_of_the_proximal_step_is_on_dc_alone():
    x, reference = drawn(1, 2, 4, 4), drawn(1, 2, 4, 4, seed=1)
    free = scipy_dct(spectrum_prox(x, reference, 1.0, float("inf"), color_weight=0.0) - reference)
    assert torch.allclose(free[..., 0, 0], scipy_dct(x - reference)[..., 0, 0])
    free[..., 0, 0] = 0
    assert free.abs().max() < 1e-12


def test_hold_takes_back_a_share_of_the_band():
    x, reference = drawn(1, 2, 8, 6), drawn(1, 2, 8, 6, seed=1)
    band, before = low_band(8, 6, 0.4), scipy_dct(x - reference)
    after = scipy_dct(hold_band(x, reference, 0.4, 0.25, color_weight=0.0) - reference)
    expected = torch.where(band, 0.75 * before, before)
    expected[..., 0, 0] = before[..., 0, 0]
    assert torch.allclose(after, expected)
    assert hold_band(x, reference, 0.4, 0.0) is x


def test_proximal_hold_takes_small_differences_first():
    reference = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    spectrum = reference.clone()
    spectrum[..., 0, 1], spectrum[..., 1, 0] = 10.0, 0.1
    after = scipy_dct(hold_band(idct2(spectrum), reference, 1.0, 1.0, proximal=True))
    mean = (10.0 + 0.1) / 16
    assert after[0, 0, 0, 1] == pytest.approx(10.0 - mean)
    assert abs(after[0, 0, 1, 0]) < 1e-12


class _Made(TorchDispatchMode):
    """Notes the kinds of all tensors that are made."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.found.add((tensor.device.type, tensor.dtype))
        return made


@pytest.mark.parametrize("operator", ["low_band", "gradient", "prox", "hold", "held_high_band"])
def test_no_float64_is_made_on_a_device_that_may_lack_it(operator):
    """A stand-in for Apple's and some of Intel's devices: the device that only knows shapes."""
    x, mask = torch.empty(2, 4, 13, 17, device="meta"), torch.empty(1, 1, 13, 17, device="meta")
    run = {
        "low_band": lambda: spectrum.low_band(13, 17, 0.3, device="meta"),
        "gradient": lambda: spectrum.spectrum_gradient(x, x, 0.3, color_weight=0.5),
        "prox": lambda: spectrum.spectrum_prox(x, x, 0.3, 0.1),
        "hold": lambda: spectrum.hold_band(x, x, 0.3, 0.5, proximal=True),
        "held_high_band": lambda: protection.held_high_band(x, x, mask, 0.3),
    }[operator]
    spectrum._dct_matrix.cache_clear()
    with _Made() as made:
        assert run().device.type == "meta"
    spectrum._dct_matrix.cache_clear()
    kinds = {dtype for device, dtype in made.found if device == "meta"}
    assert kinds and torch.float64 not in kinds
