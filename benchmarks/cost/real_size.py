"""Networks of the real size of SD 1.5 and SDXL with random weights, one guided step of them, and what it takes.

For time, operations and memory alone; what they make is noise.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from ..common import host  # noqa: F401 puts ComfyUI and the pack in place
from ..load import FOLDER

# isort: split
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import torch
from torch.utils.flop_counter import FlopCounterMode

ROUNDS = 3
RUN = FOLDER / "cost" / "run.py"
FAMILIES = {
    "sd15": (comfy.supported_models.SD15, comfy.model_base.BaseModel, 768, {}),
    "sdxl": (comfy.supported_models.SDXL, comfy.model_base.SDXL, 2048, {"adm_in_channels": 2816}),
}
UNETS = {
    "sd15": {
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "num_heads": 8,
        "num_head_channels": -1,
        "use_linear_in_transformer": False,
    },
    "sdxl": {
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "num_heads": -1,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
    },
}


def model_of(family: str, device: torch.device, dtype: torch.dtype):
    """A loaded MODEL of the family's real size with random weights."""
    kind, base, width, more = FAMILIES[family]
    config = kind(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "context_dim": width,
            "use_spatial_transformer": True,
            "legacy": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
            "dtype": dtype,
            **UNETS[family],
            **more,
        }
    )
    config.manual_cast_dtype = None
    model = base(config, device=device)
    for name, parameter in model.named_parameters():
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.0
        parameter.data.normal_(0, scale) if scale else parameter.data.fill_(float("norm" in name and "weight" in name))
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)
    comfy.model_management.load_models_gpu([patcher])
    model.current_patcher = patcher
    return patcher


class RealSize:
    """A loaded MODEL of the family's real size, and one guided step of it.

    Args:
        arguments: as :func:`parser_of` reads them.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.device = torch.device(arguments.device)
        dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        self.model = model_of(arguments.family, self.device, dtype)
        self.noise = torch.randn(arguments.batch, 4, arguments.latent, arguments.latent)
        self.prompts = [self.prompt(arguments.family) for _ in range(2)]

    @staticmethod
    def prompt(family: str) -> list:
        """A CONDITIONING of the family's shape."""
        return [[torch.randn(1, 77, FAMILIES[family][2]), {"pooled_output": torch.randn(1, 1280)}]]

    def step(self, model) -> None:
        """One step of Euler at CFG 5."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*self.prompts)
        guider.set_cfg(5.0)
        sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([5.0, 4.0])
        guider.sample(self.noise, torch.zeros_like(self.noise), sampler, sigmas, disable_pbar=True, seed=0)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def parser_of(doc: str, batch: int, forms: Sequence[str]) -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), default="sd15")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--latent", type=int, default=64, help="side of the latent in cells")
    parser.add_argument("--batch", type=int, default=batch, help="pictures")
    parser.add_argument("--peak", choices=forms, help="measure the peak memory of one form in this process, as JSON")
    return parser


def peak_of(arguments: argparse.Namespace, action: Callable[[], None]) -> float:
    """Peak memory in MiB of an action: a GPU's, or on a CPU the process's, whose model is the ground to stand on."""
    if arguments.device == "cpu":
        action()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    torch.cuda.reset_peak_memory_stats()
    action()
    return torch.cuda.max_memory_allocated() / 2**20


def alone(name: str, *arguments: str):
    """What the script of that name says last, as JSON, in a process of its own with these arguments."""
    command = [sys.executable, str(RUN), name, *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout.splitlines()[-1])


def peaks(name: str, forms: Sequence[str]) -> dict[str, float]:
    """Peak memory of every form, each in a process of its own with the arguments of this one."""
    return {form: alone(name, *sys.argv[1:], "--peak", form) for form in forms}


def table(bench: RealSize, forms: Mapping[str, object], memory: Mapping[str, float]) -> str:
    """Operations and time of a step of every form beside the first one, in turn, ROUNDS times after a warm-up."""
    operations, seconds = {}, {name: [] for name in forms}
    for name, model in forms.items():
        # warms up, and fills caches of references
        bench.step(model)
        with FlopCounterMode(display=False) as counter:
            bench.step(model)
        operations[name] = counter.get_total_flops()
    for _ in range(ROUNDS):
        for name, model in forms.items():
            started = time.perf_counter()
            bench.step(model)
            seconds[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(rows) for name, rows in seconds.items()}
    first = next(iter(forms))
    lines = ["| form | operations, ratio | time, ratio | peak memory, MiB more |", "|---|---|---|---|"]
    for name in forms:
        ratios = f"{operations[name] / operations[first]:.3f} | {middle[name] / middle[first]:.3f}"
        lines.append(f"| {name} | {ratios} | {memory[name] - memory[first]:+.0f} |")
    lines.append(f"\n{first}: {middle[first]:.2f} s, {operations[first] / 1e12:.2f} TFLOP, {memory[first]:.0f} MiB.")
    return "\n".join(lines)


def report(name: str, bench: RealSize, forms: Mapping[str, object], arguments: argparse.Namespace) -> None:
    """Print the table, or the peak of the one form asked for."""
    if arguments.peak:
        sys.stdout.write(json.dumps(peak_of(arguments, lambda: bench.step(forms[arguments.peak]))) + "\n")
        return
    sys.stdout.write(table(bench, forms, peaks(name, list(forms))) + "\n")
