"""What every test can use.

Two packages exist by their paths, nothing of this repository is on ``sys.path``:

- ``stylization``       the pack, loaded as ComfyUI loads it: ``from stylization.stylization_core import …``
- ``stylization_host``  the helpers in ``tests/host``: ``from stylization_host import browser, graphs, wiring``

Fixtures (session = made once, at first use):

=================  =========  =====================================================================================
``pack``           session    the module ``stylization``
``core``           session    the module ``stylization.stylization_core``; needs no ComfyUI
``comfy``          session    ComfyUI inside this process on the CPU (module ``stylization_host.comfy_inprocess``);
                              afterwards ``import comfy.sd`` works
``wiring_files``   session    :class:`stylization_host.wiring.Wiring`: ``.path("wiring_sd15.safetensors")``
``wiring_model``   session    ``wiring_model("sdxl")`` gives a fresh clone of that wiring model's MODEL, in process;
                              ``wiring_model.vae("sdxl")`` its VAE
``rig``            session    the helpers in ``tests/stylization_core/hosts/comfyui`` and the host's modules:
                              ``rig.micro.unet()``, ``rig.loras.kohya(…)``, ``rig.predictions`` …
``micro``          function   a small MODEL of the SD1.5 kind
``path``           function   the path of a style LoRA for it
``styled``         function   the model with that style beside it
``server``         session    a real ComfyUI with the pack, the test plug-ins, the wiring and the pocket models
                              (:class:`stylization_host.comfy_host.ComfyServer`)
``client``         function   a client of it (:class:`stylization_host.comfy_client.ComfyClient`)
``saved_tensors``  function   ``saved_tensors("name")`` reads what ProbeSaveTensor wrote
``browser_page``   function   a page of the frontend in headless Chromium; helpers in ``stylization_host.browser``.
                              Fails with one line where there is no Chromium
=================  =========  =====================================================================================

``OMP_NUM_THREADS`` is 1 unless the environment says otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

HOST = Path(__file__).resolve().parent / "host"


def _loader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stylization_load", HOST / "load.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# One thread, here and in the server: the networks are tiny, and several threads on cores that others use too wait for
# each other most of the time (measured: 0.3 s against 6 s for two steps on two busy cores).
os.environ.setdefault("OMP_NUM_THREADS", "1")

_load = sys.modules.get("stylization_load") or _loader()
_load.host_package()
_load.pack()

from stylization_host import torch_shims  # noqa: E402

# peft and diffusers import torchvision where they find it.
torch_shims.install()


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    return _load.pack()


@pytest.fixture(scope="session")
def core() -> ModuleType:
    return importlib.import_module("stylization.stylization_core")


@pytest.fixture(scope="session")
def wiring_files():
    from stylization_host import wiring

    return wiring.ensure()


@pytest.fixture(scope="session")
def comfy(wiring_files) -> Iterator[ModuleType]:
    from stylization_host import comfy_inprocess

    comfy_inprocess.enter((wiring_files.models,))
    yield comfy_inprocess
    comfy_inprocess.leave()


class _WiringModels:
    """Loads each wiring model once; every call hands out a clone, so that patches stay apart."""

    def __init__(self, comfy: ModuleType, files) -> None:
        self._comfy = comfy
        self._files = files
        self._loaded: dict[str, tuple] = {}

    def _pair(self, family: str) -> tuple:
        if family not in self._loaded:
            from stylization_host.wiring import FAMILIES

            known = FAMILIES[family]
            path = self._files.path(known.file)
            if known.folder == "checkpoints":
                self._loaded[family] = self._comfy.load_checkpoint(path)
            else:
                load = self._comfy.load_small_flux if family == "flux" else self._comfy.load_diffusion_model
                self._loaded[family] = (load(path), None)
        return self._loaded[family]

    def __call__(self, family: str):
        return self._pair(family)[0].clone()

    def vae(self, family: str):
        return self._pair(family)[1]


@pytest.fixture(scope="session")
def wiring_model(comfy, wiring_files) -> _WiringModels:
    return _WiringModels(comfy, wiring_files)


@pytest.fixture(scope="session")
def rig(comfy) -> ModuleType:
    _load.folder_as_package("stylization_rig", HOST.parent / "stylization_core" / "hosts" / "comfyui")
    return importlib.import_module("stylization_rig.gathered")


@pytest.fixture
def micro(rig):
    return rig.micro.unet()


@pytest.fixture
def path(rig, micro, tmp_path) -> str:
    return rig.loras.saved(rig.loras.kohya(micro), tmp_path / "style.safetensors")


@pytest.fixture
def styled(rig, micro, path):
    return rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.8))


@pytest.fixture(scope="session")
def server(wiring_files):
    from stylization_host.comfy_host import ComfyServer

    with ComfyServer(f"tests-{os.getpid()}", model_roots=[wiring_files.models], keep_base=False) as running:
        yield running


@pytest.fixture
def client(server):
    return server.client()


@pytest.fixture
def saved_tensors(server) -> Callable[[str], dict]:
    from safetensors.torch import load_file

    return lambda name: load_file(server.output / "probe" / f"{name}.safetensors")


@pytest.fixture(scope="module")
def chromium():
    from stylization_host import browser

    try:
        browser.executable()
    except browser.NoBrowser as error:
        pytest.fail(str(error), pytrace=False)
    # One per module: Playwright keeps an event loop in this thread, and other tests may want their own.
    with browser.running() as running:
        yield running


@pytest.fixture
def browser_page(server, chromium):
    from stylization_host import browser

    with browser.opened(chromium, server.url) as page:
        yield page
