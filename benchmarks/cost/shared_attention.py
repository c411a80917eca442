"""What shared attention costs beside the same batch without it: time, floating-point operations, peak memory.

    .host/env/environment/bin/python benchmarks/cost/run.py shared_attention         # SD 1.5 size on the CPU
    .host/env/environment/bin/python benchmarks/cost/run.py shared_attention --family sdxl --device cuda --latent 128

Networks of the real size with random weights; one guided step of a batch whose first picture is the reference.
The floor is the operations that the formula needs: those of the plain batch, and attention of every other picture to
twice the tokens. The published form duplicates the reference's keys for the reference too and writes all logits out.
"""

from __future__ import annotations

import torch

from ..common.nodes import through
from . import real_size
from .real_size import RealSize, parser_of

# isort: split
# found by their paths, once the host has put them in place
from stylization.stylization_core.hosts.comfyui.model import self_attention_layers, with_self_attention
from stylization.stylization_core.shared_attention import adain, moments

FORMS = ("plain", "shared", "published")


def published(call, attend):
    """The published formulation for [uncond, cond] chunks: every row gets the reference, logits are written out."""
    chunk = call.q.shape[0] // len(call.options["cond_or_uncond"])

    def first(x):
        return x[::chunk].repeat_interleave(chunk, 0)

    q = adain(call.q, moments(first(call.q)))
    k = torch.cat([adain(call.k, moments(first(call.k))), first(call.k)], 1)
    v = torch.cat([call.v, first(call.v)], 1)
    q, k, v = (x.unflatten(-1, (call.heads, -1)).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def written_out(model):
    """The model with the published formulation in every self-attention."""
    clone = model.clone()
    layers = frozenset(self_attention_layers(model.model.diffusion_model))
    clone.model_options = with_self_attention(clone.model_options, layers, published)
    return clone


def main() -> None:
    arguments = parser_of(__doc__, 3, FORMS).parse_args()
    with torch.inference_mode():
        bench = RealSize(arguments)
        models = bench.model, through("StylizeSharedAttentionBatch", bench.model), written_out(bench.model)
        real_size.report("shared_attention", bench, dict(zip(FORMS, models, strict=True)), arguments)
