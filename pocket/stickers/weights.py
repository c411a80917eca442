"""Weight files: safetensors with the model's own metadata, written in one go."""

import os

from safetensors.torch import save_file

from .settings import LICENCE, VERSION


def write(path, tensors, **more):
    """`more` goes into the metadata as text."""
    about = {
        "format": "pt",
        "modelspec.architecture": "stylization-pocket-stickers",
        "modelspec.license": LICENCE,
        "stylization_pocket.version": VERSION,
        "stylization_pocket.made_by": "pocket/stickers",
        "stylization_pocket.credits": "pocket/stickers/CREDITS.md",
        **{f"stylization_pocket.{k}": str(v) for k, v in more.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, str(part), metadata=about)
    part.chmod(0o644)
    os.replace(part, path)
