"""The page that shows how an operator is written runs as it stands there."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing_an_operator.md"
BLOCK = re.compile(r"^```python\n# (?P<file>\S+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, str]:
    """Code by the file that it would be."""
    return {found["file"]: found["code"] for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


@pytest.fixture
def loaded(comfy, tmp_path, monkeypatch):
    """Each block as the module that it would be in the pack, and gone again afterwards."""
    modules: dict[str, ModuleType] = {}
    for number, (file, code) in enumerate(blocks().items()):
        inside = not file.startswith("tests/")
        name = ("stylization." if inside else "page.") + file.removesuffix(".py").replace("/", ".")
        if inside:
            importlib.import_module(name.rpartition(".")[0])
        path = tmp_path / f"block_{number}.py"
        path.write_text(code, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        modules[file] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, modules[file])
        spec.loader.exec_module(modules[file])
    return modules


def test_the_operator_of_the_page_passes_its_own_test(loaded, rig, micro, monkeypatch):
    _operator, host, node, test = loaded.values()
    node_class = next(one for name, one in vars(node).items() if name.startswith("Stylize"))
    test.test_calm_attention(rig, micro, node_class, monkeypatch)
    # the same test goes red where the operator does nothing
    monkeypatch.setattr(host, "calmed", lambda out, strength: out)
    with pytest.raises(AssertionError):
        test.test_calm_attention(rig, micro, node_class, monkeypatch)


def test_files_of_the_page_would_be_where_the_house_wants_them():
    places = [Path(file).parent.as_posix() for file in blocks()]
    assert places == [
        "stylization_core",
        "stylization_core/hosts/comfyui/attention",
        "nodes/attention",
        "tests/nodes/attention",
    ]
    root = PAGE.parents[1]
    assert all((root / place).is_dir() for place in places)


def test_an_operator_is_small():
    """Operator, host and node together, without the test."""
    code = [line for file, text in blocks().items() if not file.startswith("tests/") for line in text.splitlines()]
    assert len([line for line in code if line.strip()]) < 80
