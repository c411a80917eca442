"""What tests of the training nodes share: a folder of pictures, a VAE that is fast, and a run of a node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


class PlainVAE:
    """Eight by eight pixels make a cell of four channels."""

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        found = F.avg_pool2d(pixels[..., :3].movedim(-1, 1), 8) * 8 - 4
        return torch.cat([found, found.mean(1, keepdim=True)], 1)


def pictures(folder: Path, count: int = 3, size: tuple[int, int] = (192, 128)) -> Path:
    """A folder of pictures, each with colours and a grain of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        draws = np.random.default_rng(index)
        base = draws.integers(0, 256, 3)
        grain = draws.normal(0, 20 + 20 * index, (size[1] // 8, size[0] // 8, 3))
        pixels = np.clip(base + np.kron(grain, np.ones((8, 8, 1))), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def folders(monkeypatch, root: Path, name: str) -> Path:
    """Input folder with pictures and output folder below ``root``; returns the place of trained files of that name."""
    import folder_paths

    pictures(root / "input" / "paintings")
    monkeypatch.setattr(folder_paths, "input_directory", str(root / "input"))
    monkeypatch.setattr(folder_paths, "output_directory", str(root))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(root / name)], {".safetensors"}))
    folder_paths.filename_list_cache.pop(name, None)
    return root / name


SETTINGS = {
    "folder": "paintings",
    "steps": 4,
    "learning_rate": 1e-3,
    "batch_size": 2,
    "resolution": 64,
    "layers": "all",
    "custom_layers": "",
    "seed": 7,
    "resume": "none",
}


def interrupted_at(monkeypatch, training, step: int) -> None:
    """The next training is interrupted when so many steps are done."""
    import comfy.model_management as management

    original = training._descended

    def descended(*args):
        taken = original(*args)
        descended.steps += 1
        if descended.steps == step:
            management.interrupt_current_processing()
        return taken

    descended.steps = 0
    monkeypatch.setattr(training, "_descended", descended)
