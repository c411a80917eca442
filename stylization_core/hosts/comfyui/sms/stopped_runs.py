"""Keep what an interrupted optimisation held: a .latent file in the output folder, as Save Latent writes it."""

from __future__ import annotations

import json
import logging

import torch
from torch import Tensor

from ....errors import StylizationError
from ....tensor_files import write_tensors
from ..model import saved_in_any_case


def save_stopped(samples: Tensor, step: int, steps: int, what: str) -> str | None:
    """Save a LATENT's samples (B, C, H, W); returns the path, or None (logged) when the disk refuses.

    Move the file to the input folder and read it with 'Load Latent'.
    """
    tensors = {"latent_tensor": samples, "latent_format_version_0": torch.tensor([])}
    metadata = {"stylization": json.dumps({"version": 1, "what": what, "step": step, "steps": steps})}
    prefix = f"stylization/{what}_stopped_at_{step}_of_{steps}"
    try:
        path = saved_in_any_case(
            prefix, f"{what} at step {step}", lambda path: write_tensors(tensors, path, metadata), ".latent"
        )
    except StylizationError:
        # it is in the log where it is; the interrupt that led here is what the run ends with
        return None
    logging.info("[Stylization] %s stopped at step %d of %d; its last state is in %s", what, step, steps, path)
    return str(path)
