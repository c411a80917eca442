"""What the training nodes make of drawings, once: no painting and no photograph of an evidence is among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from .drawings import THINGS
from .host import Host
from .nodes import through
from .training_sizes import PICTURES, STEPS

# isort: split
import drawings
import folder_paths


def trained(host: Host, node_id: str, kind, kept: Path):
    """The output of a training node with the drawings model, from its file in ``kept`` where that is there.

    Args:
        kind: class that reads the file.
    """
    prefix = f"{node_id}/evidence"
    file = kept / f"{prefix}_00001_.safetensors"
    if not file.is_file():
        _draw(kept / "input" / "looks")
        with _folders(kept / "input", kept):
            given = {"folder": "looks", "steps": STEPS, "resolution": 96, "layers": "all", "batch_size": 4}
            return through(node_id, host.model, host.vae, host.text(""), **given, filename_prefix=prefix)
    return kind.load(file)


def _draw(folder: Path) -> None:
    """Drawings in looks of their own, larger than the parts that are cut from them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, things = np.random.default_rng(123), list(THINGS)
    with mock.patch.multiple(drawings, SIZE=192, FINE=2):
        for place in range(PICTURES):
            picture = drawings.drawing(things[place % len(things)], drawings.Look(rng), rng)
            Image.fromarray(picture).save(folder / f"{place:03d}.png")


@contextmanager
def _folders(given: Path, made: Path) -> Iterator[None]:
    """ComfyUI's input and output folders."""
    before = folder_paths.get_input_directory(), folder_paths.get_output_directory()
    folder_paths.set_input_directory(str(given))
    folder_paths.set_output_directory(str(made))
    try:
        yield
    finally:
        folder_paths.set_input_directory(before[0])
        folder_paths.set_output_directory(before[1])
