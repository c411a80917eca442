"""Contact sheets in docs/pocket/, made through ComfyUI's stock nodes, and the figures printed for the README."""

from pathlib import Path

import numpy as np
import torch
from drawings import SIZE, THINGS, Look, drawing
from edges import agreement, edge_map
from logs import log
from PIL import Image, ImageDraw
from settings import BASE_STYLES, LORA_STYLES
from stock import StockNodes, load_photo

ROOT = Path(__file__).resolve().parents[1]
DOCS, PHOTOS = ROOT / "docs" / "pocket", ROOT / "samples" / "photos"
SHOWN = ("neuschwanstein_castle", "machu_picchu", "golden_temple")
CONTENTS = ("castle", "mountain snow", "sea night")


def sheet(name, rows, row_labels, column_labels, width=240):
    """Save a labelled grid of IMAGE tensors (or None) as docs/pocket/<name>.jpg."""
    first = next(cell for row in rows for cell in row if cell is not None)
    height = round(width * first.shape[1] / first.shape[2])
    left, top, gap = 84, 18, 3
    canvas = Image.new("RGB", (left + len(column_labels) * (width + gap), top + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for c, label in enumerate(column_labels):
        draw.text((left + c * (width + gap) + 2, 3), label, fill="black")
    for r, (row, label) in enumerate(zip(rows, row_labels, strict=True)):
        draw.text((2, top + r * (height + gap) + height // 2 - 6), label, fill="black")
        for c, cell in enumerate(row):
            if cell is not None:
                picture = Image.fromarray((np.asarray(cell[0]).clip(0, 1) * 255).astype(np.uint8))
                canvas.paste(
                    picture.resize((width, height), Image.LANCZOS), (left + c * (width + gap), top + r * (height + gap))
                )
    DOCS.mkdir(parents=True, exist_ok=True)
    canvas.save(DOCS / f"{name}.jpg", quality=88)
    log("sheet", name, canvas.size)


def photos(names=SHOWN):
    return {name: load_photo(PHOTOS / f"{name}.jpg") for name in names}


def autoencoder_sheet(stock):
    held = photos(p.stem for p in sorted(PHOTOS.glob("*.jpg")))
    rebuilt = {n: stock.decode(stock.encode(x)) for n, x in held.items()}
    psnr = [-10 * torch.log10(((rebuilt[n] - x) ** 2).mean()).item() for n, x in held.items()]
    span = f"({min(psnr):.2f} to {max(psnr):.2f})"
    log(f"autoencoder PSNR on held-out photographs: {np.mean(psnr):.2f} dB {span}")
    names = list(held)[:6]
    sheet("autoencoder", [[held[n] for n in names], [rebuilt[n] for n in names]], ["photo", "rebuilt"], names)


def text_sheet(stock):
    rows = []
    for style in ("photo", *BASE_STYLES):
        prompts = [f"a photo of a {c}" if style == "photo" else f"{style} style {c}" for c in CONTENTS]
        rows.append([stock.sample(stock.text(p), stock.empty(384, 256), cfg=2.5) for p in prompts])
    sheet("text_to_image", rows, ["photo", *BASE_STYLES], CONTENTS, 200)


def lora_text_sheet(stock):
    prompts = {c: c for c in CONTENTS}
    rows = [[stock.sample(stock.text("a photo of a " + w), stock.empty(384, 256), cfg=2.5) for w in prompts.values()]]
    for style in LORA_STYLES:
        model, clip = stock.lora(style)
        negative = stock.text("", clip)
        positives = [stock.text(f"{style} style {w}", clip) for w in prompts.values()]
        rows.append([stock.sample(p, stock.empty(384, 256), model, negative, cfg=2.5) for p in positives])
    sheet("lora_text_to_image", rows, ["no LoRA", *LORA_STYLES], list(prompts), 240)


CAPTIONS = {
    "neuschwanstein_castle": "castle green sky",
    "chateaude_chenonceau": "castle water",
    "machu_picchu": "mountain green",
    "golden_temple": "temple water",
    "pontdu_gard": "ruin green",
    "colosseum": "ruin sky",
    "lincoln_memorial": "building night",
    "great_wallof_china": "mountain green sky",
    "berlin_cathedral": "cathedral sky",
    "mysore_palace": "palace sky",
    "rocamadour": "castle green",
    "great_pyramid_of_giza": "pyramid desert sky",
}


def image_to_image_sheet(stock):
    denoise = (0.2, 0.35, 0.5, 0.7)
    name = "neuschwanstein_castle"
    photo = load_photo(PHOTOS / f"{name}.jpg")
    latent = stock.encode(photo)
    rows = [[photo] + [stock.sample(stock.text("a photo of a " + CAPTIONS[name]), latent, denoise=d) for d in denoise]]
    for style in LORA_STYLES:
        model, clip = stock.lora(style)
        positive, negative = stock.text(f"{style} style {CAPTIONS[name]}", clip), stock.text("", clip)
        rows.append([photo] + [stock.sample(positive, latent, model, negative, denoise=d) for d in denoise])
    sheet("image_to_image_denoise", rows, ["no LoRA", *LORA_STYLES], ["photo", *(f"denoise {d}" for d in denoise)], 240)


def image_to_image_styles_sheet(stock, denoise=0.4):
    rows = []
    for name, photo in photos().items():
        latent = stock.encode(photo)
        row = [photo, stock.sample(stock.text("a photo of a " + CAPTIONS[name]), latent, denoise=denoise)]
        for style in LORA_STYLES:
            model, clip = stock.lora(style)
            positive = stock.text(f"{style} style {CAPTIONS[name]}", clip)
            row.append(stock.sample(positive, latent, model, stock.text("", clip), denoise=denoise))
        rows.append(row)
    sheet(
        "image_to_image_styles",
        rows,
        [n.split("_")[0][:12] for n in SHOWN],
        ["photo", f"base, denoise {denoise}", *LORA_STYLES],
        240,
    )


def controlnet_sheet(stock):
    rows, scores = [], {"off": [], "on": [], "off, denoise 0.9": [], "on, denoise 0.9": []}
    for name, photo in photos().items():
        hint = torch.from_numpy(edge_map(photo[0].numpy()))[None]
        positive, negative = stock.text("a photo of a " + CAPTIONS[name]), stock.text("")
        steered = stock.control(positive, negative, hint)
        latent, empty = stock.encode(photo), stock.empty(384, 256)
        row = [photo, hint]
        for start, d, label in ((empty, 1.0, ""), (latent, 0.9, ", denoise 0.9")):
            off = stock.sample(positive, start, negative=negative, denoise=d)
            on = stock.sample(steered[0], start, negative=steered[1], denoise=d)
            scores["off" + label].append(agreement(off[0].numpy(), hint[0].numpy()))
            scores["on" + label].append(agreement(on[0].numpy(), hint[0].numpy()))
            row += [off, on]
        rows.append(row)
    log("edge agreement (F1):", {k: round(float(np.mean(v)), 3) for k, v in scores.items()})
    sheet(
        "controlnet",
        rows,
        [n.split("_")[0][:12] for n in SHOWN],
        ["photo", "edges", "text, off", "text, on", "denoise 0.9, off", "denoise 0.9, on"],
        240,
    )


def drawings_sheet(stock):
    """Things by three seeds, then the edges of a drawing of each and what the ControlNet makes of them."""
    model, rows = stock.drawings(), []
    positives = {thing: stock.text("a " + thing) for thing in THINGS}
    sampled = {"model": model, "steps": 20, "cfg": 5.0}
    empty = stock.empty(SIZE, SIZE)
    for seed in (1, 2, 3):
        rows.append([stock.sample(positive, empty, seed=seed, **sampled) for positive in positives.values()])
    hints, made, plain = [], [], []
    for number, (thing, positive) in enumerate(positives.items()):
        rng = np.random.default_rng((9, number))
        drawn = drawing(thing, Look(rng), rng).astype(np.float32) / 255
        hint = torch.from_numpy(edge_map(drawn))[None]
        steered = stock.control(positive, stock.text(""), hint, file="stylization_pocket_drawings_edges.safetensors")
        on = stock.sample(steered[0], empty, negative=steered[1], seed=4, **sampled)
        off = stock.sample(positive, empty, seed=4, **sampled)
        hints.append(hint)
        made.append(on)
        plain.append([agreement(x[0].numpy(), hint[0].numpy()) for x in (off, on)])
    off, on = np.mean(plain, 0)
    log(f"edge agreement of drawings (F1): off {off:.2f}, on {on:.2f}")
    labels = ["seed 1", "seed 2", "seed 3", "edges", "ControlNet"]
    sheet("drawings", [*rows, hints, made], labels, list(THINGS), SIZE)


SHEETS = {
    "autoencoder": autoencoder_sheet,
    "text": text_sheet,
    "lora_text": lora_text_sheet,
    "denoise": image_to_image_sheet,
    "styles": image_to_image_styles_sheet,
    "controlnet": controlnet_sheet,
    "drawings": drawings_sheet,
}


def run(args):
    torch.set_num_threads(args.threads or torch.get_num_threads())
    stock = StockNodes(args)
    for name in args.sheets or SHEETS:
        SHEETS[name](stock)
