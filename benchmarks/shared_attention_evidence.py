"""Evidence for shared attention on the pocket model of drawings: sets of four pictures, beside their anchors.

    .host/env/environment/bin/python benchmarks/shared_attention_evidence.py   # make what is missing, then the report
    .host/env/environment/bin/python benchmarks/shared_attention_evidence.py --only report   # from what is kept

A cell is one set by one method. Its pictures and its record stay in .host/evidence/shared_attention and are not made
again; remove that folder after the weights changed. Writes docs/shared_attention_evidence.md and pictures beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pocket_host as pocket
import torch
from drawings_host import SIZE, THINGS, Drawings, Look, Words, agreement, drawn, hint_of, paintings
from PIL import Image
from pocket_host import scores

# isort: split
# found by their paths, once pocket_host has put them in place
import comfy.sample
import comfy.samplers
from cells import Cells
from shared_attention_report import write_report
from stylization.stylization_core.rulers import content, style
from stylization_host import comfy_tree

KEPT = comfy_tree.HOST / "evidence" / "shared_attention"
INVERSION = KEPT / "inversion.json"
SETS, ROWS = 24, 4
SAMPLING = {"steps": 20, "cfg": 5.0, "denoise": 1.0}
CONTROL = 0.8
DEFAULTS = {
    "weight": 1.0,
    "score_scale": 1.0,
    "adain_queries": 1.0,
    "adain_keys": 1.0,
    "mode": "share",
    "layers": "all",
    "custom_layers": "",
    "halves": "both",
    "share_norms": False,
    "start_percent": 0.0,
    "end_percent": 1.0,
}
PLAIN = {"adain_queries": 0.0, "adain_keys": 0.0}


@dataclass(frozen=True)
class Case:
    """One set: four things, a seed, a painting, and a drawing of each thing whose edges guide the ControlNet."""

    host: Drawings
    number: int

    @cached_property
    def things(self) -> list[str]:
        rng = np.random.default_rng((5, self.number))
        return [str(thing) for thing in rng.choice(list(THINGS), ROWS, replace=False)]

    @cached_property
    def guides(self) -> list[Image.Image]:
        return [drawn(thing, (6, self.number, row)) for row, thing in enumerate(self.things)]

    @cached_property
    def painting(self) -> Image.Image:
        found = paintings()
        return scores.opened(found[sorted(found)[self.number % len(found)]], (SIZE, SIZE))

    @cached_property
    def prompts(self):
        return self.host.series([f"a {thing}" for thing in self.things]), self.host.text("")

    def sampled(self, model, controlled: bool = False) -> list[Image.Image]:
        positive, negative = self.prompts
        if controlled:
            hints = [hint_of(picture) for picture in self.guides]
            positive, negative = self.host.controlled(positive, negative, hints, CONTROL)
        seed = 1000 + self.number
        return self.host.decoded_all(
            self.host.sampled(model, self.host.empty(ROWS), positive, negative, seed=seed, **SAMPLING)
        )

    def noised(self):
        """REFERENCE of the painting, noised at use."""
        host = self.host
        return host.node(
            "StylizeReference",
            1.0,
            self.number,
            latent=host.encoded(self.painting),
            positive=host.text("painting"),
            negative=host.text(""),
        )

    def inverted(self):
        """REFERENCE of the painting, inverted over the run's own levels."""
        host = self.host
        sigmas = host.levels(SAMPLING["steps"])
        given = host.encoded(self.painting), host.text("painting"), host.text(""), sigmas
        return host.node("StylizeInvertReference", host.model, *given, 1.0, 1, 1.0)


Made = Callable[[Case], list[Image.Image]]


def alone(controlled: bool = False) -> Made:
    """The stock way."""
    return lambda case: case.sampled(case.host.model, controlled)


def batch(controlled: bool = False, **settings) -> Made:
    """With the first picture of the batch."""

    def run(case: Case) -> list[Image.Image]:
        model = case.host.node(
            "StylizeSharedAttentionBatch", case.host.model, **{**DEFAULTS, **settings}, control_first=controlled
        )
        return case.sampled(model, controlled)

    return run


def from_painting(inverted: bool, controlled: bool = False, **settings) -> Made:
    """With a painting as reference."""

    def run(case: Case) -> list[Image.Image]:
        reference = case.inverted() if inverted else case.noised()
        model = case.host.node("StylizeSharedAttention", case.host.model, reference, **{**DEFAULTS, **settings})
        return case.sampled(model, controlled)

    return run


def injected(mode: str, layers: str = "all") -> Made:
    """With the statistics of a painting, for comparison."""

    def run(case: Case) -> list[Image.Image]:
        settings = {
            "strength": 1.0,
            "balance": "slider",
            "tone": 0.0,
            "mode": mode,
            "layers": layers,
            "custom_layers": "",
            "negative_ratio": 1.0,
            "start_percent": 0.0,
            "end_percent": 1.0,
        }
        node = case.host.node("StylizeHolisticInjector", case.host.model, **settings, reference=case.noised())
        return case.sampled(node)

    return run


def true_set(case: Case) -> list[Image.Image]:
    """Drawings in one look: how consistent a set can be that still shows four things."""
    rng = np.random.default_rng((7, case.number))
    look = Look(rng)
    return [drawn(thing, (8, case.number, row), look) for row, thing in enumerate(case.things)]


def repeated(case: Case) -> list[Image.Image]:
    """The set's first picture four times: all style and no prompt."""
    return [alone()(case)[0]] * ROWS


def painting_itself(case: Case) -> list[Image.Image]:
    """The painting four times."""
    return [case.painting] * ROWS


METHODS: dict[str, Made] = {
    "no sharing": alone(),
    "shared": batch(),
    "shared, no AdaIN": batch(**PLAIN),
    "shared, weight 0.5": batch(weight=0.5),
    "shared, weight 2": batch(weight=2.0),
    "shared, weight 4": batch(weight=4.0),
    "shared, score scale 0.5": batch(score_scale=0.5),
    "shared + norms": batch(share_norms=True),
    "swap": batch(mode="swap"),
    "full sharing": batch(mode="full"),
    "painting, noised": from_painting(False),
    "painting, noised, weight 2": from_painting(False, weight=2.0),
    "painting, noised, no AdaIN": from_painting(False, **PLAIN),
    "painting, noised, weight 2 + norms": from_painting(False, weight=2.0, share_norms=True),
    "painting, inverted": from_painting(True),
    "painting, inverted, weight 2": from_painting(True, weight=2.0),
    "painting, inverted, weight 2 + norms": from_painting(True, weight=2.0, share_norms=True),
    "painting, holistic, moments": injected("moments"),
    "painting, holistic, quantiles": injected("quantiles"),
    "ControlNet": alone(True),
    "ControlNet, shared": batch(True),
    "ControlNet, shared, no AdaIN": batch(True, **PLAIN),
    "ControlNet, full sharing": batch(True, mode="full"),
    "ControlNet, painting, noised": from_painting(False, True),
    "ControlNet, painting, inverted": from_painting(True, True),
    "drawn in one look": true_set,
    "first repeated": repeated,
    "painting repeated": painting_itself,
}


CELLS = Cells(KEPT, tuple(METHODS), SETS)


def measured(case: Case, words: Words, pictures: list[Image.Image]) -> dict[str, float]:
    """A set's rulers."""
    shown = scores.as_batch(*pictures)
    apart = style.set_distance(shown)
    painting, first = scores.as_batch(case.painting), shown[:1]
    edges = [
        agreement(np.asarray(p, np.float32) / 255, np.asarray(hint_of(g), np.float32) / 255)
        for p, g in zip(pictures, case.guides, strict=True)
    ]
    return {
        "set color": apart.color,
        "set texture": apart.texture,
        "prompt": words.recognised(pictures, case.things),
        "painting color": float(style.color_distance(shown, painting).mean()),
        "painting texture": float(style.texture_distance(shown, painting).mean()),
        "copied layout": float(content.structure_similarity(first, shown[1:]).mean()),
        "edges": float(np.mean(edges)),
    }


def make(methods: list[str]) -> None:
    """Make the cells that are not kept yet."""
    host, words = Drawings(), Words()

    def run(number: int, method: str) -> tuple[list[Image.Image], dict]:
        case, host.rows = Case(host, number), 0
        pictures = METHODS[method](case)
        return pictures, {**measured(case, words, pictures), "model rows": host.rows}

    CELLS.make(methods, run)


def inversion_errors() -> dict[str, dict[int, dict[str, float]]]:
    """Error of the way back from an inversion, by refinements, then by steps: means over the paintings."""
    host, found = Drawings(), {}
    for refinements in (0, 1, 3):
        found[f"{refinements}"] = {}
        for steps in (5, 10, 20, 50):
            rows = [inversion_error(host, path, steps, refinements) for path in paintings().values()]
            found[f"{refinements}"][steps] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            pocket.say(f"inversion {refinements} {steps} {found[str(refinements)][steps]}")
    return found


def inversion_error(host: Drawings, path: Path, steps: int, refinements: int) -> dict[str, float]:
    """Walk a painting up and, with Euler over the same levels, down again."""
    latent = host.encoded(scores.opened(path, (SIZE, SIZE)))
    positive, negative = host.text("painting"), host.text("")
    with torch.inference_mode():
        sigmas = host.levels(steps)
        (reference,) = (
            host.nodes["StylizeInvertReference"]
            .execute(host.model, latent, positive, negative, sigmas, 1.0, refinements, 1.0)
            .result[0]
        )
        sampler = comfy.samplers.sampler_object("euler")
        start = reference.trajectory.at(float(sigmas[0]))
        # of this noise and zeros the sampler makes the end of the path
        zeros, noise = torch.zeros_like(start), start / float(sigmas[0])
        back = comfy.sample.sample_custom(host.model, noise, 1.0, sampler, sigmas, positive, negative, zeros, seed=0)
    error = (back - latent["samples"]).pow(2).mean().sqrt() / latent["samples"].std()
    picture = np.asarray(host.decoded({"samples": back}), float)
    plain = np.asarray(host.decoded(latent), float)
    psnr = 10 * np.log10(255**2 / max(((picture - plain) ** 2).mean(), 1e-9))
    return {"error": float(error), "psnr": float(psnr)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--only", choices=("cells", "inversion", "report"), help="one part of the work; default all")
    chosen = parser.parse_args()
    if chosen.only in (None, "cells"):
        make(chosen.methods)
    if chosen.only in (None, "inversion"):
        KEPT.mkdir(parents=True, exist_ok=True)
        INVERSION.write_text(json.dumps(inversion_errors(), indent=1) + "\n", encoding="utf-8")
    if chosen.only in (None, "report"):
        write_report(CELLS, json.loads(INVERSION.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
