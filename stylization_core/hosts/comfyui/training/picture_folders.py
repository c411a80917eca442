"""Pictures to train on: a folder below ComfyUI's input folder, encoded once."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ....errors import StylizationError
from ....finite import check_finite

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
STEP = 32
"""Sides of encoded pictures are multiples of this."""

LARGEST = 2
"""A picture is encoded at most so many times as wide, at its shorter side, as the parts cut from it."""

LONGEST = 4
"""Likewise at its longer side."""


def picture_files(folder: str) -> list[Path]:
    """The pictures in a folder below ComfyUI's input folder, by name.

    Raises:
        StylizationError: the folder is elsewhere, not there, or holds no picture.
    """
    root = Path(folder_paths.get_input_directory()).resolve()
    place = (root / folder.strip()).resolve()
    if not folder.strip() or not place.is_relative_to(root):
        raise StylizationError(
            "folder", f"'{folder}' is not below ComfyUI's input folder", "Name a folder inside it, such as my_style"
        )
    if not place.is_dir():
        raise StylizationError(
            "folder", f"there is no folder '{folder}' in the input folder", "Put your pictures there"
        )
    # hidden files are no pictures: macOS puts a companion "._name.png" beside each on disks of other systems
    files = sorted(
        file
        for file in place.iterdir()
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
    )
    if not files:
        raise StylizationError("folder", f"'{folder}' holds no picture", f"Put pictures there ({', '.join(ENDINGS)})")
    return files


def encoded_pictures(files: list[Path], vae, side: int) -> list[Tensor]:
    """Latents of whole pictures, (C, h, w) each on the CPU, from which squares of ``side`` pixels can be cut.

    Raises:
        StylizationError: all are smaller than that, one cannot be read, or the VAE is of another kind.
    """
    latents, small = [], []
    bar = comfy.utils.ProgressBar(len(files))
    for file in files:
        comfy.model_management.throw_exception_if_processing_interrupted()
        picture = _read(file)
        if min(picture.size) < side:
            small.append(file.name)
        else:
            latents.append(_latent(_resized(picture, side), vae))
        bar.update(1)
    if small:
        logging.warning("[Stylization] smaller than %d pixels, left out: %s", side, ", ".join(small))
    if not latents:
        raise StylizationError(
            "folder",
            f"all its {len(small)} pictures are smaller than {side} pixels",
            "Lower resolution, or use larger ones",
        )
    return latents


def _read(file: Path) -> Image.Image:
    """The picture upright, in RGB with 8 bits; of several frames the first.

    Raises:
        StylizationError: it is damaged, or its values have no scale that can be known.
    """
    try:
        with Image.open(file) as opened:
            if getattr(opened, "n_frames", 1) > 1:
                logging.warning("[Stylization] %s has several frames; the first one is taken", file.name)
            return _opaque(_eight_bit(ImageOps.exif_transpose(opened), opened.format))
    except Exception as error:
        # damaged files make decoders fail in many ways: struct.error, SyntaxError, zlib.error, a bomb's error ...
        raise StylizationError(file.name, f"it cannot be read: {error}", "Take it out of the folder") from error


def _eight_bit(picture: Image.Image, kind: str | None) -> Image.Image:
    """Greys of more than eight bits in eight; Pillow would cut what is above 255 to white.

    Raises:
        ValueError: the largest value fits no usual scale.
    """
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    largest = float(values.max())
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("its values are negative, NaN or infinite")
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind == "PNG"):
        white = 65535.0
    else:
        # floats and 32-bit numbers name no white: the usual scale above the largest value
        scales = (1.0, 255.0, 65535.0) if picture.mode == "F" else (255.0, 65535.0, 2.0**32 - 1)
        white = next((scale for scale in scales if largest <= scale), None)
        if white is None:
            raise ValueError(f"its values reach {largest:g}, which is no usual white")
    return Image.fromarray((values * (255.0 / white)).round().astype(np.uint8), "L")


def _opaque(picture: Image.Image) -> Image.Image:
    """In RGB, on white where it is transparent: the colour beneath is nobody's choice."""
    clear = "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if not clear:
        return picture.convert("RGB")
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _resized(picture: Image.Image, side: int) -> Image.Image:
    """Scaled down to at most LARGEST times ``side``, its sides cut to multiples of STEP and to LONGEST times."""
    scale = min(1.0, LARGEST * side / min(picture.size))
    wide, high = (max(side, round(scale * each)) for each in picture.size)
    picture = picture.resize((wide, high), Image.Resampling.LANCZOS)
    wide, high = (min(each // STEP * STEP, LONGEST * side) for each in (wide, high))
    return ImageOps.fit(picture, (wide, high), Image.Resampling.LANCZOS)


def _latent(picture: Image.Image, vae) -> Tensor:
    pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]
    latent = vae.encode(pixels)
    if latent.ndim != 4:
        raise StylizationError("vae", f"it makes latents of shape {tuple(latent.shape)}", "Connect the VAE of model")
    return check_finite(latent, "vae, latents", "Start ComfyUI with --fp32-vae")[0].cpu()


def input_folder_changed(folder: str) -> str:
    """Stands for names, sizes and times of the pictures in a folder."""
    try:
        stats = [(one.name, os.stat(one)) for one in picture_files(folder)]
    except StylizationError:
        return ""
    return repr([(name, one.st_size, one.st_mtime_ns) for name, one in stats])
