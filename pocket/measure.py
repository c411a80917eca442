"""Figures of the trained model on held-out and training photographs, printed as Markdown tables.

python pocket/make.py measure
"""

import os
import time

import numpy as np
import torch
from contact_sheet import CAPTIONS, PHOTOS
from logs import log
from settings import HELD_OUT, LORA_STYLES
from stock import StockNodes, load_photo

SIGMAS = (0.3, 0.7, 1.5)


def denoised(model, latent, noise, sigma, cond):
    """Denoised estimate of a noisy latent under one conditioning."""
    import comfy.model_management

    comfy.model_management.load_model_gpu(model)
    t = torch.full((len(latent),), float(sigma))
    x = model.model.model_sampling.noise_scaling(t[:, None, None, None], noise, latent, False)
    with torch.inference_mode():
        return model.model.apply_model(x, t, c_crossattn=cond[0][0].expand(len(latent), -1, -1))


def rms(x):
    return float((x.float() ** 2).mean().sqrt())


def lora_effect(stock):
    """rms(D_style - D_base) / rms(D_base - x0) over held-out photographs."""
    log("| LoRA | " + " | ".join(f"sigma {s}" for s in SIGMAS) + " |\n|---|" + "---|" * len(SIGMAS))
    for style in LORA_STYLES:
        model, clip = stock.lora(style)
        ratios = {s: [] for s in SIGMAS}
        for stem in HELD_OUT[:6]:
            z = stock.encode(load_photo(PHOTOS / f"{stem}.jpg"))["samples"]
            cond = stock.text(f"{style} style {CAPTIONS[stem]}")
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
            for s in SIGMAS:
                base = denoised(stock.model, z, noise, s, cond)
                styled = denoised(model, z, noise, s, cond)
                ratios[s].append(rms(styled - base) / rms(base - z))
        log(f"| {style} | " + " | ".join(f"{np.mean(v):.2f}" for v in ratios.values()) + " |")


def v_loss(stock, args, times=(50, 150, 300, 450, 600, 750, 900)):
    """Mean squared v error of photographs by time, held out against training."""
    from autoencoder import load, open_pictures, to_tensor

    pictures = open_pictures(args.work, ["photo"])["photo"]
    seen = load(args.work).encode(to_tensor(pictures[::60]))
    held = torch.cat([stock.encode(load_photo(p))["samples"] for p in sorted(PHOTOS.glob("*.jpg"))])
    sampling = stock.model.get_model_object("model_sampling")
    log("| photographs | " + " | ".join(f"t {t}" for t in times) + " |\n|---|" + "---|" * len(times))
    for label, z in (("training", seen), ("held out", held)):
        row = []
        for t in times:
            sigma = sampling.sigma(torch.tensor([float(t)])).item()
            noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
            d = denoised(stock.model, z, noise, sigma, stock.text("a photo"))
            row.append(float(((d - z) ** 2).mean()) * (1 + sigma**2) / sigma**2)
        log(f"| {label} | " + " | ".join(f"{v:.3f}" for v in row) + " |")


def timing(stock, width=384, height=256, rows=6):
    import comfy.model_management

    comfy.model_management.load_model_gpu(stock.model)
    x = torch.randn(rows, 16, height // 8, width // 8)
    cond = stock.text("a photo")[0][0].expand(rows, -1, -1)
    wall, cpu = [], []
    for _ in range(8):
        start, used = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            stock.model.model.apply_model(x, torch.full((rows,), 1.0), c_crossattn=cond)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    log(
        f"{rows}-row forward at {width}x{height} on {torch.get_num_threads()} threads: best {min(wall):.3f} s, "
        f"median {np.median(wall):.3f} s, processor time {min(cpu):.3f} s (load {os.getloadavg()[0]:.1f})"
    )


def sizes(args):
    total = 0
    for path in sorted(args.models.rglob("*.safetensors")):
        total += path.stat().st_size
        log(f"{path.relative_to(args.models)}: {path.stat().st_size / 1e6:.2f} MB")
    log(f"all: {total / 1e6:.2f} MB")


def run(args):
    torch.set_num_threads(args.threads or torch.get_num_threads())
    stock = StockNodes(args)
    sizes(args)
    timing(stock)
    v_loss(stock, args)
    lora_effect(stock)
