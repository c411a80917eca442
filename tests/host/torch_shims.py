"""Stand-ins for compiled parts that a CPU-only torch cannot load. Used by the test host only.

There is not for every build of torch a build of torchvision and torchaudio that loads beside it. ComfyUI imports both
at start and calls neither on the paths that are tested here. So, and only where the real thing is missing:

- the *schema* of ``torchvision::nms`` and ``torchvision::qnms`` is defined, since ``import torchvision`` registers a
  fake kernel for them; calling them still fails
- a package ``torchaudio`` is offered that imports, and explains itself when it is used

Nothing is imported before its time: ComfyUI's main.py wants to set up the process before torch is loaded.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

SHIMS = Path(__file__).resolve().parent / "shims"
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# A Library takes its schemas back when it is collected.
_kept: list[object] = []


class _BeforeTorchvision:
    """First in ``sys.meta_path``: defines what is missing when torchvision is asked for, and finds nothing itself."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            define_missing_operators()


def install() -> None:
    """Put the stand-ins in place where they are needed; a second call does nothing."""
    if "torchvision" not in sys.modules and not any(isinstance(one, _BeforeTorchvision) for one in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
    if importlib.util.find_spec("torchaudio") is None:
        sys.path.append(str(SHIMS))


def define_missing_operators() -> None:
    """Define the schemas that torchvision's own library did not bring, and keep them for the life of the process."""
    import torch
    from torch import library

    if _kept or _compiled_torchvision_loads():
        return
    fragment = library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            fragment.define(schema)
    _kept.append(fragment)


def _compiled_torchvision_loads() -> bool:
    """Whether torchvision's own operators load beside this torch; they are loaded by the question."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for library in sorted(Path(spec.origin).parent.glob("_C*")):
        if library.suffix not in (".so", ".pyd", ".dylib"):
            continue
        try:
            torch.ops.load_library(str(library))
        except (OSError, RuntimeError):
            continue
        if hasattr(torch.ops.torchvision, "nms"):
            return True
    return False
