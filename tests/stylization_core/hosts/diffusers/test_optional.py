"""diffusers is an extra: without it an error says how to get it, and only its host imports it."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest


def test_missing_diffusers_is_named_with_the_command_that_brings_it(adapter, monkeypatch):
    monkeypatch.delitem(sys.modules, adapter.__name__)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r'-m pip install "diffusers>=[0-9.]+"`'):
        importlib.import_module(adapter.__name__)


def test_nothing_else_of_the_pack_imports_diffusers(pack):
    root = Path(pack.__file__).parent
    for file in (root / "__init__.py", *root.glob("nodes/**/*.py"), *root.glob("stylization_core/**/*.py")):
        if file.is_relative_to(root / "stylization_core" / "hosts" / "diffusers"):
            continue
        for statement in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in getattr(statement, "names", ()) if isinstance(statement, ast.Import)]
            names += [statement.module or ""] if isinstance(statement, ast.ImportFrom) else []
            assert not [name for name in names if "diffusers" in name.split(".")], file
