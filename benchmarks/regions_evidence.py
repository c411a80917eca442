"""Evidence for regions on the pocket model of drawings: two parts of a picture in the styles of two paintings.

    .host/env/environment/bin/python benchmarks/regions_evidence.py   # make what is missing, then the report
    .host/env/environment/bin/python benchmarks/regions_evidence.py --only report   # from what is kept

A cell is one picture by one method. It and its record stay in .host/evidence/regions and are not made again; remove
that folder after the weights changed. Writes docs/regions_evidence.md and a sheet beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pocket_host as pocket
import torch
from cells import Cells, command, means, paired, table
from drawings_host import THINGS, Drawings, agreement, drawn, hint_of, paintings
from PIL import Image
from pocket_host import ROOT, scores

# isort: split
# found by their paths, once pocket_host has put them in place
import training_nodes
from real_size import through
from stylization.stylization_core.class_adapter import ClassAdapter
from stylization.stylization_core.rulers import content, style
from stylization.stylization_core.rulers.seam import seam
from stylization_host import comfy_tree

CASES = 24
HEIGHT, WIDTH, PART = 96, 160, 64  # two parts at the sides, a free one between them
SAMPLING = {"steps": 20, "cfg": 5.0, "denoise": 1.0}
LEFT, RIGHT = slice(0, PART), slice(WIDTH - PART, WIDTH)
FREE = slice(PART + 8, WIDTH - PART - 8)  # a cell of the latent away from the borders
RULERS = ("leakage", "own color", "outside / inside", "seam", "edges", "structure")


@dataclass(frozen=True)
class Case:
    """A thing whose edges guide the ControlNet, and two paintings."""

    host: Drawings
    number: int

    @cached_property
    def thing(self) -> str:
        return list(THINGS)[self.number % len(THINGS)]

    @cached_property
    def guide(self) -> Image.Image:
        return drawn(self.thing, (16, self.number)).resize((WIDTH, HEIGHT), Image.LANCZOS)

    @cached_property
    def paintings(self) -> list[Image.Image]:
        found, rng = paintings(), np.random.default_rng((15, self.number))
        chosen = rng.choice(sorted(found), 2, replace=False)
        return [scores.opened(found[name], (PART * 2, HEIGHT * 2)) for name in chosen]

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
        host = self.host
        described = {"positive": host.text("painting"), "negative": host.text("")}
        with torch.inference_mode():
            return [through("StylizeReference", latent=host.encoded(one), **described) for one in self.paintings]

    @cached_property
    def regions(self):
        found = None
        for mask, reference in zip(self.masks, self.references, strict=True):
            found = through("StylizeRegion", mask, reference=reference, previous=found)
        return found

    @cached_property
    def plain_latent(self) -> dict:
        return self.latent(self.host.model)

    @cached_property
    def plain(self) -> Image.Image:
        return self.host.decoded(self.plain_latent)

    def latent(self, model, start: dict | None = None) -> dict:
        host = self.host
        prompts = host.controlled(host.text(f"a {self.thing}"), host.text(""), [hint_of(self.guide)], 1.0)
        start = start or {"samples": torch.zeros(1, 16, HEIGHT // 8, WIDTH // 8)}
        return host.sampled(model, start, *prompts, seed=2000 + self.number, **SAMPLING)

    def sampled(self, model) -> Image.Image:
        return self.host.decoded(self.latent(model))


Made = Callable[[Case], Image.Image]


def adapted(**settings) -> Made:
    """Class-adaptive attention with both regions."""

    def run(case: Case) -> Image.Image:
        with torch.inference_mode():
            return case.sampled(through("StylizeClassAdaptiveAttention", case.host.model, case.regions, **settings))

    return run


@lru_cache(maxsize=1)
def adapter(host: Drawings) -> ClassAdapter:
    """Trained once."""
    return training_nodes.trained(host, "StylizeTrainClassAdaptive", ClassAdapter, CELLS.folder)


def with_adapter(case: Case) -> Image.Image:
    """Attention mode with trained keys and values."""
    return adapted(adapter=adapter(case.host))(case)


def in_turn(case: Case) -> Image.Image:
    """Attention mode, and holistic mode on what it gives."""
    model = case.host.model
    with torch.inference_mode():
        for mode in ("attention", "holistic"):
            model = through("StylizeClassAdaptiveAttention", model, case.regions, mode=mode)
    return case.sampled(model)


def masked_sharing(case: Case) -> Image.Image:
    """Shared attention twice, each in its mask."""
    model = case.host.model
    with torch.inference_mode():
        for mask, reference in zip(case.masks, case.references, strict=True):
            model = through("StylizeSharedAttention", model, reference, mask=mask)
    return case.sampled(model)


def masked_injection(case: Case) -> Image.Image:
    """The holistic injector twice, each in its mask."""
    model = case.host.model
    with torch.inference_mode():
        for mask, reference in zip(case.masks, case.references, strict=True):
            given = {"balance": "slider", "reference": reference, "mask": mask}
            model = through("StylizeHolisticInjector", model, **given)
    return case.sampled(model)


def composited(case: Case) -> Image.Image:
    """The attention form put into the picture without regions."""
    pictures = [torch.from_numpy(scores.as_batch(one)).float() for one in (case.plain, adapted()(case))]
    with torch.inference_mode():
        found = through("StylizeRegionComposite", *pictures, case.regions)
    return Image.fromarray((found[0].numpy() * 255).round().astype(np.uint8))


def noise_masked(case: Case) -> Image.Image:
    """The attention form within Set Latent Noise Mask, over the latent without regions."""
    masks = (case.masks[0] + case.masks[1]).clamp(max=1)
    with torch.inference_mode():
        model = through("StylizeClassAdaptiveAttention", case.host.model, case.regions)
        (start,) = case.host.stock["SetLatentNoiseMask"]().set_mask(case.plain_latent, masks)
    return case.host.decoded(case.latent(model, start))


def pasted(case: Case) -> Image.Image:
    """The paintings themselves in their parts: the bound that keeps nothing."""
    canvas = np.asarray(case.plain).copy()
    for part, painting in zip((LEFT, RIGHT), case.paintings, strict=True):
        canvas[:, part] = np.asarray(painting.resize((PART, HEIGHT), Image.LANCZOS))
    return Image.fromarray(canvas)


METHODS: dict[str, Made] = {
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
CELLS = Cells(comfy_tree.HOST / "evidence" / "regions", tuple(METHODS), CASES)


def measured(case: Case, picture: Image.Image) -> dict[str, float]:
    """What regions take from their paintings, and what happens elsewhere."""
    found, plain = (scores.as_batch(one)[0] for one in (picture, case.plain))
    styles = [scores.as_batch(one) for one in case.paintings]
    parts = [found[None, :, part] for part in (LEFT, RIGHT)]
    apart = [[float(style.color_distance(part, one)[0]) for one in styles] for part in parts]
    change = np.abs(found - plain).mean((0, 2))
    inside = np.concatenate([change[LEFT], change[RIGHT]]).mean()
    return {
        "leakage": float(np.sqrt(apart[0][0] * apart[1][1] / (apart[0][1] * apart[1][0]))),
        "own color": (apart[0][0] + apart[1][1]) / 2,
        "outside / inside": float(change[FREE].mean() / inside) if inside > 0 else 0.0,
        "seam": float(seam(found[None], np.concatenate(case.masks).max(0))[0]),
        "edges": agreement(found.astype(np.float32), np.asarray(hint_of(case.guide), np.float32) / 255),
        "structure": float(content.structure_similarity(plain[None], found[None])[0]),
    }


def make(methods: list[str]) -> None:
    """Make the cells that are not kept yet."""
    host, cases = Drawings(), {}

    def run(number: int, method: str) -> tuple[list[Image.Image], dict]:
        case = cases.setdefault(number, Case(host, number))
        picture = METHODS[method](case)
        left, right = (one.resize((PART, HEIGHT), Image.LANCZOS) for one in case.paintings)
        return [left, picture, right], measured(case, picture)

    CELLS.make(methods, run)


SHOWN = (
    *("no regions", "attention, adaptivity 0", "attention, adaptivity 5", "attention, noise mask"),
    *("holistic", "attention + holistic", "shared attention in masks"),
)
ALL = ("leakage", "own color", "outside / inside", "seam", "edges")
PAIRS = (
    ("attention, adaptivity 5", "no regions", ("leakage", "own color", "seam", "edges")),
    ("attention, adaptivity 5", "attention, adaptivity 0", ALL),
    ("attention, adaptivity 20", "attention, adaptivity 5", ALL),
    ("holistic", "attention, adaptivity 5", ALL),
    ("attention, trained", "attention, adaptivity 5", ALL),
    ("attention + holistic", "attention, adaptivity 5", ALL),
    ("shared attention in masks", "attention, adaptivity 5", ALL),
    ("attention, noise mask", "attention, adaptivity 5", ALL),
)
INTRODUCTION = f"""# Regions: evidence on the pocket model of drawings

Made by `benchmarks/regions_evidence.py` from the shipped weights; the same command makes the same table. {CASES}
pictures of {WIDTH}x{HEIGHT} from prompts under the edge ControlNet, 20 steps of euler, CFG 5. The left {PART} pixels
take the style of one painting, the right {PART} that of another, and what lies between belongs to no region.

- **leakage**: distance of colours of a region to its own painting over that to the other's, geometric mean of both; 1
  tells nothing apart, lower is better. **own color**: that distance, CIELAB.
- **outside / inside**: mean change against the picture without regions, in the free part (more than a cell of the
  latent away from borders) over that in the regions.
- **seam**: mean horizontal difference of pixels at the regions' borders over that everywhere; 1 is no seam.
- **edges**: F1 with the ControlNet's hint. **structure**: similarity with the picture without regions.
- *paintings pasted* is the bound that keeps nothing.
"""
READING = """## Reading

- Each region takes the style of its own painting, clearly, and *adaptivity* is the knob that it should be: at 0 one
  pool serves both, at 5 nearly all comes from the own painting, and 20 adds nothing more.
- Attention mode and holistic mode tell regions apart alike; the latter brings more of the palette. Both in turn (two
  nodes, one after the other) tell them apart best, below 0.6.
- The trained adapter (1000 steps on drawings) brings nothing over attention without training here, and tells regions
  apart a little less: its loss is that of denoising parts of a picture from other parts of it, in which all regions
  share one look. The trained injector had the same trouble until it was also shown styles of other pictures.
- From pure noise much of the change goes on outside, since convolutions, group norms and the prompt's guidance carry it
  through a picture of twelve cells' height. *Set Latent Noise Mask* over a finished latent keeps it to 0.02, which is
  the autoencoder's own reach, with seams; the composite keeps it to nothing.
- Seams are hardly above those of pictures without regions; sharing attention in two masks has stronger ones.
- Edges of the ControlNet's hint stay but for 0.07.
"""


def write_report() -> None:
    """Write docs/regions_evidence.md and .json and the sheet."""
    docs, kept = ROOT / "docs", CELLS.records()
    rows = means(kept, CELLS.methods, RULERS)
    CELLS.sheet(SHOWN, (0, 1, 5), docs / "images" / "regions_sheet.jpg")
    parts = [
        INTRODUCTION,
        table(rows, RULERS),
        paired(kept, PAIRS),
        "Painting of the left, result, painting of the right:\n\n![Sheet](images/regions_sheet.jpg)",
        READING,
    ]
    (docs / "regions_evidence.md").write_text("\n\n".join(p.strip() for p in parts) + "\n", encoding="utf-8")
    (docs / "regions_evidence.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    pocket.say("\n\n".join(parts[1:3]))


if __name__ == "__main__":
    command(__doc__, list(METHODS), make, write_report)
