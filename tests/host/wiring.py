"""Wiring models: tiny checkpoints with random weights in the key layouts that ComfyUI's stock loaders recognise.

They show that graphs run and that two computations agree; their pictures mean nothing. :func:`ensure` makes them once
below ``.host/wiring-<version>/`` (in a process of its own, a few seconds) in folders named like ComfyUI's model
folders, so that the whole root can be linked into a base directory.

No text encoder is inside, since ComfyUI knows it in one size only: ``ProbeConditioning`` of the test plug-in
``stylization_probe`` gives the conditioning. :data:`FAMILIES` says which sizes each model takes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

if __package__:
    from . import comfy_tree
else:
    import comfy_tree


@dataclass(frozen=True)
class Family:
    """One wiring model: its file, its loader's folder, and what goes into it."""

    file: str
    folder: str
    width: int
    """Channels of the conditioning tokens."""
    pooled: int
    """Width of ``pooled_output``, 0 where the model takes none."""
    channels: int
    """Channels of its latent."""
    controlnet: str = ""
    """A ControlNet that fits, for the stock ControlNetLoader."""


FAMILIES = {
    "sd15": Family("wiring_sd15.safetensors", "checkpoints", 768, 0, 4, "wiring_control_sd15.safetensors"),
    "sd15_two_levels": Family("wiring_sd15_two_levels.safetensors", "checkpoints", 768, 0, 4),
    "sdxl": Family("wiring_sdxl.safetensors", "checkpoints", 2048, 1280, 4, "wiring_control_sdxl.safetensors"),
    "sd3": Family("wiring_sd3.safetensors", "diffusion_models", 64, 32, 16),
    # UNETLoader takes it from ComfyUI 0.9 on; ProbeLoadFlux always does, see graphs.loaded.
    "flux": Family("wiring_flux.safetensors", "diffusion_models", 64, 32, 16),
    # A video model: a pack for image UNets, Flux and SD3 must refuse it by name.
    "wan": Family("wiring_wan.safetensors", "diffusion_models", 4096, 0, 16),
}

LORAS = (
    "wiring_lora_sd15_kohya.safetensors",
    "wiring_lora_sd15_diffusers.safetensors",
    "wiring_lora_sd15_processor.safetensors",
    "wiring_lora_sd15_peft.safetensors",
    "wiring_lora_sd15_linear_only.safetensors",
    "wiring_lora_sd15_text.safetensors",
    "wiring_lora_sd15_tucker.safetensors",
    "wiring_lora_sd15_dora.safetensors",
    "wiring_lora_sd15_loha.safetensors",
    "wiring_lora_sd15_lokr.safetensors",
    "wiring_lora_sd15_wrong_shape.safetensors",
    "wiring_lora_sdxl_kohya.safetensors",
    "wiring_lora_sdxl_diffusers.safetensors",
    "wiring_lora_sdxl_peft.safetensors",
    "wiring_lora_sd3_kohya.safetensors",
    "wiring_lora_flux_kohya.safetensors",
    "wiring_lora_truncated.safetensors",
)
"""LoRA files; see :mod:`wiring_loras` for what is in each."""


@dataclass(frozen=True)
class Wiring:
    """Where the wiring models lie. ``models`` is a root for ``ComfyServer(model_roots=[…])``."""

    models: Path

    def path(self, file: str) -> Path:
        """The path of a model or LoRA by its file name."""
        found = sorted(self.models.glob(f"*/{file}"))
        if not found:
            raise FileNotFoundError(f"No wiring model {file} in {self.models}; there are {', '.join(self.files())}.")
        return found[0]

    def files(self) -> list[str]:
        return sorted(path.name for path in self.models.glob("*/*.safetensors"))

    def deltas(self, lora: str) -> dict:
        """``{"diffusion_model.….weight": ΔW}`` (float32) that a plain LoRA file stands for at strength 1."""
        from safetensors.torch import load_file

        return load_file(self.models.parent / "deltas" / lora)


def root(tree: Path) -> Path:
    return comfy_tree.HOST / f"wiring-{comfy_tree.version(tree)}"


def ensure() -> Wiring:
    """The wiring models for the ComfyUI tree in place; made anew where their recipe has changed."""
    place = root(comfy_tree.find())
    here = Path(__file__).resolve().parent
    recipe = b"".join((here / name).read_bytes() for name in ("wiring.py", "wiring_models.py", "wiring_loras.py"))
    digest = hashlib.sha256(recipe).hexdigest()
    stamp = place / "stamp"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest:
        # Two processes may come here at once: each makes its own, and the later one stays.
        partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        command = [sys.executable, str(here / "wiring_models.py"), str(partial)]
        made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"The wiring models could not be made:\n{made.stdout[-4000:]}")
        (partial / "stamp").write_text(digest, encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    return Wiring(place / "models")
