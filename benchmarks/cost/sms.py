"""What an iteration of Style Matching Score costs beside a step of the stock KSampler: time, model rows, peak memory.

    .host/env/environment/bin/python benchmarks/cost/run.py sms

Every mode runs in a process of its own, in turn, ROUNDS times; figures are medians. Peak memory is the process's, so
the stock row is the ground that the others stand on. The floor of an iteration is its model rows, each one forward of
the network; a row that is trained through counts three.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys

from ..common.case import Case, photograph
from ..common.host import PHOTOGRAPHS, host_of, photos, timed
from ..common.nodes import through
from .real_size import alone

ROUNDS, STEPS, WARMUP = 3, 8, 2
STOCK = "KSampler step, CFG"
MODES = {
    STOCK: None,
    "guidance, edit": {"guidance": "edit"},
    "guidance, add": {"guidance": "add"},
    "SMS, map once": {"relevance": "precomputed"},
    "SMS, live map": {"relevance": "live"},
    "SMS, live map, trained fake": {"relevance": "live", "fake_score": "trained"},
}


def measure(mode: str) -> dict[str, float]:
    """Seconds and model rows of one step, and peak memory in MiB, of one mode in this process."""
    host, photo = host_of(PHOTOGRAPHS), photograph(next(iter(photos())), PHOTOGRAPHS.size)
    case = Case(host, 0, "castle", photo, "riso")
    latent, prompts, given = case.latent, case.conditionings(styled=True), MODES[mode] or {}

    def run(steps: int):
        if mode == STOCK:
            return host.sampled(host.model, latent, *prompts, steps=steps, denoise=0.5)
        if "guidance" in given:
            guided = through("StylizeSMSGuidance", case.with_style, 1.0, given["guidance"], 0.0, 1.0)
            return host.sampled(guided, latent, *prompts, steps=steps, denoise=0.5)
        settings = {"seed": 1, "cfg": 2.0, "strength": 1.0, "step_size": 0.05, "spectrum": 1.0, "relevance_floor": 0.1}
        return through("StylizeSMS", case.with_style, *prompts, latent, steps=steps, **settings, **given)

    def counted(steps: int) -> tuple[float, int]:
        host.rows = 0
        _, seconds = timed(lambda: run(steps))
        return seconds, host.rows

    counted(WARMUP)
    # the difference of two runs leaves out what a run costs once
    short, long = counted(WARMUP), counted(WARMUP + STEPS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": (long[0] - short[0]) / STEPS, "rows": (long[1] - short[1]) / STEPS, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=list(MODES), help="measure one mode in this process, as JSON")
    chosen = parser.parse_args()
    if chosen.mode:
        sys.stdout.write(json.dumps(measure(chosen.mode)) + "\n")
        return
    rounds = [{mode: alone("sms", "--mode", mode) for mode in MODES} for _ in range(ROUNDS)]
    middle = {
        mode: {key: statistics.median(by_mode[mode][key] for by_mode in rounds) for key in ("seconds", "rows", "peak")}
        for mode in MODES
    }
    lines = ["| mode | model rows a step | seconds a step | time beside KSampler | peak memory, MiB above KSampler |"]
    lines.append("|---|---|---|---|---|")
    for mode, row in middle.items():
        ratio, above = row["seconds"] / middle[STOCK]["seconds"], row["peak"] - middle[STOCK]["peak"]
        lines.append(f"| {mode} | {row['rows']:.1f} | {row['seconds']:.2f} | {ratio:.2f} | {above:+.0f} |")
    sys.stdout.write("\n".join(lines) + "\n")
