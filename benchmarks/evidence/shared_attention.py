"""Shared attention: sets of four pictures in one style, beside their anchors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..common.case import Case
from ..common.cells import Record, say
from ..common.drawings import SIZE, THINGS, Look, Words, drawn
from ..common.evidence import KEPT, Comparison, Evidence, Method
from ..common.host import DRAWINGS, Host, hint_of, host_of, paintings, scores
from ..common.nodes import through
from . import shared_attention_page as page

# isort: split
# found by their paths, once the host has put them in place
import comfy.sample
import comfy.samplers
import numpy as np
import torch
from edges import agreement
from PIL import Image
from stylization.stylization_core.rulers import content, style

SETS, ROWS = 24, 4
SAMPLING = {"steps": 20, "cfg": 5.0, "denoise": 1.0}
CONTROL = 0.8
PLAIN = {"adain_queries": 0.0, "adain_keys": 0.0}
INVERSION = KEPT / "shared_attention" / "inversion.json"


@dataclass(frozen=True)
class Set(Case):
    """Four things, a painting, and a drawing of each thing whose edges guide the ControlNet.

    Attributes:
        things: what the pictures are to show.
        guides: their drawings.
    """

    things: tuple[str, ...] = ()
    guides: tuple[Image.Image, ...] = ()

    @property
    def hints(self) -> list[Image.Image]:
        return [hint_of(picture) for picture in self.guides]

    def made(self, model, controlled: bool = False) -> list[Image.Image]:
        """The pictures of a run from noise."""
        positive, negative = self._series(), self.host.text("")
        if controlled:
            positive, negative = self.host.controlled(positive, negative, self.hints, CONTROL)
        start = self.host.empty(ROWS, (SIZE, SIZE))
        latent = self.host.sampled(model, start, positive, negative, seed=1000 + self.number, **SAMPLING)
        return self.host.decoded_all(latent)

    def _series(self):
        """One CONDITIONING with a prompt per picture, through our node."""
        chain = self.host.text(f"a {self.things[0]}")
        for thing in self.things[1:]:
            chain = through("StylizeConditioningBatch", self.host.text(f"a {thing}"), previous=chain)
        return chain

    def noised(self):
        """REFERENCE of the painting, noised at use."""
        return self.reference_of(self.shown, seed=self.number)

    def inverted(self):
        """REFERENCE of the painting, inverted over the run's own levels."""
        host = self.host
        prompts = host.text(self.shown_words), host.text("")
        given = host.encoded(self.shown), *prompts, host.levels(SAMPLING["steps"])
        return through("StylizeInvertReference", host.model, *given, cfg=1.0, refinements=1)


def alone(controlled: bool = False) -> Method:
    """The stock way."""
    return lambda case: case.made(case.host.model, controlled)


def batch(controlled: bool = False, **settings) -> Method:
    """With the first picture of the batch."""

    def run(case: Set) -> list[Image.Image]:
        model = through("StylizeSharedAttentionBatch", case.host.model, **settings, control_first=controlled)
        return case.made(model, controlled)

    return run


def from_painting(inverted: bool, controlled: bool = False, **settings) -> Method:
    """With a painting as reference."""

    def run(case: Set) -> list[Image.Image]:
        reference = case.inverted() if inverted else case.noised()
        return case.made(through("StylizeSharedAttention", case.host.model, reference, **settings), controlled)

    return run


def injected(mode: str) -> Method:
    """With the statistics of a painting, for comparison."""

    def run(case: Set) -> list[Image.Image]:
        given = {"balance": "slider", "tone": 0.0, "mode": mode, "layers": "all", "reference": case.noised()}
        return case.made(through("StylizeHolisticInjector", case.host.model, **given))

    return run


def true_set(case: Set) -> list[Image.Image]:
    """Drawings in one look: how consistent a set can be that still shows four things."""
    look = Look(np.random.default_rng((7, case.number)))
    return [drawn(thing, (8, case.number, row), look) for row, thing in enumerate(case.things)]


def repeated(case: Set) -> list[Image.Image]:
    """The set's first picture four times: all style and no prompt."""
    return [alone()(case)[0]] * ROWS


def painting_itself(case: Set) -> list[Image.Image]:
    """The painting four times."""
    return [case.shown] * ROWS


METHODS: dict[str, Method] = {
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


class Sets(Comparison):
    """Sets of pictures by methods."""

    def __init__(self, folder: str):
        super().__init__(folder, METHODS, SETS)
        self._words: Words | None = None

    @property
    def words(self) -> Words:
        """Fitted once, where it is asked for."""
        self._words = self._words or Words()
        return self._words

    def case(self, number: int) -> Set:
        files = paintings()
        chosen = np.random.default_rng((5, number)).choice(list(THINGS), ROWS, replace=False)
        things = tuple(str(thing) for thing in chosen)
        return Set(
            host=host_of(DRAWINGS),
            number=number,
            words="",
            shown=scores.opened(files[sorted(files)[number % len(files)]], (SIZE, SIZE)),
            shown_words="painting",
            things=things,
            guides=tuple(drawn(thing, (6, number, row)) for row, thing in enumerate(things)),
        )

    def measured(self, case: Set, method: str, pictures: list[Image.Image]) -> Record:
        """How alike the pictures of a set are, what they show, how near they are to the painting."""
        shown = scores.as_batch(*pictures)
        apart = style.set_distance(shown)
        painting, first = scores.as_batch(case.shown), shown[:1]
        edges = [
            agreement(np.asarray(picture, np.float32) / 255, np.asarray(hint, np.float32) / 255)
            for picture, hint in zip(pictures, case.hints, strict=True)
        ]
        return {
            "set color": apart.color,
            "set texture": apart.texture,
            "prompt": self.words.recognised(pictures, case.things),
            "painting color": float(style.color_distance(shown, painting).mean()),
            "painting texture": float(style.texture_distance(shown, painting).mean()),
            "copied layout": float(content.structure_similarity(first, shown[1:]).mean()),
            "edges": float(np.mean(edges)),
        }


def inversion_errors() -> dict[str, dict[str, dict[str, float]]]:
    """Error of the way back from an inversion, by refinements, then by steps: means over the paintings."""
    host, errors = host_of(DRAWINGS), {}
    for refinements in (0, 1, 3):
        by_steps = errors[f"{refinements}"] = {}
        for steps in (5, 10, 20, 50):
            rows = [inversion_error(host, path, steps, refinements) for path in paintings().values()]
            by_steps[f"{steps}"] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            say(f"inversion {refinements} {steps} {by_steps[f'{steps}']}")
    return errors


def inversion_error(host: Host, path: Path, steps: int, refinements: int) -> dict[str, float]:
    """Walk a painting up and, with Euler over the same levels, down again."""
    latent = host.encoded(scores.opened(path, (SIZE, SIZE)))
    positive, negative, sigmas = host.text("painting"), host.text(""), host.levels(steps)
    given = {"cfg": 1.0, "refinements": refinements}
    (reference,) = through("StylizeInvertReference", host.model, latent, positive, negative, sigmas, **given)
    with torch.inference_mode():
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


class Sharing(Evidence):
    """With the errors of inversion."""

    def more(self) -> None:
        if not INVERSION.is_file():
            INVERSION.parent.mkdir(parents=True, exist_ok=True)
            INVERSION.write_text(json.dumps(inversion_errors(), indent=1) + "\n", encoding="utf-8")

    def summary(self) -> dict:
        known = json.loads(INVERSION.read_text(encoding="utf-8")) if INVERSION.is_file() else {}
        return super().summary() | {"inversion": known}


EVIDENCE = Sharing(page, {"shared_attention": Sets("shared_attention")})
