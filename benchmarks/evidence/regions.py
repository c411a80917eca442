"""Regions: two parts of a picture in the styles of two paintings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..common import training_nodes
from ..common.case import Case
from ..common.cells import Record
from ..common.drawings import THINGS, drawn
from ..common.evidence import KEPT, Comparison, Evidence, Method
from ..common.host import DRAWINGS, Host, hint_of, host_of, paintings, scores
from ..common.nodes import through
from . import regions_page as page
from .regions_page import HEIGHT, PART, WIDTH

# isort: split
# found by their paths, once the host has put them in place
import numpy as np
import torch
from edges import agreement
from PIL import Image
from stylization.stylization_core.class_adapter import ClassAdapter
from stylization.stylization_core.rulers import content, style
from stylization.stylization_core.rulers.seam import seam

SAMPLING = {"steps": 20, "cfg": 5.0, "denoise": 1.0}
LEFT, RIGHT = slice(0, PART), slice(WIDTH - PART, WIDTH)
FREE = slice(PART + 8, WIDTH - PART - 8)
"""A cell of the latent away from the borders."""


@dataclass(frozen=True)
class Scene(Case):
    """A thing whose edges guide the ControlNet, and two paintings, one for each side.

    Attributes:
        guide: drawing of the thing.
        paintings: at twice the size of a part.
    """

    guide: Image.Image | None = None
    paintings: tuple[Image.Image, ...] = ()

    @property
    def hints(self) -> list[Image.Image]:
        return [hint_of(self.guide)]

    @cached_property
    def masks(self) -> list[torch.Tensor]:
        masks = []
        for part in (LEFT, RIGHT):
            mask = torch.zeros(1, HEIGHT, WIDTH)
            mask[..., part] = 1
            masks.append(mask)
        return masks

    @cached_property
    def references(self) -> list:
        return [self.reference_of(painting) for painting in self.paintings]

    @cached_property
    def regions(self):
        chain = None
        for mask, reference in zip(self.masks, self.references, strict=True):
            chain = through("StylizeRegion", mask, reference=reference, previous=chain)
        return chain

    @cached_property
    def latent(self) -> dict:
        """Of the picture without regions."""
        return self.sampled_latent(self.host.model)

    def sampled_latent(self, model, start: dict | None = None) -> dict:
        """LATENT of a run under the ControlNet, from noise unless a start is given."""
        prompts = self.conditionings(controlled=True)
        start = start or self.host.empty(1, (WIDTH, HEIGHT))
        return self.host.sampled(model, start, *prompts, seed=2000 + self.number, **SAMPLING)

    def made(self, model) -> Image.Image:
        """The picture of such a run."""
        return self.host.decoded(self.sampled_latent(model))


def adapted(**settings) -> Method:
    """Class-adaptive attention with both regions."""
    return lambda case: case.made(through("StylizeClassAdaptiveAttention", case.host.model, case.regions, **settings))


@lru_cache(maxsize=1)
def adapter(host: Host) -> ClassAdapter:
    """Trained once."""
    return training_nodes.trained(host, "StylizeTrainClassAdaptive", ClassAdapter, KEPT / "regions")


def with_adapter(case: Scene) -> Image.Image:
    """Attention mode with trained keys and values."""
    return adapted(adapter=adapter(case.host))(case)


def in_turn(case: Scene) -> Image.Image:
    """Attention mode, and holistic mode on what it gives."""
    model = case.host.model
    for mode in ("attention", "holistic"):
        model = through("StylizeClassAdaptiveAttention", model, case.regions, mode=mode)
    return case.made(model)


def masked_sharing(case: Scene) -> Image.Image:
    """Shared attention twice, each in its mask."""
    model = case.host.model
    for mask, reference in zip(case.masks, case.references, strict=True):
        model = through("StylizeSharedAttention", model, reference, mask=mask)
    return case.made(model)


def masked_injection(case: Scene) -> Image.Image:
    """The holistic injector twice, each in its mask."""
    model = case.host.model
    for mask, reference in zip(case.masks, case.references, strict=True):
        given = {"balance": "slider", "reference": reference, "mask": mask}
        model = through("StylizeHolisticInjector", model, **given)
    return case.made(model)


def composited(case: Scene) -> Image.Image:
    """The attention form put into the picture without regions."""
    pictures = [torch.from_numpy(scores.as_batch(picture)).float() for picture in (case.plain, adapted()(case))]
    result = through("StylizeRegionComposite", *pictures, case.regions)
    return Image.fromarray((result[0].numpy() * 255).round().astype(np.uint8))


def noise_masked(case: Scene) -> Image.Image:
    """The attention form within Set Latent Noise Mask, over the latent without regions."""
    masks = (case.masks[0] + case.masks[1]).clamp(max=1)
    model = through("StylizeClassAdaptiveAttention", case.host.model, case.regions)
    with torch.inference_mode():
        (start,) = case.host.stock["SetLatentNoiseMask"]().set_mask(case.latent, masks)
    return case.host.decoded(case.sampled_latent(model, start))


def pasted(case: Scene) -> Image.Image:
    """The paintings themselves in their parts: the bound that keeps nothing."""
    canvas = np.asarray(case.plain).copy()
    for part, painting in zip((LEFT, RIGHT), case.paintings, strict=True):
        canvas[:, part] = np.asarray(painting.resize((PART, HEIGHT), Image.LANCZOS))
    return Image.fromarray(canvas)


METHODS: dict[str, Method] = {
    "no regions": lambda case: case.plain,
    **{f"attention, adaptivity {value:g}": adapted(adaptivity=value) for value in (0.0, 2.0, 5.0, 20.0)},
    "attention, 64 tokens": adapted(tokens=64),
    "attention, strength 0.5": adapted(strength=0.5),
    "attention, late layers": adapted(layers="visual style prompting"),
    "holistic": adapted(mode="holistic"),
    "attention, trained": with_adapter,
    "attention + holistic": in_turn,
    "attention, noise mask": noise_masked,
    "attention, composite": composited,
    "injector in masks": masked_injection,
    "shared attention in masks": masked_sharing,
    "paintings pasted": pasted,
}


class Scenes(Comparison):
    """Scenes with two regions by methods."""

    def case(self, number: int) -> Scene:
        files, thing = paintings(), list(THINGS)[number % len(THINGS)]
        chosen = np.random.default_rng((15, number)).choice(sorted(files), 2, replace=False)
        return Scene(
            host=host_of(DRAWINGS),
            number=number,
            words=f"a {thing}",
            shown_words="painting",
            guide=drawn(thing, (16, number)).resize((WIDTH, HEIGHT), Image.LANCZOS),
            paintings=tuple(scores.opened(files[name], (PART * 2, HEIGHT * 2)) for name in chosen),
        )

    def strip(self, case: Scene, made: list[Image.Image]) -> list[Image.Image]:
        left, right = (painting.resize((PART, HEIGHT), Image.LANCZOS) for painting in case.paintings)
        return [left, *made, right]

    def measured(self, case: Scene, method: str, pictures: list[Image.Image]) -> Record:
        """What regions take from their paintings, and what happens elsewhere."""
        result, plain = (scores.as_batch(picture)[0] for picture in (pictures[1], case.plain))
        styles = [scores.as_batch(painting) for painting in case.paintings]
        parts = [result[None, :, part] for part in (LEFT, RIGHT)]
        apart = [[float(style.color_distance(part, painting)[0]) for painting in styles] for part in parts]
        change = np.abs(result - plain).mean((0, 2))
        inside = np.concatenate([change[LEFT], change[RIGHT]]).mean()
        return {
            "leakage": float(np.sqrt(apart[0][0] * apart[1][1] / (apart[0][1] * apart[1][0]))),
            "own color": (apart[0][0] + apart[1][1]) / 2,
            "outside / inside": float(change[FREE].mean() / inside) if inside > 0 else 0.0,
            "seam": float(seam(result[None], np.concatenate(case.masks).max(0))[0]),
            "edges": agreement(result.astype(np.float32), np.asarray(case.hints[0], np.float32) / 255),
            "structure": float(content.structure_similarity(plain[None], result[None])[0]),
        }


EVIDENCE = Evidence(page, {"regions": Scenes("regions", METHODS, page.CASES)})
