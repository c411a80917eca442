"""The pack's requirements beside ComfyUI's own, installed as its Manager does: nothing of ComfyUI moves."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stylization_host import comfy_tree, installation

ROOT = comfy_tree.ROOT
SMOKE = ROOT / "tests" / "host" / "smoke.py"
COMFYUIS = {"torch", "torchvision", "numpy", "pillow", "safetensors", "scipy", "transformers", "huggingface-hub"}


def stated() -> tuple[list[str], dict[str, list[str]]]:
    """Requirements and extras as pyproject.toml has them; Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    (dependencies,) = re.findall(r"^dependencies = (\[.*\])$", text, re.MULTILINE)
    return json.loads(dependencies), {
        name: json.loads(listed) for name, listed in re.findall(r"^(\w+) = (\[.*\])$", extras, re.MULTILINE)
    }


def smoke(python: Path, what: str, home: Path, **environment: str) -> dict:
    """What the smoke script found, in an environment and with a home folder of its own."""
    left_out = ("PYTHONPATH", "MPLCONFIGDIR", "MATPLOTLIBRC", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    ran = subprocess.run(
        [python, str(SMOKE), what],
        capture_output=True,
        text=True,
        env={**kept, "HOME": str(home), "USERPROFILE": str(home), **environment},
    )
    assert ran.returncode == 0, f"{ran.stdout[-2000:]}{ran.stderr[-4000:]}"
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def base():
    return installation.base()


@pytest.fixture(scope="module", params=installation.VARIANTS)
def installed(request):
    return installation.ensure(request.param)


def test_pyproject_and_requirements_say_the_same(core):
    packages = importlib.import_module("stylization.stylization_core.packages")
    dependencies, extras = stated()
    assert dependencies == installation.requirements() == installation.requirements(packages.REQUIREMENTS)
    assert extras["training"] == [packages.TRAINING] and extras["diffusers"] == [packages.DIFFUSERS]


def test_the_tests_have_every_extra():
    listed = {installation.name_of(line) for line in installation.requirements(ROOT / "tests/host/requirements.txt")}
    ours = [line for extra, lines in stated()[1].items() if extra != "standalone" for line in lines]
    assert {installation.name_of(line) for line in ours} <= listed


def test_no_line_asks_for_what_comfyui_brings(base):
    asked = {installation.name_of(line) for line in installation.requirements()}
    assert COMFYUIS <= set(base.before)
    assert not asked & set(base.before)
    assert {installation.name_of(line) for line in stated()[1]["standalone"]} <= set(base.before)


def test_the_environment_is_as_users_have_it(base):
    assert base.before["transformers"].startswith("4.57.")
    assert base.before["huggingface-hub"].startswith("0.")


def test_the_check_sees_what_it_is_for(base):
    """This line was in requirements.txt, and ComfyUI did not start afterwards."""
    now, then = base.moved_by("diffusers==0.42.1")["huggingface-hub"]
    assert now.startswith("0.") and not then.startswith("0.")


def test_line_by_line_nothing_of_comfyui_moves(installed, base):
    assert [step.line for step in installed.steps if step.moved] == []
    assert all(step.brought for step in installed.steps)
    now = installed.versions()
    assert {name: now[name] for name in base.before} == base.before


def test_all_at_once_nothing_of_comfyui_moves(base):
    assert base.moved_by(*installation.requirements()) == {}


def test_what_error_texts_name_moves_nothing_either(base):
    packages = importlib.import_module("stylization.stylization_core.packages")
    assert base.moved_by(packages.TRAINING) == {}


def test_without_requirements_the_pack_loads_and_says_what_to_run(base, tmp_path):
    found = smoke(base.python, "bare", tmp_path)
    assert "StylizeSMS" in found["nodes"] and len(found["nodes"]) >= 29
    listed = re.search(r"not installed in ComfyUI's Python: (.*?)\. Run `(.*)` and", found["refusals"]["measure"])
    assert listed[1] == "matplotlib, scikit-image, PyWavelets"
    assert listed[2] == f"{base.python} -m pip install -r {ROOT / 'requirements.txt'}"
    assert f'`{base.python} -m pip install "peft>=' in found["refusals"]["train"]


def test_the_pack_works_there_and_writes_nothing_below_the_home_folder(installed, tmp_path):
    found = smoke(installed.python, "full", tmp_path)
    assert len(found["nodes"]) >= 29
    assert {"structure", "edges", "shift", "color_change", "texture", "legibility"} <= set(found["report"]["rulers"])
    assert found["trained"] == {"factors": 4, "trained": 4}
    assert found["report"]["charts"]["bars"][2] == found["curve"][2] == 760
    assert [str(path) for path in tmp_path.rglob("*")] == []
    assert found["environment kept"] and re.fullmatch(r"matplotlib.fontlist-.*\.json", found["written"][0])


def test_a_folder_that_the_user_names_for_matplotlib_is_used(tmp_path):
    mine = tmp_path / "mine"
    found = smoke(Path(sys.executable), "full", tmp_path / "home", MPLCONFIGDIR=str(mine))
    assert found["written"] == [] and list(mine.glob("fontlist-*.json"))


def test_settings_of_the_user_stay_in_force(tmp_path):
    settings = tmp_path / ".config" / "matplotlib"
    settings.mkdir(parents=True)
    (settings / "matplotlibrc").write_text("lines.linewidth: 7\n")
    found = smoke(Path(sys.executable), "full", tmp_path)
    assert found["line width"] == 7 and found["written"]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["matplotlibrc"]
