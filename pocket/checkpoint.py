"""Writes the checkpoint file in ComfyUI's key layout, half precision."""

import os

import torch
from autoencoder import load
from networks import TEXT_PREFIX
from safetensors.torch import save_file
from settings import CONTEXT_DIM, LICENCE, VERSION

CHECKPOINT = "stylization_pocket.safetensors"


def metadata(**more):
    return {
        "format": "pt",
        "modelspec.architecture": "stylization-pocket",
        "modelspec.license": LICENCE,
        "stylization_pocket.version": VERSION,
        "stylization_pocket.made_by": "pocket/make.py",
        **{f"stylization_pocket.{k}": str(v) for k, v in more.items()},
    }


def half(tensor):
    tensor = tensor.detach().cpu().contiguous().clone()
    return tensor.half() if tensor.is_floating_point() else tensor


LARGE = 2**14  # elements


def lean(tensor):
    """Half precision, and 8 bits for the large matrices: a ControlNet bears their rounding of 3 %.

    Loaders widen both; all weights together stay below the 40 MB that a clone should cost at most.
    """
    large = tensor.ndim > 1 and tensor.numel() >= LARGE
    return tensor.detach().cpu().contiguous().to(torch.float8_e4m3fn) if large else half(tensor)


def write(path, tensors, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, str(part), metadata=metadata(**more))
    part.chmod(0o644)
    os.replace(part, path)


def save_checkpoint(args, base, averages, step):
    unet, text = base.named_averages(averages)
    tensors = {"model.diffusion_model." + k: half(v) for k, v in unet.items()}
    tensors.update({TEXT_PREFIX + k: half(v) for k, v in text.items()})
    tensors["cond_stage_model.clip_l.transformer.text_projection.weight"] = half(torch.eye(CONTEXT_DIM))
    words = "\n".join(base.words).encode("utf-8")
    tensors["cond_stage_model.pocket_vocab"] = torch.tensor(list(words), dtype=torch.uint8)
    tensors.update({"first_stage_model." + k: half(v) for k, v in load(args.work).state_dict().items()})
    write(args.models / "checkpoints" / CHECKPOINT, tensors, steps=step, weights="exponential moving average, float16")
