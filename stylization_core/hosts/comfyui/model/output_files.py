"""Names in ComfyUI's output folder: looked at before a node works, and kept in any case after it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import folder_paths

from ....errors import StylizationError
from ....tensor_files import write_whole

SUBJECT = "filename_prefix"
RESERVED = '<>:"|?*'
"""Characters that Windows takes in no name."""

RESCUED = "stylization/rescued"
"""Prefix of files whose own name was refused."""


def new_path(prefix: str, ending: str = ".safetensors") -> Path:
    """A path in the output folder at which no file is.

    Raises:
        OSError: the folder cannot be made.
        StylizationError: the prefix leads out of the output folder, or is none.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    inside = (output / prefix).resolve().is_relative_to(output) and Path(prefix).name
    if not inside or (os.name == "nt" and any(sign in RESERVED for sign in prefix)):
        raise StylizationError(
            SUBJECT, f"'{prefix}' is no name inside the output folder", "Give a name such as 'stylize/style'"
        )
    folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    path = Path(folder) / f"{name}_{counter:05}_{ending}"
    while path.exists():
        counter += 1
        path = Path(folder) / f"{name}_{counter:05}_{ending}"
    return path


def check_prefix(prefix: str, ending: str = ".safetensors") -> None:
    """Refuse a prefix under which nothing can be saved; a file is made there and taken away again.

    Raises:
        StylizationError: it leads out of the output folder, or the disk refuses it.
    """
    try:
        path = new_path(prefix, ending)
        write_whole(path, lambda part: part.write_bytes(b""))
        path.unlink()
    except StylizationError:
        raise
    except (OSError, ValueError) as error:
        found = f"nothing can be saved under '{prefix[:80]}': {_reason([error])}"
        raise StylizationError(SUBJECT, found, "Give a shorter or another name, and look at the disk") from error


def saved_in_any_case(prefix: str, what: str, write: Callable[[Path], None], ending: str = ".safetensors") -> Path:
    """Save under a prefix, or where the disk refuses that, in a place where it does not.

    Args:
        what: is saved, for the message.
        write: saves at a path; raises OSError where the disk refuses.

    Returns:
        The path, under the prefix.

    Raises:
        StylizationError: it is not under the prefix; says where it is instead, if anywhere.
    """
    refused: list[Exception] = []
    for place in (
        lambda: new_path(prefix, ending),
        lambda: new_path(RESCUED, ending),
        lambda: Path(folder_paths.get_temp_directory()) / f"{Path(new_path(RESCUED, ending)).name}",
    ):
        try:
            path = place()
            path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            # a StylizationError of the prefix is a ValueError too
            refused.append(error)
            continue
        try:
            write(path)
        except OSError as error:
            refused.append(error)
            continue
        if not refused:
            return path
        logging.error("[Stylization] %s could not be saved under %r; it is in %s", what, prefix, path)
        raise StylizationError(
            SUBJECT, f"{what} could not be saved there ({_reason(refused)}); it is kept in {path}", "Move it from there"
        )
    logging.error("[Stylization] %s could not be saved: %s", what, refused[0])
    raise StylizationError(
        SUBJECT, f"{what} could not be saved, here or anywhere: {_reason(refused)}", "Free space on the disk"
    )


def _reason(refused: list[Exception]) -> str:
    # the system's word without the path, which may be what is too long
    return getattr(refused[0], "found", None) or getattr(refused[0], "strerror", None) or str(refused[0])
