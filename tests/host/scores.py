"""Scores of a stylized photograph beside their two anchors, as a table, and the picture sheet that goes with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from stylization.stylization_core.rulers import content, style

CONTENT: dict[str, Callable] = {
    "structure similarity": content.structure_similarity,
    "edge agreement": content.edge_agreement,
    "low-band distance": content.low_band_distance,
    "shift, pixels": content.shift_pixels,
}
STYLE = ("color", "texture", "combined")
COLUMNS = ("result", "photo itself", "VAE only", "style copy")
_GAP, _LINE = 8, 24


def opened(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture as RGB, upright, and cut from its centre to ``size`` (width, height) where one is given."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGB")
    return picture if size is None else ImageOps.fit(picture, size, Image.LANCZOS)


def as_batch(*pictures: Image.Image) -> np.ndarray:
    """(B, H, W, 3) in [0, 1]."""
    return np.stack([np.asarray(picture, np.float64) / 255 for picture in pictures])


def table(
    photo: Image.Image, decoded: Image.Image, result: Image.Image, exemplars: list[Image.Image]
) -> dict[str, dict[str, float]]:
    """``{ruler: {column: value}}`` for :data:`COLUMNS`; photo, decoded and result of one size.

    "photo itself" is the photo as result, "style copy" the mean over the exemplars as results: what keeping everything
    and what keeping nothing but the style would measure. ``decoded`` is the photo encoded and decoded by the VAE: what
    a VAE smooths away is no style, though it can look like one to a ruler of texture.
    """
    before, plain, after = as_batch(photo), as_batch(decoded), as_batch(result)
    copies = as_batch(*(ImageOps.fit(exemplar, photo.size, Image.LANCZOS) for exemplar in exemplars))
    rows = {
        name: dict(zip(COLUMNS, (ruler(before, shown).mean() for shown in (after, before, plain, copies)), strict=True))
        for name, ruler in CONTENT.items()
    }
    shown = as_batch(*exemplars)
    progress = [style.style_progress(before, picture, shown) for picture in (after, before, plain)]
    progress.append(style.style_copy_progress(before, shown))
    for part in STYLE:
        values = (float(getattr(found, part).mean()) for found in progress)
        rows[f"style progress, {part}"] = dict(zip(COLUMNS, values, strict=True))
    return rows


def lines(rows: dict[str, dict[str, float]]) -> str:
    """The table as text."""
    head = f"{'':26}" + "".join(f"{column:>14}" for column in COLUMNS)
    body = [f"{name:26}" + "".join(f"{row[column]:14.2f}" for column in COLUMNS) for name, row in rows.items()]
    return "\n".join([head, *body])


def sheet(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures side by side at one height, each under its title."""
    height = max(picture.height for picture in pictures.values())
    scaled = [picture.resize((picture.width * height // picture.height, height)) for picture in pictures.values()]
    width = sum(picture.width for picture in scaled) + _GAP * (len(scaled) + 1)
    canvas = Image.new("RGB", (width, height + _LINE + 2 * _GAP), "white")
    draw, left = ImageDraw.Draw(canvas), _GAP
    for title, picture in zip(pictures, scaled, strict=True):
        draw.text((left, _GAP), title, fill="black", font=ImageFont.load_default(15))
        canvas.paste(picture, (left, _GAP + _LINE))
        left += picture.width + _GAP
    return canvas
