"""The house: which part of the pack may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
COMFYUI = ("stylization_core", "hosts", "comfyui")

ROOMS = {
    "model": set(),
    "references": {"model"},
    "sms": {"model"},
    "attention": {"model", "references"},
    "guidance": {"model", "sms"},
    "training": {"model", "attention"},
    "measure": {"model", "sms", "guidance", "attention"},
}
"""Rooms of ComfyUI's host, and the rooms that each may import."""


def sources(*folder: str) -> list[Path]:
    return sorted((PACK.joinpath(*folder)).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports of the pack, as parts of the path from the pack's root, and whose names it asks for."""
    package = path.relative_to(PACK).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            yield base + tuple((node.module or "").split(".") if node.module else ())


def room(parts: tuple[str, ...]) -> str | None:
    return parts[len(COMFYUI)] if parts[: len(COMFYUI)] == COMFYUI and len(parts) > len(COMFYUI) else None


def test_the_table_names_every_room():
    found = {path.parent.name for path in sources(*COMFYUI) if path.name == "__init__.py"} - {"comfyui"}
    assert found == set(ROOMS)
    assert {path.name for path in PACK.joinpath(*COMFYUI).glob("*.py")} == {"__init__.py"}


def test_the_table_has_no_circle():
    left = dict(ROOMS)
    while left:
        free = [name for name, needed in left.items() if not needed & left.keys()]
        assert free, f"these rooms import each other in a circle: {sorted(left)}"
        for name in free:
            del left[name]


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_what_it_may(name):
    for path in sources(*COMFYUI, name):
        for parts in imports(path):
            other = room(parts)
            if other is None or other == name:
                continue
            assert other in ROOMS[name], (
                f"{path.relative_to(PACK)} imports {'.'.join(parts)}; the room '{name}' may import "
                f"{sorted(ROOMS[name]) or 'no other room'}. Move what is shared to a room below both."
            )


@pytest.mark.parametrize("name", [*ROOMS, "nodes"])
def test_others_enter_a_room_by_its_door(name):
    files = sources("nodes") if name == "nodes" else sources(*COMFYUI, name)
    for path in files:
        for parts in imports(path):
            other = room(parts)
            if other is not None and other != name:
                assert len(parts) == len(COMFYUI) + 1, (
                    f"{path.relative_to(PACK)} imports {'.'.join(parts)}; import it from the package '{other}', "
                    "whose __init__ exports what others use."
                )


def test_operators_know_no_host_and_hosts_no_node():
    for path in sources("stylization_core"):
        for parts in imports(path):
            assert parts[0] == "stylization_core", f"{path.relative_to(PACK)} imports {'.'.join(parts)}, a node"
            inside = path.relative_to(PACK).parts[1] == "hosts"
            assert inside or parts[1:2] != ("hosts",), f"{path.relative_to(PACK)} imports {'.'.join(parts)}, a host"


def test_every_room_exports_what_it_says_and_no_more():
    """What nobody asks for at the door is not exported."""
    for name in ROOMS:
        door = PACK.joinpath(*COMFYUI, name, "__init__.py")
        tree = ast.parse(door.read_text(encoding="utf-8"))
        given = {alias.asname or alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names}
        asked = set()
        for path in [*sources("nodes"), *sources("stylization_core"), *sources("benchmarks"), *sources("tests")]:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] == name and path != door:
                    asked |= {alias.name for alias in node.names}
        assert given <= asked, f"the room '{name}' exports {sorted(given - asked)}, which nobody imports"
