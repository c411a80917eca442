"""The bank: every drawing as an RGBA picture cut to its bounding box, all in one zip file of the work folder."""

import io
import zipfile

import numpy as np
from PIL import Image

from .settings import BANK_SIDE

OPAQUE = 8  # alpha above which a pixel belongs to the drawing


def render(picture):
    """RGBA image of BANK_SIDE pixels from SVG text or from the bytes of a picture file."""
    import resvg_py

    if isinstance(picture, str):
        picture = bytes(resvg_py.svg_to_bytes(svg_string=picture, width=BANK_SIDE, height=BANK_SIDE))
    with Image.open(io.BytesIO(picture)) as image:
        return image.convert("RGBA").resize((BANK_SIDE, BANK_SIDE), Image.LANCZOS)


def cut(image):
    """The image cut to its drawing, or None for an empty one."""
    box = image.getchannel("A").point(lambda v: 255 * (v > OPAQUE)).getbbox()
    return image.crop(box) if box else None


def encode(image):
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def build(pictures, path):
    """Writes the bank of what `packages.read` found."""
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as bank:
        for thing, found in pictures.items():
            for (maker, rendering), picture in found.items():
                image = cut(render(picture))
                if image:
                    bank.writestr("/".join((thing, maker, rendering)), encode(image))
    part.replace(path)


class Bank:
    """Drawings by (thing, maker, rendering).

    `self[key]` is an RGBA uint8 array (height, width, 4), the longer side up to BANK_SIDE.
    """

    def __init__(self, path):
        with zipfile.ZipFile(path) as bank:
            self.entries = {tuple(name.split("/")): bank.read(name) for name in bank.namelist()}

    def __contains__(self, key):
        return key in self.entries

    def __iter__(self):
        return iter(self.entries)

    def __getitem__(self, key):
        with Image.open(io.BytesIO(self.entries[key])) as image:
            return np.asarray(image)
