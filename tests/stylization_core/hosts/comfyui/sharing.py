"""Runs that share self-attention, what the network's layers saw in them, and the published formulas in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from stylization.stylization_core.hosts.comfyui.attention.run import with_attention_run
from stylization.stylization_core.hosts.comfyui.attention.settings import (
    SHARED,
    SHARED_BATCH,
    SharedAttention,
    SharedBatch,
    Sharing,
)
from stylization.stylization_core.hosts.comfyui.model.attachments import attach_more, attach_once
from stylization.stylization_core.hosts.comfyui.model.layers import chosen_layers
from stylization.stylization_core.hosts.comfyui.references.reference import Reference, Trajectory
from stylization.stylization_core.randomness import stream

from . import ordinary, runs

HEADS = 8
SIGMA = 0.7
NEVER = {"start": 1.0, "end": 0.0}
"""A window that is never entered."""

Name = tuple[str, int, int]
_BLOCK = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.(?:\d+\.)?transformer_blocks\.(\d+)")


# what the nodes do


def reference(*shape: int, draw: int = 21, **given) -> Reference:
    """A reference of one picture of 112x80 pixels, or of another shape."""
    return Reference(runs.drawn(*(shape or (1, 4, 10, 14)), seed=draw), **given)


def described(**given) -> Reference:
    """A reference with prompts of its own."""
    return reference(positive=runs.conditioning(5), negative=runs.conditioning(6), **given)


def shared(model, *references: Reference, mask=None, layers: str = "all", custom: str = "", **how):
    """MODEL that shares with references (one of another size than the picture if none is given)."""
    chosen = chosen_layers(model.model.diffusion_model, layers, custom)
    settings = SharedAttention(
        references or (described(),), Sharing(chosen, node="Stylize Shared Attention", **how), mask
    )
    return with_attention_run(attach_more(model, SHARED, settings))


def in_batch(model, *, full: bool = False, uncontrolled: bool = True, layers: str = "all", custom: str = "", **how):
    """MODEL whose pictures share with the first of their batch."""
    chosen = chosen_layers(model.model.diffusion_model, layers, custom)
    settings = SharedBatch(Sharing(chosen, node="Stylize Shared Attention (Batch)", **how), full, uncontrolled)
    return with_attention_run(attach_once(model, SHARED_BATCH, settings, settings.node))


def noised(model, one: Reference, sigma: float = SIGMA) -> torch.Tensor:
    """The reference at a level, in model scale."""
    noise = torch.randn(one.samples.shape, generator=stream(one.seed, "reference"))
    return model.model.process_latent_in(one.samples) + sigma * noise


def straight_trajectory(model, one: Reference, top: float = 20.0) -> Trajectory:
    """A made-up path with a bend, whose points are no noised latents."""
    clean, far = model.model.process_latent_in(one.samples), runs.drawn(*one.samples.shape, seed=77)
    levels = torch.tensor([0.0, 0.4, 1.1, 5.0, top])
    return Trajectory(levels, torch.stack([clean + level**0.8 * far for level in levels.tolist()]))


# what the network sees


@dataclass
class Attention:
    """One self-attention: projections (B, N, C) and output before ``to_out``."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor

    def chunks(self, count: int) -> list[Attention]:
        parts = (each.chunk(count) for each in (self.q, self.k, self.v, self.out))
        return [Attention(*each) for each in zip(*parts, strict=True)]

    def rows(self, rows: slice) -> Attention:
        return Attention(self.q[rows], self.k[rows], self.v[rows], self.out[rows])


def blocks(model) -> dict[Name, torch.nn.Module]:
    """Transformer blocks of a UNet as ComfyUI names them: ("input", 4, 0)."""
    found = {}
    for name, module in model.model.diffusion_model.named_modules():
        match = _BLOCK.fullmatch(name)
        if match:
            stage, number, index = match.groups()
            found[stage, 0 if stage == "middle" else int(number), int(index)] = module
    return found


@contextmanager
def watched(model) -> Iterator[dict[Name, list[Attention]]]:
    """Every self-attention of the network meanwhile, by layer, in order; by hooks of its own."""
    seen: dict[Name, list[Attention]] = {name: [] for name in blocks(model)}
    handles, last = [], {}

    def projection(part: str):
        return lambda module, given, out: last.__setitem__(part, out.detach().clone())

    def finish(name: Name):
        return lambda module, given: seen[name].append(Attention(**last, out=given[0].detach().clone()))

    try:
        for name, block in blocks(model).items():
            handles += [getattr(block.attn1, f"to_{part}").register_forward_hook(projection(part)) for part in "qkv"]
            handles.append(block.attn1.to_out.register_forward_pre_hook(finish(name)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def features(model, conditioning: list, x: torch.Tensor, sigma: float = SIGMA) -> dict[Name, Attention]:
    """What the layers see of ``x`` (model scale) alone, in the unpatched model."""
    with watched(model) as seen:
        runs.plain(model, {"positive": conditioning}, x, sigma)
    return {name: calls[-1] for name, calls in seen.items()}


def step_layers(model, source: torch.Tensor, **run) -> dict[Name, list[tuple[int, Attention]]]:
    """What the layers saw in one step at SIGMA: (index of the conditioning, attention) of each chunk."""
    recorded, calls = runs.recording(model)
    with watched(model) as seen:
        ordinary.one_step(recorded, source, **run)
    found = {}
    for name, passes in seen.items():
        own = zip(calls, passes[-len(calls) :], strict=True)
        found[name] = [
            (index, part)
            for (indexes, *_), one in own
            for index, part in zip(indexes, one.chunks(len(indexes)), strict=True)
        ]
    return found


def predictions(model, source: torch.Tensor, **run) -> list[torch.Tensor]:
    """Denoised predictions (positive, negative) of one step at SIGMA."""
    found: list[torch.Tensor] = []
    asked = model.clone()

    def keep(args):
        found[:] = [one.clone() for one in args["conds_out"]]
        return args["conds_out"]

    asked.set_model_sampler_pre_cfg_function(keep)
    ordinary.one_step(asked, source, **run)
    return found


def asked(monkeypatch, model) -> list[tuple[torch.Tensor, float, dict]]:
    """(x, sigma, other arguments) of every call of the model from here on, the references' included."""
    calls: list = []
    original = model.model.apply_model

    def note(x, t, *args, **kwargs):
        calls.append((x.clone(), float(t.max()), kwargs))
        return original(x, t, *args, **kwargs)

    monkeypatch.setattr(model.model, "apply_model", note)
    return calls


def by_layout(monkeypatch, model, call) -> list:
    """What ``call()`` returns with all chunks of ``model`` in one call, then each in one of its own."""
    together = call()
    with monkeypatch.context() as patch:
        runs.split_calls(patch, model)
        return [together, call()]


def note_predictions(model) -> tuple:
    """(clone, seen): a clone that notes (conditionings, predictions) of every question of a step."""
    seen: list = []

    def note(executor, inner, conds, *others):
        found = executor(inner, conds, *others)
        seen.append((conds, [one.clone() for one in found]))
        return found

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test.predictions", note)
    return clone, seen


# the published formulas


def attention64(q, k, v, bias=0.0, heads: int = HEADS) -> torch.Tensor:
    split = lambda x: x.double().unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    q, k, v = split(q), split(k), split(v)
    logits = q @ k.mT / math.sqrt(q.shape[-1]) + bias
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(-2)


def moments64(x: torch.Tensor, tokens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (plus 1e-5) of the tokens of x (1, N, C), or of those that a mask of 0 and 1 keeps."""
    x = x.double() if tokens is None else x.double()[:, tokens > 0]
    return x.mean(1, keepdim=True), x.var(1, keepdim=True) + 1e-5


def adain64(x: torch.Tensor, to: tuple, share: float = 1.0) -> torch.Tensor:
    x, (mean, var) = x.double(), to
    own_mean, own_var = x.mean(1, keepdim=True), x.var(1, keepdim=True) + 1e-5
    return x + share * ((x - own_mean) / own_var.sqrt() * var.sqrt() + mean - x)


def mixed64(parts: Sequence[tuple], weights: Sequence[float]) -> tuple:
    """Mean and variance of the union of populations."""
    shares = [weight / sum(weights) for weight in weights]
    mean = sum(share * mean for share, (mean, _) in zip(shares, parts, strict=True))
    var = sum(share * (var + (own - mean) ** 2) for share, (own, var) in zip(shares, parts, strict=True))
    return mean, var


def published(
    own: Attention,
    references: Sequence[Attention],
    weights: Sequence[float] = (1.0,),
    *,
    scale: float = 1.0,
    adain: tuple[float, float] = (1.0, 1.0),
    swap: bool = False,
    masks: Sequence[torch.Tensor | None] | None = None,
    heads: int = HEADS,
) -> torch.Tensor:
    """Output of a layer: AdaIN on Q and K, the references' tokens besides the own ones, ln m on their logits."""
    masks = masks or [None] * len(references)
    to = lambda part: mixed64(  # noqa: E731
        [moments64(getattr(one, part), mask) for one, mask in zip(references, masks, strict=True)], weights
    )
    q, k = adain64(own.q, to("q"), adain[0]), adain64(own.k, to("k"), adain[1])
    keys, values, biases = ([], [], []) if swap else ([k], [own.v.double()], [torch.zeros(k.shape[1])])
    for one, weight, mask in zip(references, weights, masks, strict=True):
        mass = torch.full((one.k.shape[1],), weight) if mask is None else weight * mask
        keys.append(scale * one.k.double().expand(len(q), -1, -1))
        values.append(one.v.double().expand(len(q), -1, -1))
        biases.append(mass.log())
    return attention64(q, torch.cat(keys, 1), torch.cat(values, 1), torch.cat(biases).double(), heads)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference in units of the largest value."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


def guider(kind: type, model, *conditionings, **settings) -> comfy.samplers.CFGGuider:
    """A guider of ComfyUI's extra nodes."""
    made = kind(model)
    made.set_conds(*conditionings)
    made.set_cfg(**settings)
    return made


def passes(calls, reference) -> list[tuple[float, int]]:
    """(level, rows) of the reference's calls, which its size tells from the run's."""
    return [(sigma, len(x)) for x, sigma, _ in calls if x.shape[-2:] == reference.samples.shape[-2:]]
