"""Checks of inputs that several nodes share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..stylization_core.errors import StylizationError


def latent_samples(latent: dict, subject: str = "latent_image") -> Tensor:
    """The samples (B, C, H, W) of a LATENT that holds an encoded picture.

    Raises:
        StylizationError: video or multi-stream latents, NaN or infinite values, an empty latent.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        shape = "several streams" if getattr(samples, "is_nested", False) else tuple(samples.shape)
        raise StylizationError(subject, f"it holds {shape}, not pictures (B, C, H, W)", "Connect an image's latent")
    broken = int((~torch.isfinite(samples)).sum())
    if broken:
        raise StylizationError(
            subject,
            f"{broken} of its {samples.numel()} values are NaN or infinite",
            "Look at the node that made it; a VAE in half precision often does this, try --fp32-vae",
        )
    if not torch.count_nonzero(samples):
        raise StylizationError(
            subject, "it is empty (all zeros), so there is no content to keep", "Connect VAE Encode with your picture"
        )
    return samples


def check_channels(model, samples: Tensor, subject: str = "latent_image") -> None:
    """Refuse a latent of another kind of model.

    Raises:
        StylizationError: names both numbers of channels.
    """
    wanted = model.model.latent_format.latent_channels
    if samples.shape[1] != wanted:
        raise StylizationError(
            subject,
            f"it has {samples.shape[1]} channels, latents of model have {wanted}",
            "Encode the picture with the VAE that belongs to model",
        )


def latent_mask(mask: Tensor | None, samples: Tensor, ratio: int = 8, subject: str = "mask") -> Tensor | None:
    """A MASK at the latent's size by area average.

    Args:
        mask: (B, H, W) or (H, W) in [0, 1], of any size with the picture's aspect.
        samples: (B, C, h, w).
        ratio: pixels per latent cell, for the message.

    Returns:
        (B or 1, 1, h, w), or None for no mask.

    Raises:
        StylizationError: another aspect than the latent, or a batch that fits neither 1 nor the latent's.
    """
    if mask is None:
        return None
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    height, width = samples.shape[-2:]
    if abs(mask.shape[-2] * width - mask.shape[-1] * height) > max(mask.shape[-2:]) + max(height, width):
        raise StylizationError(
            subject,
            f"it is {mask.shape[-1]}x{mask.shape[-2]} pixels, the picture about {width * ratio}x{height * ratio}",
            "Draw the mask on the same picture, or resize it to the same aspect",
        )
    if mask.shape[0] not in (1, samples.shape[0]):
        raise StylizationError(
            subject,
            f"it has {mask.shape[0]} entries for {samples.shape[0]} pictures",
            "Use one mask, or one per picture",
        )
    return F.adaptive_avg_pool2d(mask, (height, width)).clamp(0, 1)
