"""Install the pack as ComfyUI-Manager does, into an environment such as users have, and see what it moves.

The Manager takes requirements.txt line by line, with one call of pip for each. Users have had ComfyUI for longer than
the test host: their transformers is 4.57, which allows no huggingface-hub from 1.0 on. Below ``.host/installation-…``:

- ``base``    torch, linked from the running environment, and ComfyUI's own requirements with that transformers
- ``newest``  the pack's requirements on top of it, as pip chooses today
- ``lowest``  the same at the lowest versions that requirements.txt admits

``newest`` and ``lowest`` see ``base`` through a .pth file and have nothing else in common; pip removes nothing outside
the environment that it serves, so whatever it moves is a second copy in front of ComfyUI's own.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import comfy_tree
from .load import pack

TRANSFORMERS = "transformers==4.57.6"
LINKED = ("torch", "torchvision")
"""Gigabytes that need not come twice; torchvision since it asks for the torch it was built with."""
WEB_PAGES = {"comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs"}
"""ComfyUI's requirements that hold nothing to import."""
VARIANTS = ("newest", "lowest")

_VERSIONS = """
import importlib.metadata, json
found = {}
for one in importlib.metadata.distributions():
    found.setdefault(one.metadata["Name"].lower().replace("_", "-").replace(".", "-"), one.version)
print(json.dumps(found))
"""


class InstallationError(RuntimeError):
    """pip could not install; the message holds the end of what it said."""


@dataclass(frozen=True)
class Step:
    """One line of requirements.txt: packages that came with it, and those of ComfyUI that it moved."""

    line: str
    brought: dict[str, str]
    moved: dict[str, list[str]]


@dataclass(frozen=True)
class Installation:
    """An environment with ComfyUI's packages and the pack's."""

    python: Path
    before: dict[str, str] = field(repr=False)
    """ComfyUI's packages, with versions, before the pack's came."""
    steps: tuple[Step, ...] = ()

    def versions(self) -> dict[str, str]:
        """All packages that the environment sees, by their normalised names."""
        said = subprocess.run([self.python, "-c", _VERSIONS], capture_output=True, text=True, check=True, env=_clean())
        return json.loads(said.stdout)

    def moved_by(self, *wanted: str) -> dict[str, list[str]]:
        """ComfyUI's packages that one ``pip install`` of them would move: name to version now and then."""
        return _moved(self.before, _plan(self.python, wanted))


def requirements(path: Path = comfy_tree.ROOT / "requirements.txt") -> list[str]:
    """The lines of a requirements file without comments."""
    stated = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in stated if line]


def lowest(line: str) -> str:
    """The lowest version that a line admits: ``a>=1`` becomes ``a==1``."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+>=[0-9.]+", line):
        raise ValueError(f"{line!r} in requirements.txt does not read like 'name>=1.2'.")
    return line.replace(">=", "==")


def base() -> Installation:
    """ComfyUI's own packages alone; made anew where their list has changed."""
    tree = comfy_tree.find()
    wanted = [line for line in comfy_tree.requirements(tree) if name_of(line) not in {*WEB_PAGES, "transformers"}]
    linked = [f"{name}=={importlib.metadata.version(name)}" for name in LINKED]
    folder = _folder(tree) / "base"

    def fill(python: Path) -> dict:
        links = folder.with_name("linked")
        _link(links)
        _sees(python, links)
        _pip(python, "install", TRANSFORMERS, *wanted)
        return {}

    python, _ = _made(folder, [sys.version, *linked, TRANSFORMERS, *wanted], fill)
    made = Installation(python, {})
    return Installation(python, made.versions())


def ensure(variant: str) -> Installation:
    """The pack's requirements, and the extra for training, on top of :func:`base`, one line at a time.

    ``variant`` is one of :data:`VARIANTS`. A line that would move a package of ComfyUI is noted and not installed.
    """
    below = base()
    lines = [lowest(line) if variant == "lowest" else line for line in [*requirements(), _training()]]

    def fill(python: Path) -> dict:
        _sees(python, Path(_site(below.python)))
        return {"steps": [_install(Installation(python, below.before), line) for line in lines]}

    parts = [sys.version, json.dumps(below.before), *lines]
    python, noted = _made(_folder(comfy_tree.find()) / variant, parts, fill)
    return Installation(python, below.before, tuple(Step(**step) for step in noted["steps"]))


def _training() -> str:
    pack()
    return importlib.import_module("stylization.stylization_core.packages").TRAINING


def _install(place: Installation, line: str) -> dict:
    planned = _plan(place.python, [line])
    moved = _moved(place.before, planned)
    if not moved:
        _pip(place.python, "install", line)
        now = place.versions()
        moved = _moved(place.before, now)
    return {"line": line, "brought": planned, "moved": moved}


def _moved(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    return {name: [old, after[name]] for name, old in before.items() if after.get(name, old) != old}


def _plan(python: Path, wanted: Sequence[str]) -> dict[str, str]:
    """What pip would install, without doing it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip(python, "install", "--dry-run", "--report", str(report), *wanted)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {name_of(one["metadata"]["name"]): one["metadata"]["version"] for one in found}


def name_of(requirement: str) -> str:
    """The package of a requirement, normalised."""
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower().replace("_", "-").replace(".", "-")


def _folder(tree: Path) -> Path:
    return comfy_tree.HOST / f"installation-{comfy_tree.version(tree)}"


def _made(folder: Path, parts: Sequence[str], fill: Callable[[Path], dict]) -> tuple[Path, dict]:
    """The environment at ``folder``, new where its parts or this file have changed, and what was noted then."""
    recipe = Path(__file__).read_text(encoding="utf-8")
    digest = hashlib.sha256("\n".join([recipe, *parts]).encode()).hexdigest()
    python = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "stamp.json"
    if stamp.is_file():
        noted = json.loads(stamp.read_text(encoding="utf-8"))
        if noted["digest"] == digest:
            return folder / python, noted
    with _replacing(folder) as partial:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(partial)], check=True)
        noted = {"digest": digest, **fill(partial / python)}
        (partial / stamp.name).write_text(json.dumps(noted, indent=1), encoding="utf-8")
    return folder / python, noted


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A folder that takes the place of another when it is done; of two processes the later one's stays."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _pip(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    ran = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=_clean()
    )
    if ran.returncode:
        raise InstallationError(f"pip {' '.join(arguments)} failed:\n{ran.stdout[-4000:]}")


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _site(python: Path) -> str:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=_clean()).stdout.strip()


def _sees(python: Path, folder: Path) -> None:
    """Put a folder at the end of an environment's path, and with it what that folder sees."""
    lines = [str(folder)]
    lines += [line for file in sorted(folder.glob("*.pth")) for line in file.read_text(encoding="utf-8").splitlines()]
    (Path(_site(python)) / "stylization_below.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _link(links: Path) -> None:
    """A folder with the linked packages and nothing else."""
    with _replacing(links) as partial:
        for name in LINKED:
            package = importlib.metadata.distribution(name)
            for top in sorted({file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}):
                (partial / top).symlink_to(Path(package.locate_file(top)))
