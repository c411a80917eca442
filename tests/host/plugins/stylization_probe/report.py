"""Output nodes that write tensors to ``output/probe`` and report the state of a loaded model as JSON text."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from safetensors.torch import load_file, save_file

from .disturb import KEY
from .inputs import CATEGORY

FOLDER = "probe"


def probe_file(name: str, suffix: str) -> Path:
    """``output/probe/<name><suffix>``; only letters, digits, ``_`` and ``-`` make a name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"The name {name!r} may hold letters, digits, _ and - only.")
    folder = Path(folder_paths.get_output_directory()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}{suffix}"


def shown(**found: object) -> io.NodeOutput:
    """Text for the client: ``outputs[node]["text"][0]`` is this as JSON."""
    return io.NodeOutput(ui={"text": [json.dumps(found)]})


class ProbeSaveTensor(io.ComfyNode):
    """Writes what is connected to ``output/probe/<name>.safetensors``: keys latent, noise_mask, image, mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeSaveTensor",
            category=CATEGORY,
            is_output_node=True,
            inputs=[
                io.String.Input("name", default="tensor"),
                io.Latent.Input("samples", optional=True),
                io.Image.Input("image", optional=True),
                io.Mask.Input("mask", optional=True),
            ],
        )

    @classmethod
    def execute(cls, name: str, samples=None, image=None, mask=None) -> io.NodeOutput:
        stated = samples or {}
        found = {"latent": stated.get("samples"), "noise_mask": stated.get("noise_mask"), "image": image, "mask": mask}
        tensors = {key: value.detach().cpu().contiguous() for key, value in found.items() if value is not None}
        if not tensors:
            raise ValueError("ProbeSaveTensor: connect samples, image or mask; there is nothing to write.")
        path = probe_file(name, ".safetensors")
        save_file(tensors, path)
        return shown(file=path.name, shapes={key: list(value.shape) for key, value in tensors.items()})


class ProbeLoadLatent(io.ComfyNode):
    """The latent that ProbeSaveTensor wrote under this name; read anew in every run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeLoadLatent",
            category=CATEGORY,
            not_idempotent=True,
            inputs=[io.String.Input("name", default="tensor")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        tensors = load_file(probe_file(name, ".safetensors"))
        found = {"samples": tensors["latent"], "noise_mask": tensors.get("noise_mask")}
        return io.NodeOutput({key: value for key, value in found.items() if value is not None})


class ProbeCompareLatents(io.ComfyNode):
    """Reports ``{"equal", "largest", "mean", "finite"}`` of two latents' difference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeCompareLatents",
            category=CATEGORY,
            is_output_node=True,
            inputs=[io.Latent.Input("first"), io.Latent.Input("second")],
        )

    @classmethod
    def execute(cls, first, second) -> io.NodeOutput:
        a, b = first["samples"].double(), second["samples"].double()
        gap = (a - b).abs()
        finite = bool(torch.isfinite(a).all() and torch.isfinite(b).all())
        return shown(equal=bool((a == b).all()), largest=float(gap.max()), mean=float(gap.mean()), finite=finite)


class ProbeRecordCalls(io.ComfyNode):
    """Writes one JSON line per call of the network to ``output/probe/<name>.jsonl``; each run starts a new file.

    Keys: ``cond_or_uncond``, ``rows``, ``sigma``, ``control`` (whether residuals came with the call), ``options`` (the
    keys of transformer_options).
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeRecordCalls",
            category=CATEGORY,
            inputs=[io.Model.Input("model"), io.String.Input("name", default="calls")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, name: str) -> io.NodeOutput:
        path = probe_file(name, ".jsonl")

        def start(executor, *args, **kwargs):
            path.write_text("", encoding="utf-8")
            return executor(*args, **kwargs)

        def record(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
            options = transformer_options or {}
            line = {
                "cond_or_uncond": list(options.get("cond_or_uncond", [])),
                "rows": x.shape[0],
                "sigma": float(t.flatten()[0]),
                "control": control is not None,
                "options": sorted(str(key) for key in options),
            }
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, f"{KEY}.record", start)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, f"{KEY}.record", record)
        return io.NodeOutput(patched)


class ProbeModelState(io.ComfyNode):
    """Reports what is left on a model. Compare the report before and after a run: nothing may differ.

    ``hooks`` counts forward hooks and pre-hooks of all modules, ``forwards`` names modules with a ``forward`` of their
    own, ``attributes`` is a digest of the attribute names of every module, ``weights`` one of all weights and buffers,
    ``options`` lists model_options and what is under its patches, wrappers and patches_replace. Connect ``after`` to
    what must have run before. ComfyUI loads the model first, so patches of its clones are taken back.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProbeModelState",
            category=CATEGORY,
            is_output_node=True,
            not_idempotent=True,
            inputs=[io.Model.Input("model"), io.AnyType.Input("after", optional=True)],
        )

    @classmethod
    def execute(cls, model, after=None) -> io.NodeOutput:
        comfy.model_management.load_models_gpu([model])
        return shown(**model_state(model))


def model_state(patcher) -> dict[str, object]:
    """The report of :class:`ProbeModelState` for a ModelPatcher."""
    modules = dict(patcher.model.named_modules())
    names = [(name, sorted(vars(module))) for name, module in modules.items()]
    tables = [table for module in modules.values() for table in (module._forward_hooks, module._forward_pre_hooks)]
    return {
        "hooks": sum(len(table) for table in tables),
        "forwards": sorted(name for name, module in modules.items() if "forward" in vars(module)),
        "attributes": hashlib.sha256(json.dumps(names).encode()).hexdigest(),
        "weights": weights_digest(patcher.model),
        "options": option_keys(patcher.model_options),
    }


def weights_digest(network: torch.nn.Module) -> int:
    """CRC-32 over the bytes of all parameters and buffers, in the order of their names."""
    crc = 0
    for name, value in sorted(network.state_dict(keep_vars=True).items()):
        data = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(data, zlib.crc32(name.encode(), crc))
    return crc


def option_keys(options: dict, depth: int = 4) -> dict[str, object]:
    """The keys of nested dicts, lists by their length, anything else by its type."""
    if depth == 0:
        return {}

    def seen(value: object) -> object:
        if isinstance(value, dict):
            return option_keys(value, depth - 1)
        return len(value) if isinstance(value, list | tuple) else type(value).__name__

    return {str(key): seen(value) for key, value in options.items()}


NODES = [ProbeSaveTensor, ProbeLoadLatent, ProbeCompareLatents, ProbeRecordCalls, ProbeModelState]
