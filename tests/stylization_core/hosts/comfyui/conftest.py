"""What the tests of ComfyUI's host share beside ``rig``, ``micro``, ``path`` and ``styled``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def stock(rig, micro, path):
    """The style of ``styled`` by ComfyUI's own weight patching."""
    return rig.loras.weight_patched(micro, path, 0.8)


@pytest.fixture(params=["batched", "split"])
def calls(request, rig, micro, monkeypatch) -> str:
    """Both layouts of the calls of ``micro``: all rows in one, or each chunk in one of its own."""
    if request.param == "split":
        rig.runs.split_calls(monkeypatch, micro)
    return request.param


@pytest.fixture
def outputs(rig, tmp_path) -> Iterator[Path]:
    """ComfyUI's output folder, a new one."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    yield tmp_path / "output" / "stylization"
    folder_paths.set_output_directory(before)


@pytest.fixture
def trial(rig) -> Callable:
    """``trial(patcher, body)`` returns what ``body(Trial)`` does inside a sampling run, in inference mode."""
    return rig.trials.trial


@pytest.fixture
def of_family(rig, wiring_model) -> Callable:
    """``of_family("sdxl", body)``: a trial on that wiring model, or on the micro networks ``unet`` and ``flux``."""
    return functools.partial(rig.trials.of_family, wiring_model)


@pytest.fixture(params=["unet", "sd15", "sdxl", "flux", "sd3"])
def family(request) -> str:
    """Each kind of network that ``of_family`` knows."""
    return request.param
