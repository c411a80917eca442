"""What shared attention costs beside the same batch without it: time, floating-point operations, peak memory.

    .host/env/environment/bin/python benchmarks/shared_attention_cost.py                 # SD 1.5 size on the CPU
    .host/env/environment/bin/python benchmarks/shared_attention_cost.py --family sdxl --device cuda --latent 128

Networks of the real size with random weights; one guided step of a batch whose first picture is the reference.
The floor is the operations that the formula needs: those of the plain batch, and attention of every other picture to
twice the tokens. Every form runs in turn in one process, ROUNDS times, after a warm-up; times are medians. The
published form duplicates the reference's keys for the reference too and writes all logits out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import pocket_host  # noqa: F401 puts ComfyUI and the pack in place

# isort: split
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import torch
from stylization.nodes import NODES
from stylization.stylization_core.hosts.comfyui.attention import with_self_attention
from stylization.stylization_core.hosts.comfyui.layers import self_attention_layers
from stylization.stylization_core.shared_attention import adain, moments
from torch.utils.flop_counter import FlopCounterMode

ROUNDS = 3
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


def published(call, attend):
    """The published formulation for [uncond, cond] halves: every row gets the reference, logits are written out."""
    half = call.q.shape[0] // len(call.options["cond_or_uncond"])

    def first(x):
        return x[::half].repeat_interleave(half, 0)

    q = adain(call.q, moments(first(call.q)))
    k = torch.cat([adain(call.k, moments(first(call.k))), first(call.k)], 1)
    v = torch.cat([call.v, first(call.v)], 1)
    q, k, v = (x.unflatten(-1, (call.heads, -1)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Bench:
    """One guided step of a batch, plain or shared."""

    def __init__(self, arguments):
        self.device = torch.device(arguments.device)
        dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        plain = model_of(arguments.family, self.device, dtype)
        width, side = FAMILIES[arguments.family][2], arguments.latent
        self.noise = torch.randn(arguments.batch, 4, side, side)
        pooled = {"pooled_output": torch.randn(1, 1280)}
        self.prompts = [[[torch.randn(1, 77, width), pooled]] for _ in range(2)]
        layers = frozenset(self_attention_layers(plain.model.diffusion_model))
        written_out = plain.clone()
        written_out.model_options = with_self_attention(written_out.model_options, layers, published)
        self.forms = {"plain": plain, "shared": shared(plain), "published": written_out}

    def step(self, form: str) -> None:
        guider = comfy.samplers.CFGGuider(self.forms[form])
        guider.set_conds(*self.prompts)
        guider.set_cfg(5.0)
        sampler = comfy.samplers.sampler_object("euler")
        sigmas = torch.tensor([5.0, 4.0])
        guider.sample(self.noise, torch.zeros_like(self.noise), sampler, sigmas, disable_pbar=True, seed=0)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def shared(model):
    """The model through the batch node as it comes."""
    node = {node.define_schema().node_id: node for node in NODES}["StylizeSharedAttentionBatch"]
    given = {one.id: one.default for one in node.define_schema().inputs if hasattr(one, "default")}
    return node.execute(model, **given).result[0]


def measured(action: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """(seconds, peak MiB on a GPU) of one action."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    return seconds, torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(FAMILIES), default="sd15")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--latent", type=int, default=64, help="side of the latent in cells")
    parser.add_argument("--batch", type=int, default=3, help="pictures, the first of which is the reference")
    arguments = parser.parse_args()
    with torch.inference_mode():
        bench = Bench(arguments)
        operations = {}
        for name in bench.forms:
            with FlopCounterMode(display=False) as counter:  # warms up too
                bench.step(name)
            operations[name] = counter.get_total_flops()
        found = {name: [] for name in bench.forms}
        for _ in range(ROUNDS):
            for name, rows in found.items():
                rows.append(measured(lambda name=name: bench.step(name), bench.device))
    plain_time = statistics.median(seconds for seconds, _ in found["plain"])
    lines = ["| form | operations, ratio | time, ratio | peak memory, ratio |", "|---|---|---|---|"]
    for name, rows in found.items():
        seconds = statistics.median(each for each, _ in rows)
        memory = f"{rows[0][1] / found['plain'][0][1]:.2f}" if rows[0][1] else "not measured"
        lines.append(
            f"| {name} | {operations[name] / operations['plain']:.3f} | {seconds / plain_time:.3f} | {memory} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
