"""ComfyUI's modules inside this process, on the CPU, without a server.

:func:`enter` puts the ComfyUI tree (and nothing of ours) at the front of ``sys.path``, so that ``import comfy.sd`` and
ComfyUI's own ``nodes`` work; call it before anything of ComfyUI is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

from . import comfy_base, comfy_tree, torch_shims
from .load import folder_as_package


def enter(model_roots: tuple[Path, ...] = ()) -> Path:
    """Prepare ``sys.path``, the stand-ins and ComfyUI's arguments; returns the tree. A second call does nothing new."""
    tree = comfy_tree.find()
    for ours in (str(comfy_tree.ROOT), str(comfy_tree.ROOT / "tests")):
        if ours in sys.path:
            raise RuntimeError(
                f"{ours} is on sys.path and would hide ComfyUI's module `nodes`. Run the script `pytest`, "
                f"not `python -m pytest`, and set no pythonpath."
            )
    if str(tree) in sys.path:
        return tree
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(tree))
    torch_shims.install()
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(comfy_base.prepare(f"inprocess-{os.getpid()}", model_roots, plugins=False))
    return tree


def leave() -> None:
    """Remove the base directory that :func:`enter` made; the modules stay loaded."""
    import shutil

    shutil.rmtree(comfy_tree.HOST / f"base-inprocess-{os.getpid()}", ignore_errors=True)


def load_checkpoint(path: Path):
    """(MODEL, VAE) of a checkpoint as CheckpointLoaderSimple gives them; CLIP is left out."""
    import comfy.sd

    model, _clip, vae, _vision = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=False, output_clipvision=False
    )
    return model, vae


def load_diffusion_model(path: Path):
    """The MODEL of a file as UNETLoader gives it."""
    import comfy.sd

    return comfy.sd.load_diffusion_model(str(path))


def load_small_flux(path: Path):
    """The MODEL of a small Flux, also where ComfyUI gives every Flux 24 heads (before 0.9)."""
    return probe("inputs").load_flux(str(path))


def probe(module: str) -> ModuleType:
    """A module of the test plug-in: ``inputs``, ``disturb`` or ``report`` (with ``model_state(patcher)``)."""
    folder_as_package("stylization_probe", comfy_base.PLUGINS / "stylization_probe")
    return importlib.import_module(f"stylization_probe.{module}")


def stock_nodes() -> ModuleType:
    """ComfyUI's own module ``nodes``."""
    import nodes

    return nodes
