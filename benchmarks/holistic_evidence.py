"""Evidence for the holistic injector on the pocket model of drawings: photographs that take the style of paintings.

    .host/env/environment/bin/python benchmarks/holistic_evidence.py   # make what is missing, then the report
    .host/env/environment/bin/python benchmarks/holistic_evidence.py --only report   # from what is kept

A cell is one photograph in the style of one painting by one method. Its picture and its record stay in
.host/evidence/holistic and are not made again; remove that folder after the weights changed. Writes
docs/holistic_evidence.md and pictures beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import baselines
import numpy as np
import pocket_host as pocket
import torch
from cells import Cells, command, means, paired, table
from drawings_host import Drawings, hint_of, paintings
from intervals import interval
from matplotlib.figure import Figure
from PIL import Image
from pocket_host import ROOT, scores

# isort: split
# found by their paths, once pocket_host has put them in place
import training_nodes
from real_size import through
from stylization.stylization_core.rulers import content, style
from stylization.stylization_core.trained_injector import TrainedInjector
from stylization_host import comfy_tree

SIZE = (192, 128)
SAMPLING = {"steps": 20, "cfg": 3.0, "seed": 1}
DENOISE = 0.5
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
CASES = 2 * len(THINGS)
TONES, STRENGTHS, DENOISES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.5, 0.75, 1.5, 2.0), (0.3, 0.7, 0.9)
TRAINED = (0.5, 1.0, 2.0, 3.0)
FREE = (
    *("image to image", "moments, strength 0.5", "moments, strength 0.75", "moments, tone 0", "moments, strength 1.5"),
    "moments, strength 2",
)
RULERS = ("structure", "edges", "color", "texture", "model rows")


@dataclass(frozen=True)
class Case:
    """A photograph and a painting; each photograph meets two paintings."""

    host: Drawings
    number: int

    @cached_property
    def name(self) -> str:
        return sorted(THINGS)[self.number // 2]

    @cached_property
    def photo(self) -> Image.Image:
        return scores.opened(pocket.photos()[self.name], SIZE)

    @cached_property
    def painting(self) -> Image.Image:
        found = paintings()
        return scores.opened(found[sorted(found)[(5 * self.number + 3 * (self.number // 8)) % len(found)]], SIZE)

    @cached_property
    def latent(self) -> dict:
        return self.host.encoded(self.photo)

    @cached_property
    def reference(self):
        described = {"positive": self.host.text("painting"), "negative": self.host.text("")}
        with torch.inference_mode():
            return through("StylizeReference", latent=self.host.encoded(self.painting), **described)

    def sampled(self, model, controlled: bool = False, denoise: float = DENOISE, latent=None) -> Image.Image:
        positive, negative = self.host.text(f"a {THINGS[self.name]}"), self.host.text("")
        if controlled:
            positive, negative = self.host.controlled(positive, negative, [hint_of(self.photo)], 1.0)
        given = self.latent if latent is None else latent
        made = self.host.sampled(model, given, positive, negative, denoise=denoise, **SAMPLING)
        return self.host.decoded(made)


Made = Callable[[Case], Image.Image]


@lru_cache(maxsize=1)
def injector(host: Drawings) -> TrainedInjector:
    """Trained once."""
    return training_nodes.trained(host, "StylizeTrainHolisticInjector", TrainedInjector, CELLS.folder)


def trained(strength: float) -> Made:
    """Injection by the trained injector."""

    def run(case: Case) -> Image.Image:
        return through_node("StylizeHolisticInjector", strength=strength, injector=injector(case.host))(case)

    return run


def through_node(node_id: str, controlled: bool = False, **settings) -> Made:
    """Sampled with the MODEL of one of our nodes."""

    def run(case: Case) -> Image.Image:
        with torch.inference_mode():
            model = through(node_id, case.host.model, reference=case.reference, **settings)
        return case.sampled(model, controlled)

    return run


def injected(controlled: bool = False, **settings) -> Made:
    """Holistic injection; the slider at texture unless it is named."""
    return through_node("StylizeHolisticInjector", controlled, **{"balance": "slider", **settings})


def with_card(case: Case) -> Image.Image:
    """The painting as a style card of eight levels."""
    with torch.inference_mode():
        positive, negative = case.host.text("painting"), case.host.text("")
        given = {"layers": "all", "filename_prefix": "style_cards/evidence"}
        card = through("StylizeSaveStyleCard", case.host.model, case.reference, positive, negative, **given)
        model = through("StylizeHolisticInjector", case.host.model, balance="slider", card=card)
    return case.sampled(model)


def latent_adain(case: Case) -> Image.Image:
    """The photograph's latent with mean and deviation of the painting's, then image to image."""
    moved = baselines.latent_adain(case.latent, case.host.encoded(case.painting), 1.0)
    return case.sampled(case.host.model, latent=moved)


def image_to_image(denoise: float = DENOISE, controlled: bool = False) -> Made:
    """The stock way, without any style."""
    return lambda case: case.sampled(case.host.model, controlled, denoise)


METHODS: dict[str, Made] = {
    "photo itself": lambda case: case.photo,
    "VAE only": lambda case: case.host.decoded(case.latent),
    "painting itself": lambda case: case.painting,
    "image to image": image_to_image(),
    **{f"image to image, denoise {denoise:g}": image_to_image(denoise) for denoise in DENOISES},
    "AdaIN on the latent": latent_adain,
    **{f"moments, tone {tone:g}": injected(tone=tone) for tone in TONES},
    "moments, by likeness": injected(balance="by likeness"),
    **{f"moments, strength {strength:g}": injected(strength=strength) for strength in STRENGTHS},
    "moments, style block": injected(layers="style block"),
    "moments, card": with_card,
    **{f"trained, strength {strength:g}": trained(strength) for strength in TRAINED},
    "quantiles": injected(mode="quantiles"),
    "quantiles, strength 1.5": injected(mode="quantiles", strength=1.5),
    "shared attention, weight 0.5": through_node("StylizeSharedAttention", weight=0.5),
    "shared attention": through_node("StylizeSharedAttention"),
    "shared attention, weight 2": through_node("StylizeSharedAttention", weight=2.0),
    "shared attention, weight 4": through_node("StylizeSharedAttention", weight=4.0),
    "ControlNet": image_to_image(controlled=True),
    "ControlNet, moments": injected(True),
    "ControlNet, quantiles": injected(True, mode="quantiles"),
    "ControlNet, shared attention, weight 2": through_node("StylizeSharedAttention", True, weight=2.0),
}
CELLS = Cells(comfy_tree.HOST / "evidence" / "holistic", tuple(METHODS), CASES)


def measured(case: Case, picture: Image.Image) -> dict[str, float]:
    """Content against the photograph, style against the painting."""
    photo, found, painting = (scores.as_batch(one) for one in (case.photo, picture, case.painting))
    return {
        "structure": float(content.structure_similarity(photo, found)[0]),
        "edges": float(content.edge_agreement(photo, found)[0]),
        "color": float(style.color_distance(found, painting)[0]),
        "texture": float(style.texture_distance(found, painting)[0]),
    }


def make(methods: list[str]) -> None:
    """Make the cells that are not kept yet."""
    host = Drawings()

    def run(number: int, method: str) -> tuple[list[Image.Image], dict]:
        case, host.rows = Case(host, number), 0
        picture = METHODS[method](case)
        record = {**measured(case, picture), "model rows": host.rows}
        return [case.photo, case.painting, picture], record

    CELLS.make(methods, run)


SHOWN = ("image to image", "AdaIN on the latent", "moments, tone 1", "moments, tone 0", "quantiles", "shared attention")
ALL = ("structure", "edges", "color", "texture")
PAIRS = (
    ("moments, tone 0", "image to image", ALL),
    ("quantiles", "moments, tone 0", ALL),
    ("moments, tone 0", "moments, tone 1", ALL),
    ("moments, tone 0", "AdaIN on the latent", ALL),
    ("moments, tone 0", "shared attention, weight 2", ALL),
    ("moments, card", "moments, tone 0", ALL),
    ("ControlNet, moments", "ControlNet", ALL),
    ("ControlNet, quantiles", "ControlNet", ALL),
    ("ControlNet, moments", "moments, tone 0", ALL),
)
INTRODUCTION = f"""# Holistic injection: evidence on the pocket model of drawings

Made by `benchmarks/holistic_evidence.py` from the shipped weights; the same command makes the same table. Twelve
photographs, each with two of eight paintings, {SIZE[0]}x{SIZE[1]}; image to image at denoise {DENOISE:g}, 20 steps of
euler, CFG 3, on a model that was trained for drawn scenes of 96 pixels: photographs lose much in it before any style.

- **structure**, **edges**: similarity with the photograph, higher keeps more.
- **color** (CIELAB), **texture** (octaves): distance to the painting, lower is nearer.
- *photo itself* and *painting itself* are the anchors. No ruler is a network. The injector works on moments of features
  of the denoiser, the rulers on colours and wavelets of pixels.
"""


def curve(rows: dict, path) -> None:
    """Distance to the painting against edges kept, by each method's own dial."""
    dials = {
        "moments, by strength": FREE,
        "trained, by strength": ["image to image", *(f"trained, strength {strength:g}" for strength in TRAINED)],
        "moments, tone 1 to 0": [f"moments, tone {tone:g}" for tone in reversed(TONES)],
        "shared attention, by weight": [
            *("image to image", "shared attention, weight 0.5", "shared attention"),
            *("shared attention, weight 2", "shared attention, weight 4"),
        ],
        "image to image, by denoise": [
            *("image to image, denoise 0.3", "image to image", "image to image, denoise 0.7"),
            "image to image, denoise 0.9",
        ],
        "quantiles": ["quantiles", "quantiles, strength 1.5"],
        "AdaIN on the latent": ["AdaIN on the latent"],
        "ControlNet, moments": ["ControlNet", "ControlNet, moments"],
    }
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    for axes, ruler in zip(figure.subplots(1, 2), ("color", "texture"), strict=True):
        for label, names in dials.items():
            found = [rows[name] for name in names if name in rows]
            axes.plot([row["edges"] for row in found], [row[ruler] for row in found], "o-", label=label, markersize=4)
        axes.set_xlabel("edges: agreement with the photograph (higher keeps more)")
        axes.set_ylabel(f"{ruler} distance to the painting (lower is nearer)")
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)


def at_equal_content(kept: dict) -> str:
    """The trained form beside the one without training at equal content, along the latter's curve of strengths."""
    lines = [
        "| strength | content | ruler | trained - without training | 95 % interval | cases |",
        "|---|---|---|---|---|---|",
    ]
    for strength in TRAINED:
        method = f"trained, strength {strength:g}"
        numbers = [number for number, name in kept if name == method and all((number, free) in kept for free in FREE)]
        for kind in ("structure", "edges"):
            for ruler in ("color", "texture") if len(numbers) > 1 else ():
                found = []
                for number in numbers:
                    free = sorted((kept[number, name][kind], kept[number, name][ruler]) for name in FREE)
                    place, value = kept[number, method][kind], kept[number, method][ruler]
                    found.append(value - np.interp(place, *zip(*free, strict=True)))
                low, high = interval(np.array(found))
                cells = f"{np.mean(found):+.3f} | {low:+.3f} to {high:+.3f} | {len(found)}"
                lines.append(f"| {strength:g} | {kind} | {ruler} | {cells} |")
    made = f"{training_nodes.STEPS} steps on {training_nodes.PICTURES} drawings"
    head = f"The trained injector ({made}) beside moments at equal content (interpolated along strengths):"
    return head + "\n\n" + "\n".join(lines)


def write_report() -> None:
    """Write docs/holistic_evidence.md and .json, the curve and the sheet."""
    docs, kept = ROOT / "docs", CELLS.records()
    rows = means(kept, CELLS.methods, RULERS)
    curve(rows, docs / "images" / "holistic_curve.png")
    CELLS.sheet(SHOWN, (0, 5, 19), docs / "images" / "holistic_sheet.jpg")
    parts = [
        INTRODUCTION,
        table(rows, RULERS),
        paired(kept, PAIRS),
        at_equal_content(kept),
        "![Curve](images/holistic_curve.png)",
        "Photograph, painting, result:\n\n![Sheet](images/holistic_sheet.jpg)",
        READING,
    ]
    (docs / "holistic_evidence.md").write_text("\n\n".join(p.strip() for p in parts) + "\n", encoding="utf-8")
    (docs / "holistic_evidence.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    pocket.say("\n\n".join(parts[1:4]))


READING = """## Reading

- Injection brings the palette and a little of the texture, and costs edges: at the content of shared attention with
  weight 2 it comes as near to the painting, keeps a little more of the edges, and needs no attention to a reference.
- The slider: *tone* 1 moves colours alone and keeps the most; towards 0 texture comes, and edges go. Quantiles are
  nearer in colour than moments and cost more edges than the same colour by *strength*.
- A card of eight levels does what its reference does.
- Under the ControlNet edges stay as much above those without it as before the injection.
- The trained injector is nearer to the painting at equal content, in colour and in texture, at every strength. It was
  trained on moments of the denoiser's estimates, so that colour comes nearer is close to what it was trained for; the
  wavelets of *texture*, the photographs and the paintings were unknown to it.
- **AdaIN on the latent** is nearer in colour than any of them at little cost here, with the tiny autoencoder of the
  pocket model, whose channels are colours. It moves the whole picture alike, and knows no regions or layers.
- *moments, style block* does next to nothing here: that block of this network, one layer of the lowest resolution,
  hardly carries style. The preset was chosen for SDXL.
- The model was trained for drawn scenes; photographs come out coarse with and without any style.
"""


if __name__ == "__main__":
    command(__doc__, list(METHODS), make, write_report)
