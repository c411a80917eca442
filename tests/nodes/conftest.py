"""What the tests of the nodes share: the package ``pack_nodes``, refusals checked for their form, and KSampler."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def pack_nodes(comfy) -> ModuleType:
    """The package ``stylization.nodes``."""
    comfy.stock_nodes()
    return importlib.import_module("stylization.nodes")


@pytest.fixture
def refusal() -> Callable[..., str]:
    """``refusal(node, call)``: the message of the error that ``call()`` must raise, its form checked."""

    def message(node: str, call: Callable) -> str:
        with pytest.raises(ValueError) as caught, torch.inference_mode():
            call()
        found = str(caught.value)
        assert found.startswith(f"{node}, ")
        assert found.count(". ") >= 1 and found.endswith(".")  # what was found, and what to do
        assert len(found) < 400 and "\n" not in found
        return found

    return message


@pytest.fixture
def ksampler(rig, pack_nodes) -> Callable[..., torch.Tensor]:
    """The stock KSampler on a picture (image to image unless told otherwise); returns the samples."""
    import nodes

    def run(model, samples, *, positive=None, negative=None, seed=5, steps=4, cfg=4.0, denoise=0.6, **latent):
        given = rig.runs.pair()
        with torch.inference_mode():
            (result,) = nodes.common_ksampler(
                model,
                seed,
                steps,
                cfg,
                "euler",
                "normal",
                positive or given["positive"],
                negative or given["negative"],
                {"samples": samples, **latent},
                denoise=denoise,
            )
        return result["samples"]

    return run


@pytest.fixture
def temp(tmp_path):
    """ComfyUI's folder of temporary files, a new one."""
    import folder_paths

    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    yield tmp_path / "temp"
    folder_paths.set_temp_directory(before)
