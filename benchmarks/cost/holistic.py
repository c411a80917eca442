"""What the holistic injector and regions cost beside the same step without them, and how that grows with the pixels.

    .host/env/environment/bin/python benchmarks/cost/run.py holistic            # a whole step, SD 1.5 size, on the CPU
    .host/env/environment/bin/python benchmarks/cost/run.py holistic --growth   # one layer, 512 to 2048 pixels a side
    .host/env/environment/bin/python benchmarks/cost/run.py holistic --family sdxl --device cuda --latent 128

A whole step: networks of the real size with random weights, one guided step of one picture; what references give is in
their cache already, so a step asks nothing of the model twice. One layer: the finest self-attention of SD 1.5
(320 channels, 8 heads), the same tensors for every operator. The floor of an injection is its bytes: the features read
twice for the statistics, read once more and written.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable

import torch

from ..common.nodes import through
from . import real_size
from .real_size import ROUNDS, RealSize, parser_of

# isort: split
# found by their paths, once the host has put them in place
from stylization.stylization_core import class_adaptive, holistic
from stylization.stylization_core.shared_attention import Tokens, moments, shared_attention

FORMS = (
    "plain",
    "injector, moments, style block",
    "injector, moments, all layers",
    "injector, quantiles, all layers",
    "two regions, holistic",
    "two regions, attention",
    "shared attention",
)
CACHE = 4096  # MiB
CHANNELS, HEADS = 320, 8
SIDES = (512, 768, 1024, 1536, 2048)
SOME = 1024  # queries whose attention is measured; it grows with their number


def forms(bench: RealSize, family: str) -> dict[str, object]:
    """The model through each node."""
    latent, described = {"samples": torch.randn_like(bench.noise)}, RealSize.prompt(family)

    def reference():
        given = {"latent": latent, "positive": described, "negative": described, "cache_mib": CACHE}
        return through("StylizeReference", **given)

    def injector(mode: str, layers: str):
        return through("StylizeHolisticInjector", bench.model, mode=mode, layers=layers, reference=reference())

    def regions(mode: str):
        left = torch.zeros(1, 64, 64)
        left[..., :32] = 1
        first = through("StylizeRegion", left, reference=reference())
        both = through("StylizeRegion", 1 - left, reference=reference(), previous=first)
        return through("StylizeClassAdaptiveAttention", bench.model, both, mode=mode)

    models = (
        bench.model,
        injector("moments", "style block"),
        injector("moments", "all"),
        injector("quantiles", "all"),
        regions("holistic"),
        regions("attention"),
        through("StylizeSharedAttention", bench.model, reference()),
    )
    return dict(zip(FORMS, models, strict=True))


def timed(action: Callable[[], object]) -> float:
    """Median seconds of an action."""
    action()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def attend(q, k, v):
    """Fused attention of (B, N, C)."""
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def layer_times(side: int) -> dict[str, float]:
    """Seconds of every operator in one layer of a square picture of that side."""
    count = (side // 8) ** 2
    q, k, v, out, other = (torch.randn(1, count, CHANNELS) for _ in range(5))
    style, table = holistic.statistics(other), holistic.statistics(other, table=True)
    tokens = [class_adaptive.class_tokens(other[0, :512], v[0, :512]) for _ in range(2)]
    masks = torch.full((1, count, 2), 0.5)
    given = Tokens(k, v, moments(q), moments(k))
    some, share = q[:, :SOME], count / SOME

    def regions():
        seen = class_adaptive.class_attention(q, tokens, masks, HEADS, attend)
        return class_adaptive.blended(out, seen, masks, 1.0)

    floor = torch.empty_like(out)

    def bytes_alone():
        out.sum(1), out.sum(1), torch.add(out, 1.0, out=floor)

    return {
        "self-attention of the layer": share * timed(lambda: attend(some, k, v)),
        "shared attention": share * timed(lambda: shared_attention(some, k, v, [given], HEADS, attend)),
        "reference-only (keys of both, no statistics)": share
        * timed(lambda: attend(some, torch.cat([k, k], 1), torch.cat([v, v], 1))),
        "two regions, attention": timed(regions),
        "injector, quantiles": timed(lambda: holistic.injected(out, table)),
        "injector, moments": timed(lambda: holistic.injected(out, style)),
        "the injector's bytes alone": timed(bytes_alone),
    }


def growth() -> str:
    """Milliseconds by side, and the slope of their logarithm in the number of pixels."""
    times = {side: layer_times(side) for side in SIDES}
    names = list(times[SIDES[0]])
    lines = ["| operator | " + " | ".join(f"{side}²" for side in SIDES) + " | slope in pixels |"]
    lines.append("|---|" + "---|" * (len(SIDES) + 1))
    span = math.log((SIDES[-1] / SIDES[0]) ** 2)
    for name in names:
        slope = math.log(times[SIDES[-1]][name] / times[SIDES[0]][name]) / span
        cells = " | ".join(f"{times[side][name] * 1e3:.1f}" for side in SIDES)
        lines.append(f"| {name}, ms | {cells} | {slope:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__, 1, FORMS)
    parser.add_argument("--growth", action="store_true", help="one layer, by the size of the picture")
    arguments = parser.parse_args()
    with torch.inference_mode():
        if arguments.growth:
            sys.stdout.write(growth() + "\n")
            return
        bench = RealSize(arguments)
        real_size.report("holistic", bench, forms(bench, arguments.family), arguments)
