"""Load the pack as ComfyUI does and use what its requirements bring: ``python smoke.py bare|full``.

Writes one JSON object to its output. Run by :mod:`test_installation` in environments that have no pytest.

- ``bare``  loads the pack; the errors of a node that measures and of the trained fake score
- ``full``  a report with every ruler and both charts, the curve of a budget, the trained fake score's LoRA on a network
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def _host():
    spec = importlib.util.spec_from_file_location("stylization_load", HERE / "load.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.host_package()
    return importlib.import_module("stylization_host.comfy_inprocess")


def _pictures(count: int):
    import torch

    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 9, 12, generator=draws)
    picture = torch.nn.functional.interpolate(coarse, size=(72, 96), mode="bicubic").clamp(0, 1).movedim(1, -1)
    return torch.cat([picture ** (1 + 0.4 * number) for number in range(count)])


def _report(node) -> dict:
    import torch

    pictures, mask = _pictures(3), torch.zeros(1, 72, 96)
    mask[:, 16:56, 20:76] = 1
    given = {"sequence": True, "filename_prefix": "smoke", "save": False, "style": _pictures(3).flip(1), "mask": mask}
    charts = {}
    for kind, theme in (("bars", "dark"), ("radar", "light")):
        with torch.inference_mode():
            scores, _, chart, *_ = node.execute(pictures[:1], pictures[1:], chart=kind, theme=theme, **given).args
        charts[kind] = list(chart.shape)
        spread = float(chart.std())
        assert spread > 0.01, f"the chart {kind} is empty"
    return {"charts": charts, "rulers": sorted(json.loads(scores)["rulers"])}


def _curve(core: str) -> list[int]:
    search, chart = (importlib.import_module(f"{core}.budget.{name}") for name in ("search", "chart"))
    limits = search.parse_limits("structure >= 0.7")
    found = search.strongest(lambda f: search.Reading((1 - 0.6 * f,), f), limits)
    return list(chart.drawn(found, "light").shape)


def _trained(core: str) -> dict:
    import torch

    fake = importlib.import_module(f"{core}.hosts.comfyui.sms.trained_fake")

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q, self.to_k, self.to_v = (torch.nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            return self.to_q(x) + self.to_k(x) + self.to_v(x)

    network, x = Attention(), torch.ones(2, 6)
    before = network(x)
    factors = fake._inject(network, 2, 4.0, 0)
    assert torch.equal(before, network(x)), "an untrained LoRA changes the network"
    (network(x).square().sum()).backward()
    return {"factors": len(factors), "trained": sum(one.grad is not None for one in factors)}


def _refusals(core: str, node) -> dict:
    fake = importlib.import_module(f"{core}.hosts.comfyui.sms.trained_fake")
    said = {}
    # past the check of inputs, which would miss the pictures first
    measure = node.execute.__func__.__wrapped__
    calls = {"measure": lambda: measure(node, *[None] * 7), "train": fake._check_peft}
    for name, call in calls.items():
        try:
            call()
        except ValueError as error:
            said[name] = str(error)
    return said


def main(what: str) -> dict:
    host = _host()
    host.enter()
    try:
        from stylization_host import comfy_tree

        nodes = host.stock_nodes()
        import folder_paths

        with tempfile.TemporaryDirectory() as temp:
            folder_paths.set_temp_directory(temp)
            stock = set(nodes.NODE_CLASS_MAPPINGS)
            if not asyncio.run(nodes.load_custom_node(str(comfy_tree.ROOT))):
                raise RuntimeError("ComfyUI could not import the pack; its log says why.")
            ours = sorted(set(nodes.NODE_CLASS_MAPPINGS) - stock)
            report = nodes.NODE_CLASS_MAPPINGS["StylizeReport"]
            core = report.__module__.partition(".nodes.")[0] + ".stylization_core"
            before = dict(os.environ)
            found = {"nodes": ours}
            if what == "bare":
                found["refusals"] = _refusals(core, report)
            else:
                found |= {"report": _report(report), "curve": _curve(core), "trained": _trained(core)}
                found["environment kept"] = dict(os.environ) == before
                found["line width"] = sys.modules["matplotlib"].rcParams["lines.linewidth"]
                found["written"] = sorted(str(path.relative_to(temp)) for path in Path(temp).rglob("*.json"))
            return found
    finally:
        host.leave()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])) + "\n")
