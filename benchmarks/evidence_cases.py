"""What the evidence compares on: a photograph and a style, on one of the pocket model's two denoisers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import pocket_host as pocket
import torch
from PIL import Image
from pocket_host import Pocket, hint_of, scores

# isort: split
# found by their paths, once pocket_host has put them in place
from holistic_evidence import THINGS
from real_size import through
from stylization.stylization_core.rulers.style import StyleTarget

PAIRS = 2
"""Styles that each photograph is given, of three."""

CASES = PAIRS * len(THINGS)
REFERENCE_SEED = 7
PHOTOGRAPHS, DRAWINGS = "photographs", "drawings"
SIZES = {PHOTOGRAPHS: pocket.SIZE, DRAWINGS: (192, 128)}


@dataclass(frozen=True)
class Case:
    """A photograph and a style: a LoRA of it, one picture of it as reference, and its other pictures to judge by."""

    host: Pocket
    model: str
    number: int

    @cached_property
    def name(self) -> str:
        return sorted(THINGS)[self.number // PAIRS]

    @cached_property
    def style(self) -> str:
        return pocket.STYLES[(self.number // PAIRS + self.number % PAIRS) % len(pocket.STYLES)]

    @cached_property
    def photo(self) -> Image.Image:
        return scores.opened(pocket.photos()[self.name], SIZES[self.model])

    @cached_property
    def reference_picture(self) -> Image.Image:
        shown = pocket.exemplars(self.style)
        return shown[(REFERENCE_SEED * self.number) % len(shown)]

    @cached_property
    def target(self) -> StyleTarget:
        return judges(self.style, (REFERENCE_SEED * self.number) % len(pocket.exemplars(self.style)), self.model)

    @cached_property
    def latent(self) -> dict:
        return self.host.encoded(self.photo)

    @cached_property
    def plain(self) -> Image.Image:
        """The photograph through the VAE, from which style counts."""
        return self.host.decoded(self.latent)

    @cached_property
    def reference_fitted(self) -> Image.Image:
        return scores.ImageOps.fit(self.reference_picture, self.photo.size, Image.LANCZOS)

    @cached_property
    def reference(self):
        described = {"positive": self.host.text(self.described), "negative": self.host.text("")}
        with torch.inference_mode():
            return through("StylizeReference", latent=self.host.encoded(self.reference_fitted), **described)

    @property
    def described(self) -> str:
        """Words for a picture without its style."""
        return pocket.words(self.name) if self.model == PHOTOGRAPHS else f"a {THINGS[self.name]}"

    def conditionings(self, controlled: bool, styled: bool):
        """Positive and negative; ``styled`` puts the LoRA's trigger before the words."""
        words = f"{self.style} style, {self.described}" if styled else self.described
        found = self.host.text(words), self.host.text("")
        return self.host.controlled(*found, [hint_of(self.photo)], 1.0) if controlled else found

    def sampled(self, model, controlled: bool, styled: bool = False, latent: dict | None = None, **settings):
        """Image to image by the stock KSampler, as a picture."""
        given = {"cfg": 2.0 if self.model == PHOTOGRAPHS else 3.0, **settings}
        prompts = self.conditionings(controlled, styled)
        return self.host.decoded(self.host.sampled(model, latent or self.latent, *prompts, **given))


@lru_cache(maxsize=64)
def judges(style: str, without: int, model: str) -> StyleTarget:
    """What the pictures of a style measure, without the one that is given as reference; at the results' scale."""
    shown = [one for number, one in enumerate(pocket.exemplars(style)) if number != without]
    share = SIZES[model][1] / SIZES[PHOTOGRAPHS][1]
    sized = [one.resize((round(one.width * share), round(one.height * share)), Image.LANCZOS) for one in shown]
    return StyleTarget.of(scores.as_batch(*sized))
