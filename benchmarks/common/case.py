"""What an evidence compares on: something to show, a style, and the host that makes pictures of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from .host import Host, hint_of, photos, scores, words
from .nodes import through

THINGS = {
    "berlin_cathedral": "cathedral",
    "chateaude_chenonceau": "castle",
    "colosseum": "gate",
    "golden_temple": "temple",
    "great_pyramid_of_giza": "pyramid",
    "great_wallof_china": "mountain",
    "lincoln_memorial": "temple",
    "machu_picchu": "mountain",
    "mysore_palace": "castle",
    "neuschwanstein_castle": "castle",
    "pontdu_gard": "gate",
    "rocamadour": "city",
}
"""The held-out photographs, and what the denoiser of drawings calls what they show."""


@dataclass(frozen=True)
class Case:
    """One case of an evidence.

    Attributes:
        host: the pocket model.
        number: among the cases.
        words: what the picture shows, without its style.
        photo: at the size that is sampled; None where pictures are made from noise.
        style: the LoRA's, or empty.
        shown: a picture of the style, at the size of the photo.
        shown_words: what describes that one.
        cfg: of its runs.
    """

    host: Host
    number: int
    words: str
    photo: Image.Image | None = None
    style: str = ""
    shown: Image.Image | None = None
    shown_words: str = ""
    cfg: float = 2.0

    # content

    @cached_property
    def latent(self) -> dict:
        return self.host.encoded(self.photo)

    @cached_property
    def plain(self) -> Image.Image:
        """The photograph through the VAE, from which style counts."""
        return self.host.decoded(self.latent)

    @property
    def hints(self) -> list[Image.Image]:
        """Edges that the ControlNet is given."""
        return [hint_of(self.photo)]

    # style

    @cached_property
    def reference(self):
        """REFERENCE of the shown picture, noised at use."""
        return self.reference_of(self.shown)

    def reference_of(self, picture: Image.Image, **settings):
        """REFERENCE of a picture, in the words for what is shown."""
        described = {"positive": self.host.text(self.shown_words), "negative": self.host.text("")}
        return through("StylizeReference", latent=self.host.encoded(picture), **described, **settings)

    @property
    def with_style(self):
        """The MODEL with the style beside it, as Stylize Style LoRA gives it."""
        return through("StylizeStyleLoRA", self.host.model, f"pocket_{self.style}.safetensors", 1.0, 0.0)

    # runs

    def conditionings(self, controlled: bool = False, styled: bool = False, control: float = 1.0) -> tuple:
        """Positive and negative; ``styled`` puts the LoRA's trigger before the words."""
        shown = f"{self.style} style, {self.words}" if styled else self.words
        positive, negative = self.host.text(shown), self.host.text("")
        return self.host.controlled(positive, negative, self.hints, control) if controlled else (positive, negative)

    def sampled(
        self, model, controlled: bool = False, styled: bool = False, latent: dict | None = None, **settings
    ) -> Image.Image:
        """Image to image by the stock KSampler, as a picture."""
        prompts = self.conditionings(controlled, styled)
        given = {"cfg": self.cfg, **settings}
        return self.host.decoded(self.host.sampled(model, latent or self.latent, *prompts, **given))


def photograph(name: str, size: tuple[int, int]) -> Image.Image:
    """A held-out photograph, cut to a size."""
    return scores.opened(photos()[name], size)


def words_of(name: str, things: bool) -> str:
    """What a held-out photograph shows: by its name, or as a thing that the denoiser of drawings knows."""
    return f"a {THINGS[name]}" if things else words(name)
