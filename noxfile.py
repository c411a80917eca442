"""The two commands of the README, and their helpers.

    python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s stylize
    python3 -m venv .venv && .venv/bin/pip install -q nox && .venv/bin/nox -s tests

All sessions share the virtual environment that the session `environment` builds below `.host/`; nox runs that session
first, and it returns at once where nothing has changed. `STYLIZATION_COMFYUI=/path/to/ComfyUI` puts the user's own
tree in the place of ComfyUI 0.3.75, with an environment of its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
HOST_TESTS = ROOT / "tests" / "host"


def _load(path: Path):
    """Import one file by its path: neither the repository nor tests/ may be on sys.path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


comfy_tree = _load(HOST_TESTS / "comfy_tree.py")
USER_TREE = comfy_tree.user_tree()
ENVIRONMENTS = comfy_tree.HOST / "env"
if USER_TREE is not None:
    ENVIRONMENTS = comfy_tree.HOST / f"env-{hashlib.sha256(str(USER_TREE).encode()).hexdigest()[:8]}"
PYTHON = ENVIRONMENTS / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

nox.options.envdir = str(ENVIRONMENTS)
nox.options.sessions = ["tests"]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@nox.session(reuse_venv=True)
def environment(session: nox.Session) -> None:
    """Build the shared environment: torch first, then ComfyUI's requirements and the pack's."""
    python = str(PYTHON)
    tree = comfy_tree.obtain([python, "-m", "pip"])
    constraints = HOST_TESTS / "constraints.txt"
    lists = [HOST_TESTS / "requirements.txt", ROOT / "requirements.txt"]
    wanted = comfy_tree.requirements(tree)
    stamp = ENVIRONMENTS / "environment.stamp"
    digest = _digest(sys.version, *wanted, *(path.read_text(encoding="utf-8") for path in [constraints, *lists]))
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        session.log("The environment is up to date.")
        return
    # torch alone and first: what comes later finds it in place and asks for no other build of it.
    session.install("-c", str(constraints), "torch")
    # Without its requirements, since it would ask for the torch it was built with.
    session.install("--no-deps", "-c", str(constraints), "torchvision")
    from_tree = ENVIRONMENTS / "comfyui-requirements.txt"
    from_tree.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    sources = [argument for path in [*lists, from_tree] for argument in ("-r", str(path))]
    session.install("-c", str(constraints), *sources)
    stamp.write_text(digest, encoding="utf-8")


def _run(session: nox.Session, *command: str) -> None:
    session.run(str(PYTHON), *command, external=True)


def _install_browser(session: nox.Session) -> None:
    """Ask the machine's package manager for Chromium where there is none; the browser tests need it."""
    if any(shutil.which(name) for name in BROWSERS):
        return
    apt = shutil.which("apt-get")
    if apt is None:
        session.warn("No Chromium on PATH and no apt-get to install it: the browser tests will fail and say so.")
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    session.run(*sudo, apt, "update", "-qq", external=True, success_codes=range(256), env=environment)
    session.run(
        *sudo, apt, "install", "-y", "-qq", "chromium", external=True, success_codes=range(256), env=environment
    )


@nox.session(venv_backend="none", requires=["environment"])
def stylize(session: nox.Session) -> None:
    """The main job: boot ComfyUI with the pack and the pocket model, and stylize a photograph.

    Arguments after `--` go to tests/host/stylize_photo.py (`nox -s stylize -- --help` shows them).
    """
    _run(session, str(HOST_TESTS / "stylize_photo.py"), *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def serve(session: nox.Session) -> None:
    """Leave a server running with everything in place, to open in a browser; Ctrl+C ends it."""
    _run(session, str(HOST_TESTS / "serve.py"), *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def tests(session: nox.Session) -> None:
    """Everything: ruff, then pytest with a real server and a real browser. Arguments after `--` go to pytest."""
    _install_browser(session)
    _run(session, "-m", "ruff", "check", ".")
    # The script, never `python -m pytest`, which would put the repository root on sys.path.
    session.run(str(PYTHON.with_name("pytest")), *session.posargs, external=True)
