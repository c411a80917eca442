"""Keep what an interrupted optimisation had reached: a .latent file in the output folder, as Save Latent writes it."""

from __future__ import annotations

import json
import logging
import os

import comfy.utils
import folder_paths
import torch
from torch import Tensor


def save_reached(samples: Tensor, step: int, steps: int, what: str) -> str | None:
    """Save a LATENT's samples (B, C, H, W); returns the path, or None (logged) when the disk refuses.

    Move the file to the input folder and read it with 'Load Latent'.
    """
    prefix = f"stylization/{what}_stopped_at_{step}_of_{steps}"
    folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    path = os.path.join(folder, f"{name}_{counter:05}_.latent")
    tensors = {"latent_tensor": samples.detach().cpu().contiguous(), "latent_format_version_0": torch.tensor([])}
    metadata = {"stylization": json.dumps({"version": 1, "what": what, "step": step, "steps": steps})}
    try:
        comfy.utils.save_torch_file(tensors, path, metadata=metadata)
    except OSError as error:
        logging.error("[Stylization] %s stopped at step %d and could not be saved: %s", what, step, error)
        return None
    logging.info("[Stylization] %s stopped at step %d of %d; what it had reached is in %s", what, step, steps, path)
    return path
