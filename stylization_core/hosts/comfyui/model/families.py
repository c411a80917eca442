"""Which model families the operators support; everything else is refused by name."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_base as families
import comfy.model_sampling
import comfy.samplers
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ....errors import StylizationError


def family_of(patcher) -> str:
    """Name of a MODEL's family as ComfyUI has it, for instance SD15 or SDXL."""
    return type(patcher.model.model_config).__name__


@dataclass(frozen=True)
class Family:
    """A supported family.

    Attributes:
        name: as users call it.
        unet: it has ComfyUI's UNetModel, whose attention hooks the attention operators patch.
        flow: noise is mixed as (1 - sigma) x0 + sigma noise.
    """

    name: str
    unet: bool
    flow: bool


def detect(patcher, *, subject: str = "model") -> Family:
    """Family of a loaded MODEL.

    Raises:
        StylizationError: the family is not supported; names it and the supported ones.
    """
    model = patcher.model
    network = getattr(model, "diffusion_model", None)
    flow = isinstance(patcher.get_model_object("model_sampling"), comfy.model_sampling.CONST)
    refused = (families.SVD_img2vid, families.SV3D_u, families.StableCascade_B, families.StableCascade_C)
    if isinstance(network, UNetModel) and not isinstance(model, refused) and _images_only(model):
        return Family("SDXL" if isinstance(model, families.SDXL) else "SD", unet=True, flow=flow)
    for name in ("SD3", "Flux"):
        kind = getattr(families, name)
        # exact classes: relatives such as Flux 2 or HunyuanVideo share code but not latents or row layout
        if type(model) is kind:
            return Family(name, unet=False, flow=flow)
    raise StylizationError(
        subject,
        f"the model family {type(model).__name__} is not supported",
        "Load an SD 1.x, SD 2.x, SDXL, SD 3 or Flux checkpoint",
    )


def _images_only(model) -> bool:
    return getattr(model.latent_format, "latent_dimensions", 2) == 2
