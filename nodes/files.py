"""Folders of the pack's own files: what a node saves can be loaded at once, and files of others have a place."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..stylization_core.errors import StylizationError
from ..stylization_core.trained_files import RESUME

NONE = "none"


def register(folder: str) -> None:
    """Make ``models/folder`` and ``output/folder`` one model folder of ComfyUI."""
    for root in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder_paths.add_model_folder_path(folder, os.path.join(root, folder))


def listed(folder: str) -> list[str]:
    """Names of the safetensors files in a registered folder, without those that only a training needs."""
    names = folder_paths.get_filename_list(folder)
    own = [name for name in names if name.endswith(".safetensors") and not name.endswith(RESUME)]
    # beside a file, macOS keeps what its own disks hold besides on foreign ones
    return [name for name in own if not os.path.basename(name).startswith("._")]


def found(folder: str, name: str, subject: str) -> Path:
    """Path of a file by its name in the list.

    Raises:
        StylizationError: it is not there; ``subject`` is the input.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise StylizationError(subject, f"{name} is not there", "Choose a file from the list")
    return Path(path)


def changed(folder: str, name: str) -> float | None:
    """When a file was written last; a file saved anew under its name is read again."""
    path = folder_paths.get_full_path(folder, name)
    return None if path is None else os.path.getmtime(path)
