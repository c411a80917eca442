"""StylizeProtectRegion, StylizeProtectComposite: a label, logo or face that a style leaves alone."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ...stylization_core.composite import protected
from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.finite import check_finite
from ...stylization_core.hosts.comfyui.guidance import acting
from ...stylization_core.hosts.comfyui.model import attach_once, detect
from ...stylization_core.hosts.comfyui.sms import PROTECTION, ProtectedRegion
from ...stylization_core.rulers.images import as_encoded
from ...stylization_core.rulers.seam import seam
from ..inputs import mask_at, window_inputs
from .holds import OWN_INPUT, content_samples

CATEGORY = "stylization/measure"


class StylizeProtectRegion(io.ComfyNode):
    """A region that keeps its form while the rest takes a style."""

    DISPLAY_NAME = "Stylize Protect Region"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeProtectRegion",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "Holds form and lettering of a masked label, logo or face while the picture is stylized: the fine "
                "frequencies of its latent stay those of the content. Acts in Stylize SMS Sampler and in any ordinary "
                "sampler. Stylize Protect Composite puts the region back exactly afterwards."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that samples. It stays as it is."),
                io.Mask.Input("mask", tooltip="What is protected: white is held, black is free, grey is held partly."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Share of the hold. 1 holds wholly, 0 is off.",
                ),
                io.Float.Input(
                    "band",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "Share of the spectrum that stays free, from the coarse end: 0 holds all of the region, 0.1 "
                        "lets its tone follow the style, 0.5 holds fine detail alone."
                    ),
                ),
                *window_inputs(),
                io.Latent.Input(
                    "content",
                    optional=True,
                    tooltip="Picture whose region is held in ordinary samplers. " + OWN_INPUT,
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="To any sampler or to Stylize SMS Guider.")],
        )

    @classmethod
    def execute(cls, model, mask, *, strength, band, start_percent, end_percent, content=None) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            detect(model)
            _check_mask(mask)
            settings = ProtectedRegion(
                mask=mask,
                band=band,
                strength=strength,
                start=start_percent,
                end=end_percent,
                content=content_samples(model, content),
                node=cls.DISPLAY_NAME,
            )
            clone = attach_once(model, PROTECTION, settings, cls.DISPLAY_NAME)
        return io.NodeOutput(model if strength == 0 else acting(clone))


class StylizeProtectComposite(io.ComfyNode):
    """The original inside a mask, the styled picture around it."""

    DISPLAY_NAME = "Stylize Protect Composite"

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeProtectComposite",
            display_name=cls.DISPLAY_NAME,
            category=CATEGORY,
            description=(
                "Puts the masked part of the original back into the styled picture, to the last bit, with a soft "
                "border outside it, and says how much the border shows."
            ),
            inputs=[
                io.Image.Input("original", tooltip="The photo itself, not its decoded latent."),
                io.Image.Input("styled", tooltip="The styled picture, of the same size."),
                io.Mask.Input("mask", tooltip="What comes back: white exactly, grey in part."),
                io.Float.Input(
                    "feather",
                    default=4.0,
                    min=0.0,
                    max=512.0,
                    step=1.0,
                    tooltip=(
                        "Soft border in pixels, on the outer side of the mask. 0 for a label with an edge of its own, "
                        "more for a face."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The picture."),
                io.Float.Output(
                    display_name="SEAM",
                    tooltip=(
                        "How much the border shows, of the worst picture of the batch: 1 is no step beyond those that "
                        "both pictures have there themselves."
                    ),
                ),
                io.String.Output(display_name="TEXT", tooltip="Seam and kept share of each picture, to read."),
            ],
        )

    @classmethod
    def execute(cls, original, styled, mask, feather) -> io.NodeOutput:
        with naming(cls.DISPLAY_NAME):
            _check_mask(mask)
            styled = styled[..., :3].to(original)
            size = styled.shape[1:3]
            original = as_encoded(original[..., :3], size)
            mask = as_encoded(mask.reshape(-1, *mask.shape[-2:]), size)
            mask = mask_at(mask.to(original), original.shape[1:3])
            composed, taken = protected(original, styled, mask, feather)
            seams = [
                float(seam(composed[[row]], _row(mask, row), _row(original, row), _row(styled, row))[0])
                if _row(mask, row).any()
                else 1.0
                for row in range(len(composed))
            ]
        kept = [float((_row(taken, row) == 0).float().mean()) for row in range(len(composed))]
        lines = [
            f"picture {number}: seam {shown:.2f}, {100 * share:.1f} % exactly the original"
            for number, (shown, share) in enumerate(zip(seams, kept, strict=True), 1)
        ]
        text = "\n".join([*lines, "a seam of 1 is no step beyond those that both pictures have there themselves"])
        return io.NodeOutput(composed, max(seams), text)


def _row(batch: torch.Tensor, row: int) -> torch.Tensor:
    """One of a batch, or the only one."""
    return batch[[row % len(batch)]]


def _check_mask(mask: torch.Tensor) -> None:
    check_finite(mask, "mask")
    if not (mask > 0).any():
        raise StylizationError(
            "mask", "it is empty, nothing is marked", "Paint what is to stay in white, or take this node out"
        )
