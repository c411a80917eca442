"""Checks of inputs that several nodes share."""

from __future__ import annotations

import importlib.util

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..stylization_core.errors import StylizationError
from ..stylization_core.finite import check_finite
from ..stylization_core.hosts.comfyui.model import ALL, LATE, PRESETS, STYLE, detect
from ..stylization_core.packages import REQUIREMENTS, command

VAE_HALF = "Look at the node that made it; a VAE in half precision often does this, try --fp32-vae"
"""What to do about pictures and latents that are not finite."""


def latent_samples(latent: dict, subject: str = "latent_image", empty: bool = False) -> Tensor:
    """The samples (B, C, H, W) of a LATENT that holds an encoded picture, or, with ``empty``, that may hold none.

    Raises:
        StylizationError: video or multi-stream latents, NaN or infinite values, an empty latent.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        shape = "several streams" if getattr(samples, "is_nested", False) else tuple(samples.shape)
        raise StylizationError(subject, f"it holds {shape}, not pictures (B, C, H, W)", "Connect an image's latent")
    check_finite(samples, subject, VAE_HALF)
    if not empty and not torch.count_nonzero(samples):
        raise StylizationError(
            subject, "it is empty (all zeros), so there is no content to keep", "Connect VAE Encode with your picture"
        )
    return samples


def check_falling(sigmas: Tensor, subject: str = "sigmas") -> None:
    """Refuse levels that a path from one to the next cannot be walked on.

    Raises:
        StylizationError: none is above zero, or one is not below the one before.
    """
    if not len(sigmas) or not (sigmas > 0).any():
        raise StylizationError(subject, "they hold no level above zero", "Connect Basic Scheduler")
    if (sigmas.diff() >= 0).any():
        place = int((sigmas.diff() >= 0).nonzero()[0])
        found = f"level {place + 2} ({float(sigmas[place + 1]):g}) is not below the one before"
        raise StylizationError(subject, found, "Connect levels that fall, as Basic Scheduler's do")


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


def check_unet(model) -> None:
    """Refuse a model without a UNet.

    Raises:
        StylizationError: names the family.
    """
    if not detect(model).unet:
        raise StylizationError(
            "model",
            f"the model family {type(model.model).__name__} has no UNet whose attention could take a style",
            "Load an SD 1.x, SD 2.x or SDXL checkpoint",
        )


MEASURING = {"matplotlib": "matplotlib", "skimage": "scikit-image", "scipy": "scipy", "pywt": "PyWavelets"}
"""Modules that rulers and charts import, and the packages that bring them."""


def check_installed() -> None:
    """Refuse to begin where a package for rulers or charts is missing, rather than lose what was computed.

    Raises:
        StylizationError: names the packages and what to run.
    """
    missing = [package for module, package in MEASURING.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise StylizationError(
            "requirements",
            f"not installed in ComfyUI's Python: {', '.join(missing)}",
            f"Run `{command('-r', str(REQUIREMENTS))}` and restart ComfyUI",
        )


def mask_at(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (B, H, W) at the pictures' height and width."""
    mask = mask.reshape(-1, *mask.shape[-2:])
    if mask.shape[-2:] == size:
        return mask
    return comfy.utils.common_upscale(mask[:, None], size[1], size[0], "bilinear", "")[:, 0]


LAYERS_ACT = (
    f"{ALL}: the most. {LATE}: the decoder's finest layers. {STYLE}: one block of the decoder, "
    "the gentlest. custom: those listed below."
)
"""What presets mean where statistics or a few tokens act."""


def layer_inputs(tooltip: str, preset: str = ALL) -> list:
    """Layers by preset, and those of a custom choice."""
    return [
        io.Combo.Input("layers", options=list(PRESETS), default=preset, tooltip=tooltip),
        io.String.Input(
            "custom_layers",
            default="",
            tooltip="For custom: blocks such as 'input.4, output.3-5, output.1.0', separated by commas.",
        ),
    ]


def window_inputs() -> list:
    """Start and end of an action as shares of the sampling run."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="In ordinary samplers: act from this share of the noise chain on. 0 is from the start.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="In ordinary samplers: act up to this share of the noise chain. 1 is to the end.",
        ),
    ]
