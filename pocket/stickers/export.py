"""Export stage: the averaged weights as one checkpoint in ComfyUI's key layout, half precision."""

import torch
from checkpoint import half
from networks import TEXT_PREFIX

from .autoencoder import load as load_autoencoder
from .denoiser import load as load_denoiser
from .settings import CONTEXT_DIM
from .training import log
from .weights import write

FILE = "stylization_stickers.safetensors"


def tensors_of(model, autoencoder):
    tensors = {"model.diffusion_model." + k: half(v) for k, v in model.unet.state_dict().items()}
    tensors.update({TEXT_PREFIX + k: half(v) for k, v in model.text.state_dict().items()})
    tensors["cond_stage_model.clip_l.transformer.text_projection.weight"] = half(torch.eye(CONTEXT_DIM))
    words = "\n".join(model.words).encode("utf-8")
    tensors["cond_stage_model.pocket_vocab"] = torch.tensor(list(words), dtype=torch.uint8)
    tensors.update({"first_stage_model." + k: half(v) for k, v in autoencoder.state_dict().items()})
    return tensors


def run(work):
    model, counts = load_denoiser(work)
    path = work / "models" / "checkpoints" / FILE
    write(path, tensors_of(model, load_autoencoder(work)), weights="exponential moving average, float16", **counts)
    log(f"wrote {FILE}, {path.stat().st_size / 1e6:.1f} MB")
