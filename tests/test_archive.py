"""What users install: the nodes and what they need, without the weights of the pocket models."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPARSE = ("nodes", "stylization_core", "web", "workflows")
"""Folders of the light clone in README."""

LIGHT = 4_000_000
"""Bytes of all files together."""


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("no git repository")
    return [name for name in found.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def archived(tracked) -> list[str]:
    """Files that .comfyignore leaves in the registry's archive."""
    lines = (line.strip() for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())
    left_out = {line.rstrip("/") for line in lines if line and not line.startswith("#")}
    return [name for name in tracked if PurePosixPath(name).parts[0] not in left_out]


@pytest.fixture(scope="module")
def cloned(tracked) -> list[str]:
    """Files of the light clone: those of some folders, and those at the root."""
    parts = ((name, PurePosixPath(name).parts) for name in tracked)
    return [name for name, (first, *rest) in parts if not rest or first in SPARSE]


@pytest.mark.parametrize("kind", ["archived", "cloned"])
def test_what_users_get_is_light_and_has_no_weights(request, kind):
    names = request.getfixturevalue(kind)
    assert sum((ROOT / name).stat().st_size for name in names) < LIGHT
    assert [name for name in names if name.endswith((".safetensors", ".pt", ".ckpt"))] == []


@pytest.mark.parametrize("kind", ["archived", "cloned"])
def test_what_users_get_has_all_that_the_nodes_need(request, tracked, kind):
    names = set(request.getfixturevalue(kind))
    needed = {name for name in tracked if PurePosixPath(name).parts[0] in SPARSE}
    needed |= {"__init__.py", "requirements.txt", "pyproject.toml", "LICENSE", "README.md"}
    assert needed - names == set()


def test_readme_names_the_folders_of_the_light_clone():
    assert f"sparse-checkout set {' '.join(SPARSE)}" in (ROOT / "README.md").read_text(encoding="utf-8")
