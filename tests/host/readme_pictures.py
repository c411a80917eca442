"""Make the pictures and figures that README.md and the help pages show, from runs of the shipped workflow.

    .host/env/environment/bin/python tests/host/readme_pictures.py

Each run is kept below .host/readme and not made again; remove that folder after the weights or the workflow changed.
Writes docs/images/before_after.jpg, docs/images/scores.json, web/docs/StylizeSMS.jpg and the workflow's thumbnail.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import load

load.host_package()

import stylize_photo  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from stylization_host import comfy_base, comfy_tree, scores  # noqa: E402
from stylization_host.comfy_host import ComfyServer  # noqa: E402

KEPT = comfy_tree.HOST / "readme"
IMAGES = comfy_base.ROOT / "docs" / "images"
PHOTOS = ("neuschwanstein_castle", "mysore_palace", "machu_picchu")
GAP, LINE = 6, 24
VAE_ONLY = "vae"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="*", default=list(PHOTOS), help="names in samples/photos")
    parser.add_argument("--styles", nargs="*", default=["starry", "riso", "sepiaink"])
    parser.add_argument("--steps", type=int, help="iterations; default as in the workflow")
    return parser.parse_args()


def photo_of(name: str) -> Image.Image:
    return stylize_photo.cut(comfy_base.PHOTOS / f"{name}.jpg")


def runs(chosen: argparse.Namespace) -> dict[tuple[str, str], Image.Image]:
    """Every photo in every style, and through the VAE alone; runs only what is not kept yet."""
    KEPT.mkdir(parents=True, exist_ok=True)
    styles = (*chosen.styles, VAE_ONLY)
    paths = {(name, style): KEPT / f"{name}_{style}.png" for name in chosen.photos for style in styles}
    missing = {case: path for case, path in paths.items() if not path.is_file()}
    if missing:
        with ComfyServer("readme", keep_base=False) as server:
            for (name, style), path in missing.items():
                started = time.monotonic()
                words = name.replace("_", " ")
                if style == VAE_ONLY:
                    made = stylize_photo.stylized(server, photo_of(name), chosen.styles[0], words, strength=0)
                else:
                    made = stylize_photo.stylized(server, photo_of(name), style, words, steps=chosen.steps)
                made.save(path)
                stylize_photo.say(f"{path.name} after {time.monotonic() - started:.0f} s")
    return {case: scores.opened(path) for case, path in paths.items()}


def grid(chosen: argparse.Namespace, pictures: dict[tuple[str, str], Image.Image]) -> Image.Image:
    """A row per photo, a column per style, the photo first and an exemplar of each style on top."""
    rows = [[None, *(stylize_photo.exemplars_of(style)[3] for style in chosen.styles)]]
    rows += [[photo_of(name), *(pictures[name, style] for style in chosen.styles)] for name in chosen.photos]
    width, height = stylize_photo.LANDSCAPE
    heads = ["photo", *chosen.styles]
    canvas = Image.new("RGB", (len(heads) * (width + GAP) + GAP, LINE + len(rows) * (height + GAP) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        left = GAP + column * (width + GAP)
        draw.text((left, 4), head, fill="black", font=ImageFont.load_default(15))
        for row, line in enumerate(rows):
            if line[column] is not None:
                top = LINE + row * (height + GAP)
                canvas.paste(line[column], (left + (width - line[column].width) // 2, top))
    draw.text((GAP, LINE), "to the right: an exemplar of each style", fill="gray", font=ImageFont.load_default(15))
    return canvas


def figures(chosen: argparse.Namespace, pictures: dict[tuple[str, str], Image.Image]) -> dict[str, dict]:
    """Mean scores over the photos, by style."""
    found = {}
    for style in chosen.styles:
        exemplars = stylize_photo.exemplars_of(style)
        tables = [
            scores.table(photo_of(name), pictures[name, VAE_ONLY], pictures[name, style], exemplars)
            for name in chosen.photos
        ]
        found[style] = {
            ruler: {column: round(sum(t[ruler][column] for t in tables) / len(tables), 3) for column in scores.COLUMNS}
            for ruler in tables[0]
        }
    return found


def main() -> int:
    chosen = arguments()
    pictures = runs(chosen)
    IMAGES.mkdir(parents=True, exist_ok=True)
    grid(chosen, pictures).save(IMAGES / "before_after.jpg", quality=88)
    measured = {"photos": chosen.photos, "scores": figures(chosen, pictures)}
    (IMAGES / "scores.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    name, style = chosen.photos[0], chosen.styles[0]
    pictures[name, style].save(stylize_photo.WORKFLOW.with_suffix(".jpg"), quality=88)
    pair = scores.sheet({"photo": photo_of(name), f"{style}, by SMS": pictures[name, style]})
    pair.save(comfy_base.ROOT / "web" / "docs" / "StylizeSMS.jpg", quality=88)
    for style, rows in measured["scores"].items():
        stylize_photo.say(f"\n{style}\n{scores.lines(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
