"""Models with holistic injection and with regions, as their nodes make them."""

from __future__ import annotations

import torch
from stylization.stylization_core.hosts.comfyui.attention.run import with_attention_run
from stylization.stylization_core.hosts.comfyui.attention.settings import HOLISTIC, REGIONS, Holistic, Region, Regions
from stylization.stylization_core.hosts.comfyui.model.attachments import attach_more
from stylization.stylization_core.hosts.comfyui.model.layers import chosen_layers

from . import sharing


def injecting(model, *references, mask=None, layers="all", custom="", **settings):
    """MODEL with the injection of some references (one of another size than the picture if none is given)."""
    chosen = chosen_layers(model.model.diffusion_model, layers, custom)
    attached = Holistic(
        references or (sharing.described(),), chosen, mask=mask, node="Stylize Holistic Injector", **settings
    )
    return with_attention_run(attach_more(model, HOLISTIC, attached))


def regional(model, *regions, layers="all", custom="", **settings):
    """MODEL whose regions take styles of their own (:func:`two_regions` if none is given)."""
    chosen = chosen_layers(model.model.diffusion_model, layers, custom)
    attached = Regions(tuple(regions or two_regions()), chosen, node="Stylize Class-Adaptive Attention", **settings)
    return with_attention_run(attach_more(model, REGIONS, attached))


def upper_and_lower(height: int = 96, width: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of both halves of a picture."""
    upper = torch.zeros(1, height, width)
    upper[:, : height // 2] = 1
    return upper, 1 - upper


def two_regions(height: int = 96, width: int = 80, **given) -> list[Region]:
    """Both halves of a picture, each with a reference."""
    references = sharing.described(), sharing.described(draw=33)
    masks = upper_and_lower(height, width)
    return [Region(mask, (one,), **given) for mask, one in zip(masks, references, strict=True)]
