"""The base directory of one ComfyUI server: models, input, output, custom nodes and settings, mostly as links.

ComfyUI reads everything below ``--base-directory``, so that test plug-ins never enter anybody's install and two servers
never share an output folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from .comfy_tree import HOST, ROOT

PLUGINS = ROOT / "tests" / "host" / "plugins"
POCKET_MODELS = ROOT / "pocket" / "models"
SAMPLES = ROOT / "samples"
PHOTOS = SAMPLES / "photos"
INPUTS = (PHOTOS, *(SAMPLES / kind for kind in ("paintings", "drawings", "masks", "signs")))
SHOWN = 2
"""Pictures of each style that stand among the inputs, under names such as riso_charminar.jpg."""
"""Pictures that workflows open."""
WORKFLOWS = ROOT / "workflows"
PACK = "stylization"
"""The name of the pack's folder in ``custom_nodes``."""

MODEL_FOLDERS = ("checkpoints", "controlnet", "diffusion_models", "loras", "text_encoders", "vae")
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def prepare(name: str, model_roots: Iterable[Path] = (), plugins: bool = True) -> Path:
    """Make, or bring up to date, the base directory ``.host/base-<name>`` and return it.

    :param model_roots: folders laid out like ComfyUI's ``models`` (``checkpoints/…``, ``loras/…``) whose files are
        linked in; the pocket model is always among them.
    :param plugins: link the test plug-ins of ``tests/host/plugins`` beside the pack.
    """
    base = HOST / f"base-{name}"
    for folder in (*(f"models/{kind}" for kind in MODEL_FOLDERS), "custom_nodes", "input", "output", "user/default"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    _drop_dead_links(base)
    _link(base / "custom_nodes" / PACK, ROOT)
    if plugins:
        for plugin in sorted(path for path in PLUGINS.iterdir() if (path / "__init__.py").is_file()):
            _link(base / "custom_nodes" / plugin.name, plugin)
    for root in (POCKET_MODELS, *model_roots):
        link_models(base, root)
    for picture, name in _inputs():
        # a copy: newer ComfyUI refuses links that lead out of the input folder
        copy = base / "input" / name
        copy.unlink(missing_ok=True)
        shutil.copyfile(picture, copy)
    _write_settings(base)
    _link_workflows(base)
    return base


def _inputs() -> Iterator[tuple[Path, str]]:
    """Pictures to choose from, and their names in the input folder."""
    for folder in INPUTS:
        yield from ((file, file.name) for file in _files(folder) if file.suffix.lower() in _PICTURES)
    for style in sorted((SAMPLES / "styles").iterdir()):
        yield from ((file, f"{style.name}_{file.name}") for file in sorted(style.glob("*.jpg"))[:SHOWN])


def link_models(base: Path, root: Path) -> None:
    """Link every file of ``root/<kind>/`` to ``base/models/<kind>/``, for instance ``loras/ink.safetensors``."""
    if not root.is_dir():
        return
    for kind in sorted(path for path in root.iterdir() if path.is_dir()):
        for file in _files(kind):
            _link(base / "models" / kind.name / file.name, file)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()
    link.symlink_to(target, target_is_directory=target.is_dir())


def _drop_dead_links(base: Path) -> None:
    """A file that was renamed in the repository must not stay in the server's lists."""
    for folder in [*(base / "models").iterdir(), base / "custom_nodes", base / "input"]:
        for path in folder.iterdir():
            if path.is_symlink() and not path.exists():
                path.unlink()


def _write_settings(base: Path) -> None:
    """Tell the frontend that this is no first visit, so that it opens no tutorial over the graph."""
    settings = base / "user" / "default" / "comfy.settings.json"
    stated = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    stated["Comfy.TutorialCompleted"] = True
    settings.write_text(json.dumps(stated, indent=2), encoding="utf-8")


def _link_workflows(base: Path) -> None:
    """The shipped graphs appear in the frontend's list of workflows."""
    for workflow in _files(WORKFLOWS):
        if workflow.suffix == ".json":
            _link(base / "user" / "default" / "workflows" / workflow.name, workflow)
