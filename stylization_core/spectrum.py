"""Progressive Spectrum Regularization: hold the low band of the cosine spectrum of a latent.

Source: SMS (arXiv 2503.07601), "Progressive Spectrum Regularization". The published code keeps the coefficients
(u, v) with u + v <= tau of an orthonormal DCT-II and charges the mean absolute difference there. Two things differ
here on purpose: the band is aspect-correct, so that it is the same share of any latent size (identical to the
published one for squares), and DC, the mean colour, can be held separately.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def _dct_matrix(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Kept per device: an upload per call would hold up the loop."""
    with torch.inference_mode(False):  # cached beyond the run, so it must not be an inference tensor
        k = torch.arange(n, dtype=torch.float64)
        matrix = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * n)) * math.sqrt(2.0 / n)
        matrix[0] /= math.sqrt(2.0)
        return matrix.to(dtype).to(device)


def dct_matrix(n: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Orthonormal DCT-II matrix C of shape (n, n): ``C @ x`` is the spectrum of ``x``, ``C.T @ X`` its inverse."""
    if n < 1:
        raise ValueError(f"dct_matrix: n must be at least 1, got {n}")
    return _dct_matrix(n, torch.device(device), dtype)


def dct2(x: Tensor) -> Tensor:
    """Orthonormal 2-D DCT-II over the last two dimensions, (..., H, W) -> (..., H, W), same dtype."""
    rows = dct_matrix(x.shape[-2], device=x.device, dtype=x.dtype)
    columns = dct_matrix(x.shape[-1], device=x.device, dtype=x.dtype)
    return rows @ x @ columns.T


def idct2(spectrum: Tensor) -> Tensor:
    """Inverse of :func:`dct2`."""
    rows = dct_matrix(spectrum.shape[-2], device=spectrum.device, dtype=spectrum.dtype)
    columns = dct_matrix(spectrum.shape[-1], device=spectrum.device, dtype=spectrum.dtype)
    return rows.T @ spectrum @ columns


@lru_cache(maxsize=32)
def _frequencies(height: int, width: int) -> Tensor:
    """``u / (H - 1) + v / (W - 1)`` of each coefficient, (H, W) float64 on the CPU: other devices may lack float64."""
    with torch.inference_mode(False):  # kept beyond the run, so it must not be an inference tensor
        u = torch.arange(height, dtype=torch.float64) / max(height - 1, 1)
        v = torch.arange(width, dtype=torch.float64) / max(width - 1, 1)
        return u[:, None] + v[None, :]


def low_band(height: int, width: int, rate: float, *, device: torch.device | str = "cpu") -> Tensor:
    """Which cosine coefficients are held at a noise level.

    Args:
        height, width: size of the latent in cells.
        rate: t / t_max in [0, 1]; 0 keeps DC alone, 1 keeps everything.

    Returns:
        bool (H, W), true where ``u / (H - 1) + v / (W - 1) <= 2 * rate`` (a one-cell axis counts as 0).
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"low_band: rate must lie in [0, 1], got {rate}")
    return (_frequencies(height, width) <= 2.0 * rate + 1e-9).to(device, non_blocking=True)


def spectrum_loss(x: Tensor, reference: Tensor, rate: float) -> Tensor:
    """Mean absolute low-band difference (N counts all coefficients, as published); scalar."""
    band = low_band(*x.shape[-2:], rate, device=x.device)
    return (dct2(x - reference).abs() * band).mean()


def spectrum_gradient(x: Tensor, reference: Tensor, rate: float, *, color_weight: float = 1.0) -> Tensor:
    """Gradient of ``N * spectrum_loss`` in closed form: IDCT(M * sign(DCT(x - reference))).

    Args:
        x, reference: latents (..., H, W).
        rate: t / t_max in [0, 1].
        color_weight: factor on the DC coefficient, that is, on the mean colour of each channel.

    Returns:
        Tensor like ``x``.
    """
    signs = torch.sign(dct2(x - reference)) * low_band(*x.shape[-2:], rate, device=x.device)
    if color_weight != 1.0:
        signs[..., 0, 0] *= color_weight
    return idct2(signs)


def spectrum_prox(
    x: Tensor, reference: Tensor, rate: float, threshold: Tensor | float, *, color_weight: float = 1.0
) -> Tensor:
    """Proximal step of ``threshold * |M * DCT(x - reference)|_1``: held coefficients move towards the reference.

    Exact where the sub-gradient of :func:`spectrum_gradient` chatters around zero: a difference smaller than the
    threshold vanishes, a larger one shrinks by it, and an infinite threshold locks the band.

    Args:
        x, reference: latents (..., H, W).
        rate: t / t_max in [0, 1].
        threshold: in latent units, a number or a tensor that broadcasts to ``x``, at least 0.
        color_weight: factor on the threshold of DC.

    Returns:
        Tensor like ``x``; equal to it outside the band.
    """
    difference = dct2(x - reference)
    held = low_band(*x.shape[-2:], rate, device=x.device).to(x.dtype)
    if color_weight != 1.0:
        held[0, 0] = color_weight
    limit = torch.nan_to_num(held * torch.as_tensor(threshold, device=x.device, dtype=x.dtype), nan=0.0)
    return x - idct2(difference.clamp(-limit, limit))


def hold_band(
    x: Tensor, reference: Tensor, rate: float, share: float, *, color_weight: float = 1.0, proximal: bool = False
) -> Tensor:
    """Take back a share of the low-band difference from a reference, for one step of an ordinary sampler.

    Args:
        x, reference: denoised estimate and content, (..., H, W).
        rate: which band, in [0, 1].
        share: in [0, 1]; 0 returns ``x``, 1 gives the band of the reference.
        color_weight: factor on the share for DC.
        proximal: shrink each coefficient by ``share`` times the mean modulus of its channel's held difference, so that
            small differences vanish and large ones nearly stay, instead of scaling all alike.
    """
    if share == 0:
        return x
    band = low_band(*x.shape[-2:], rate, device=x.device).to(x.dtype)
    difference = dct2(x - reference)
    mean = (difference.abs() * band).sum((-2, -1), keepdim=True) / band.sum() if proximal else None
    band = band * share
    if color_weight != 1.0:
        band[0, 0] *= color_weight
    taken = difference.clamp(-band * mean, band * mean) if proximal else band * difference
    return x - idct2(taken)
