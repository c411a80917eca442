"""Patch tokens of pictures from a connected CLIP_VISION: CLIP, SigLIP, DINOv2."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor

from ....errors import StylizationError
from ....report.material import Material
from ....rulers.features import token_weights

ROWS = 8
"""Pictures that the network sees at once."""
_PREFIX = 8
"""More tokens before the patches than any network has: one class token, four registers."""


def patch_tokens(clip_vision, images, tick: Callable[[], None] = lambda: None) -> Tensor:
    """Tokens of the patches from the last layer but one, row by row, without class token and registers.

    Pictures are squeezed to the network's square, not cropped, so that every part of them is seen.

    Args:
        clip_vision: a CLIP_VISION as ComfyUI loads it.
        images: (B, H, W, 3) in [0, 1], numpy or torch.
        tick: called after each few pictures.

    Returns:
        float32 (B, N, C) on the CPU, N a square number.

    Raises:
        StylizationError: the network gives no tokens of patches, or NaN.
    """
    images, tokens = torch.as_tensor(images), []
    for start in range(0, len(images), ROWS):
        output = clip_vision.encode_image(images[start : start + ROWS], crop=False)
        tokens.append(_patches(output).float().cpu())
        tick()
    tokens = torch.cat(tokens)
    if not torch.isfinite(tokens).all():
        raise StylizationError("clip_vision", "its tokens are NaN or infinite", "Run it at a higher precision")
    return tokens


def _patches(output) -> Tensor:
    tokens = getattr(output, "penultimate_hidden_states", None)
    if tokens is None or tokens.ndim != 3:
        shape = "none" if tokens is None else f"of the shape {tuple(tokens.shape)}"
        raise _no_patches(f"its hidden states are {shape}")
    count = tokens.shape[1]
    patches = isqrt(count) ** 2
    # patches come last, in a square; what stands before them is no place in the picture
    if patches < 4 or count - patches > _PREFIX:
        raise _no_patches(f"it gives {count} tokens a picture, which are no square of patches")
    return tokens[:, count - patches :]


def _no_patches(found: str) -> StylizationError:
    return StylizationError(
        "clip_vision",
        f"{found}, so there are no patches to compare",
        "Connect a CLIP, SigLIP or DINOv2 vision model, or none",
    )


def token_material(clip_vision, given: Material, tick: Callable[[], None] = lambda: None) -> Material:
    """The tokens of all pictures of a report; a mask becomes a weight for each patch."""
    content, result = (patch_tokens(clip_vision, pictures, tick).numpy() for pictures in (given.content, given.result))
    exemplars = None if given.exemplars is None else patch_tokens(clip_vision, given.exemplars, tick).numpy()
    side = isqrt(result.shape[1])
    weights = None if given.mask is None else token_weights(given.mask, (side, side))
    return Material(content, result, exemplars, exemplars, weights)
