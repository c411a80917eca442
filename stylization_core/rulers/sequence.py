"""How steady a sequence of results is. Frames are (F, H, W, 3) in [0, 1], numpy or torch, in their order."""

from __future__ import annotations

import numpy as np

from ..errors import StylizationError
from .images import areas, at_least, batch, luminance

FLOW_SIDE = 384
"""Motion is estimated at most at so many pixels along the longer side."""
AGREEMENT = 0.06
"""Where the moved source frame is off the next one by more than this, motion was not found or something was covered."""
TRACKED = 0.25
"""The share of the picture or mask that must be found again for a pair to mean anything."""
_NARROW = 16


def flicker(frames, source=None, mask=None) -> np.ndarray:
    """How much each frame differs from the one before beyond the source's own motion; one number a pair, (F - 1,).

    Range and direction: [0, 1], lower is steadier; 0 is a still, or what moves exactly as the source does. Read it
    beside the source's own flicker (``flicker(source, source)``), which holds its noise and what motion was not found.
    Of a whole sequence take the mean.
    Source: warping error as in Lai et al. 2018 (mean absolute instead of squared): the previous frame, moved by the
    source's optical flow (iterative Lucas-Kanade, scikit-image, at most :data:`FLOW_SIDE` pixels), against this one,
    where the source's own previous frame, so moved, meets this one within :data:`AGREEMENT`. Without a source all
    motion counts as flicker.
    What fools it: without a source a steady moving sequence scores worse than a still one; a grey blur never flickers;
    texture that sticks to the screen while the source moves counts, texture that sticks to a wrongly tracked thing
    counts too. A cut, where less than :data:`TRACKED` is found again, gives NaN for its pair.

    Args:
        frames: two or more, in their order.
        source: the frames that they were made of, as many and of one size with them, or None.
        mask: (F or 1, H, W); the later frame's counts for a pair.

    Raises:
        StylizationError: fewer than two frames, another size or number of source frames.
    """
    frames = batch(frames, "frames")
    if len(frames) < 2:
        raise StylizationError("frames", f"there are {len(frames)}", "Give two or more")
    masks = areas(mask, len(frames), frames.shape[1:3])
    motion = None if source is None else _source(source, frames)
    values = []
    for number in range(1, len(frames)):
        before, now = frames[number - 1], frames[number]
        weight = np.ones(now.shape[:2]) if masks[number] is None else masks[number]
        if motion is not None:
            before, steady = _moved(before, motion[number - 1], motion[number])
            share = np.average(steady, weights=weight)
            weight = weight * steady * (share >= TRACKED)
        change = np.abs(now - before).mean(axis=-1)
        values.append(np.average(change, weights=weight) if weight.any() else np.nan)
    return np.array(values)


def _source(source, frames: np.ndarray) -> np.ndarray:
    source = batch(source, "source")
    if source.shape != frames.shape:
        shapes = (
            f"{len(sequence)} frames of {sequence.shape[2]}x{sequence.shape[1]} pixels" for sequence in (source, frames)
        )
        raise StylizationError("source", f"it has {next(shapes)} for {next(shapes)}", "Give the frames' own source")
    at_least(_NARROW, source.shape[1:], "source")
    return source


def _moved(picture: np.ndarray, source_before: np.ndarray, source_now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture of the time before, moved as the source moves, and where (bool, (H, W)) that can be trusted."""
    from scipy.ndimage import map_coordinates

    height, width = picture.shape[:2]
    places = np.indices((height, width)) + _flow(luminance(source_now), luminance(source_before))
    inside = ((places >= 0) & (places <= np.array([height - 1, width - 1])[:, None, None])).all(axis=0)
    both = np.concatenate([picture, source_before], axis=-1)
    both = np.stack([map_coordinates(both[..., c], places, order=1, mode="nearest") for c in range(6)], axis=-1)
    off = np.abs(both[..., 3:] - source_now).mean(axis=-1)
    return both[..., :3], inside & (off <= AGREEMENT)


def _flow(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(2, H, W): down and right, from where in ``before`` each pixel of ``now`` comes."""
    from skimage.registration import optical_flow_ilk
    from skimage.transform import resize

    share = min(1.0, FLOW_SIDE / max(now.shape))
    size = tuple(max(_NARROW, round(side * share)) for side in now.shape)
    small = (resize(one, size, anti_aliasing=share < 1) for one in (now, before))
    flow = optical_flow_ilk(*small, radius=7)
    scale = np.array(now.shape) / np.array(size)
    return np.stack([resize(one, now.shape, order=1) * factor for one, factor in zip(flow, scale, strict=True)])
