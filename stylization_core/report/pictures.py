"""Pictures of a report: where content changed, and before beside after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..charts import INK, PAPER, prepared
from ..rulers.images import luminance
from .material import Material

SMALLEST = 256
"""Smaller pictures are shown enlarged, so that there is room for words."""
HEAT = "inferno"
DIMMED, OPAQUE = 0.45, 0.9
PART = 64
_LINE = 0.055
_GAP = 6


def change_map(photo: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Where content changed: 1 less the local structure similarity, its luminance term left out; (H, W) in [0, 1].

    0 is unchanged, 1 is unrelated or turned into its negative. The window is wider than that of the ruler structure
    similarity, a part :data:`PART` of the shorter side: single strokes of a brush would hide everything else.
    """
    from skimage.metrics import structural_similarity

    sigma = max(1.5, min(photo.shape[:2]) / PART)
    settings = {"gaussian_weights": True, "sigma": sigma, "use_sample_covariance": False, "data_range": 1.0}
    light = (luminance(picture.astype(np.float64)) for picture in (photo, result))
    _, local = structural_similarity(*light, K1=1e4, full=True, **settings)
    return np.clip(1 - local, 0, 1)


def overlay(given: Material, theme: str, tick: Callable[[], None] = lambda: None) -> np.ndarray:
    """Each result in dim grey with the heat of :func:`change_map` over it and a scale below, float32 (B, h, w, 3).

    A region's outline is drawn in white; ``tick`` is called after each.
    """
    pictures = []
    for number, case in enumerate(given.cases()):
        pictures.append(_heated(given, number, case, theme))
        tick()
    return np.stack(pictures)


def _heated(given: Material, number: int, case: tuple[int, int], theme: str) -> np.ndarray:
    colormaps = prepared().colormaps

    heat = change_map(given.content[case[0]], given.result[number])
    colors = colormaps[HEAT](heat)[..., :3]
    grey = DIMMED * luminance(given.result[number])[..., None].repeat(3, axis=-1)
    strength = OPAQUE * heat[..., None]
    picture = grey * (1 - strength) + colors * strength
    factor = _factor(picture)
    picture = _enlarged(picture, factor)
    if given.mask is not None:
        picture[_outline(_enlarged(given.mask[case[1]], factor))] = 1.0
    shown = f"result {number + 1}: " if len(given.result) > 1 else ""
    return np.concatenate([picture, _scale(picture.shape[1], f"{shown}content changed", theme)]).astype(np.float32)


def _factor(picture: np.ndarray) -> int:
    return -(-SMALLEST // picture.shape[1])


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(mask: np.ndarray) -> np.ndarray:
    """bool (H, W): two pixels on both sides of a mask's border."""
    from scipy.ndimage import binary_dilation, binary_erosion

    marked = mask >= 0.5 * mask.max()
    return binary_dilation(marked) & ~binary_erosion(marked, border_value=1)


def _scale(width: int, title: str, theme: str) -> np.ndarray:
    """A strip with the colours of the heat and what they mean."""
    colormaps = prepared().colormaps

    strip, draw, font, height = _strip(width, theme)
    ends = ("none", "all")
    wide = [draw.textlength(word, font=font) for word in (title, *ends)]
    x, middle = height // 3, height // 2
    draw.text((x, middle), title, INK[theme], font=font, anchor="lm")
    left, right = round(x + wide[0] + height + wide[1]), round(width - height // 3 - wide[2] - height // 3)
    draw.text((left - height // 3, middle), ends[0], INK[theme], font=font, anchor="rm")
    draw.text((width - height // 3, middle), ends[1], INK[theme], font=font, anchor="rm")
    canvas = np.asarray(strip, np.float64) / 255
    if right - left >= height:
        rows = slice(height // 4, height - height // 4)
        shares = np.linspace(0, 1, right - left)
        canvas[rows, left:right] = colormaps[HEAT](shares)[None, :, :3]
    return canvas


def before_after(given: Material, theme: str) -> np.ndarray:
    """Each content beside its result, named above, float32 (B, h, w, 3)."""
    return np.stack([_beside(given, number, photo, theme) for number, (photo, _) in enumerate(given.cases())])


def _beside(given: Material, number: int, photo: int, theme: str) -> np.ndarray:
    factor = _factor(given.result[number])
    both = [_enlarged(picture, factor) for picture in (given.content[photo], given.result[number])]
    gap = np.broadcast_to(_color(PAPER[theme]), (both[0].shape[0], _GAP, 3))
    row = np.concatenate([both[0], gap, both[1]], axis=1)
    strip, draw, font, height = _strip(row.shape[1], theme)
    after = "result" if len(given.result) == 1 else f"result {number + 1}"
    for x, words in ((0, "content"), (both[0].shape[1] + _GAP, after)):
        draw.text((x + height // 3, height // 2), words, INK[theme], font=font, anchor="lm")
    return np.concatenate([np.asarray(strip, np.float32) / 255, row]).astype(np.float32)


def _color(name: str) -> np.ndarray:
    return np.array(prepared().colors.to_rgb(name))


def _strip(width: int, theme: str):
    """A strip to write on that wide, its pen, a font, and its height, which grows with it: nodes show all one size."""
    from PIL import Image, ImageDraw, ImageFont

    height = int(np.clip(_LINE * width, 22, 84))
    strip = Image.new("RGB", (width, height), PAPER[theme])
    path = Path(prepared().get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return strip, ImageDraw.Draw(strip), ImageFont.truetype(str(path), round(height * 0.55)), height
