"""Start ComfyUI's main.py with the stand-ins of the test host: ``python launch.py <tree> <arguments of main.py>``.

The process sees exactly what ``python main.py`` in the tree would see, plus the stand-ins: this file's own folder,
which Python puts at the front of ``sys.path``, gives its place to the tree.
"""

from __future__ import annotations

import ctypes
import importlib.util
import runpy
import signal
import sys
from pathlib import Path


def _end_with_parent() -> None:
    """On Linux, have the kernel end this process when the one that started it has ended, however it ended."""
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _install_stand_ins() -> None:
    path = Path(__file__).resolve().with_name("torch_shims.py")
    spec = importlib.util.spec_from_file_location("stylization_torch_shims", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.install()


def main() -> None:
    tree = Path(sys.argv[1]).resolve()
    sys.argv = [str(tree / "main.py"), *sys.argv[2:]]
    sys.path[0] = str(tree)
    _end_with_parent()
    _install_stand_ins()
    runpy.run_path(str(tree / "main.py"), run_name="__main__")


if __name__ == "__main__":
    main()
