"""Evidence for Style Matching Score on the pocket model: every form beside its baselines, on held-out photographs.

    .host/env/environment/bin/python benchmarks/sms_evidence.py            # make what is missing, then the report
    .host/env/environment/bin/python benchmarks/sms_evidence.py --only report   # from what is kept
    .host/env/environment/bin/python benchmarks/sms_evidence.py --only cells --styles riso   # a share of the work

A cell is one photograph in one style by one method. Its picture and its record stay in .host/evidence/sms and are not
made again, so the script can be stopped at any point; remove that folder after the weights changed. Writes
docs/sms_evidence.md and the pictures beside it. Rulers: stylization_core/rulers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pocket_host as pocket
from pocket_host import Pocket, scores

# isort: split
# found by their paths, once pocket_host has put them in place
from sms_report import write_report
from stylization.stylization_core.rulers import content, style
from stylization_host import comfy_tree

KEPT = comfy_tree.HOST / "evidence" / "sms"
TUNED = {"steps": 60, "cfg": 1.0, "step_size": 0.1, "step_scale": "per picture"}
BLEND, FLOOR, COLOR = 0.12, 0.3, 0.1
DENOISE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GUIDANCE = (0.5, 1.0, 1.5, 2.0, 3.0)
GUIDED = {"steps": 24, "denoise": 0.6}
PUBLISHED_PHOTOS, PUBLISHED_STYLE = 4, "riso"
FEWER = (10, 20, 30)  # iterations of the full form beside the published loop


@dataclass(frozen=True)
class Case:
    """One photograph in one style, ready for the model."""

    pocket: Pocket
    photo: str
    style: str
    latent: dict

    @property
    def positive(self):
        return self.pocket.text(f"{self.style} style, {pocket.words(self.photo)}")

    @property
    def negative(self):
        return self.pocket.text("")

    @property
    def edit(self):
        return self.pocket.text(f"turn into {self.style} style")


def unchanged(case: Case) -> dict:
    """The photograph through the VAE."""
    return case.latent


def img2img(denoise: float) -> Callable[[Case], dict]:
    """The stock way: LoRA in the weights, KSampler from the noised photograph."""

    def run(case: Case) -> dict:
        model = case.pocket.with_lora(case.style)
        return case.pocket.sampled(model, case.latent, case.positive, case.negative, denoise=denoise)

    return run


def sms(spectrum: float, relevance: str, **settings) -> Callable[[Case], dict]:
    """Style Matching Score with some of its terms."""
    given = {**TUNED, "fake_blend": BLEND, "color_hold": COLOR, "relevance_floor": FLOOR, "strength": 1.0, **settings}

    def run(case: Case) -> dict:
        return case.pocket.node(
            "StylizeSMS",
            case.pocket.styled(case.style, given.get("lora", 1.0)),
            case.positive,
            case.negative,
            case.latent,
            seed=1,
            spectrum=spectrum,
            relevance=relevance,
            edit=case.edit,
            **{key: value for key, value in given.items() if key != "lora"},
        )

    return run


def guidance(strength: float) -> Callable[[Case], dict]:
    """The style score in an ordinary KSampler run, mode edit."""

    def run(case: Case) -> dict:
        model = case.pocket.node("StylizeSMSGuidance", case.pocket.styled(case.style), strength, "edit", 0.0, 1.0)
        return case.pocket.sampled(model, case.latent, case.positive, case.negative, cfg=1.0, **GUIDED)

    return run


PUBLISHED = {
    "steps": 500,
    "cfg": 4.5,
    "step_size": 0.1,
    "fake_blend": 0.0,
    "color_hold": 1.0,
    "relevance_floor": 0.0,
    "fake_score": "trained",
    "lora": 0.8,
    "step_scale": "per element",
}

METHODS: dict[str, Callable[[Case], dict]] = {
    "VAE only": unchanged,
    **{f"img2img {denoise:g}": img2img(denoise) for denoise in DENOISE},
    "score alone": sms(0.0, "off"),
    "score + spectrum": sms(1.0, "off"),
    "score + refiner": sms(0.0, "precomputed"),
    "full": sms(1.0, "precomputed"),
    "full, trained fake": sms(1.0, "precomputed", fake_score="trained", fake_blend=0.0),
    **{f"guidance {strength:g}": guidance(strength) for strength in GUIDANCE},
    **{f"full, {steps} steps": sms(1.0, "precomputed", steps=steps) for steps in FEWER},
    "published loop": sms(1.0, "live", **PUBLISHED),
}


def wanted(photo_number: int, style_name: str, method: str) -> bool:
    """The published loop, fifty times as dear as the rest, runs on a few cells, and what is shortest beside it."""
    beside = method == "published loop" or method.endswith("steps")
    return not beside or (photo_number < PUBLISHED_PHOTOS and style_name == PUBLISHED_STYLE)


def measured(photo, decoded, result, shown) -> dict[str, float]:
    """Content against the photograph, style against the photograph through the VAE."""
    before, plain, after = (scores.as_batch(picture) for picture in (photo, decoded, result))
    found = {
        "structure": content.structure_similarity(before, after),
        "edges": content.edge_agreement(before, after),
        "low band": content.low_band_distance(before, after),
        "shift": content.shift_pixels(before, after),
    }
    progress = style.style_progress(plain, after, scores.as_batch(*shown))
    found |= {"color": progress.color, "texture": progress.texture, "style": progress.combined}
    return {name: float(value.mean()) for name, value in found.items()}


def path_of(photo: str, style_name: str, method: str) -> Path:
    return KEPT / style_name / f"{photo}__{method.replace(' ', '_').replace(',', '')}.png"


def make(chosen: argparse.Namespace) -> None:
    """Make the cells that are not kept yet, style by style."""
    found = pocket.photos()
    missing = [
        (name, style_name, method)
        for style_name in chosen.styles
        for number, name in enumerate(found)
        for method in chosen.methods
        if name in chosen.photos
        and wanted(number, style_name, method)
        and not path_of(name, style_name, method).with_suffix(".json").is_file()
    ]
    model = Pocket() if missing else None
    for count, (name, style_name, method) in enumerate(missing, 1):
        photo = pocket.opened(found[name])
        case = Case(model, name, style_name, model.encoded(photo))
        model.rows = 0
        latent = METHODS[method](case)
        rows, picture = model.rows, model.decoded(latent)
        path = path_of(name, style_name, method)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        decoded = model.decoded(case.latent)
        record = {**measured(photo, decoded, picture, pocket.exemplars(style_name)), "rows": rows}
        path.with_suffix(".json").write_text(json.dumps(record) + "\n", encoding="utf-8")
        pocket.say(f"{count}/{len(missing)} {path.stem} {style_name}")


def anchors(styles) -> dict[str, dict[str, float]]:
    """Identity and style copy per style, means over the photographs."""
    found = {}
    for style_name in styles:
        shown = pocket.exemplars(style_name)
        copies = []
        for path in pocket.photos().values():
            photo = pocket.opened(path)
            # a few stand for all: this is an anchor, and the rulers take a second each
            fitted = [scores.ImageOps.fit(exemplar, photo.size, scores.Image.LANCZOS) for exemplar in shown[:2]]
            rows = [measured(photo, photo, copy, shown) for copy in fitted]
            progress = style.style_copy_progress(scores.as_batch(photo), scores.as_batch(*shown))
            copy = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            copy |= {"color": float(progress.color[0]), "texture": float(progress.texture[0])}
            copies.append({**copy, "style": (copy["color"] + copy["texture"]) / 2})
        found[style_name] = {key: sum(copy[key] for copy in copies) / len(copies) for key in copies[0]}
    return found


def records(styles, methods) -> dict[tuple[str, str, str], dict[str, float]]:
    """What is kept, by (photograph, style, method)."""
    found = {}
    for name in pocket.photos():
        for style_name in styles:
            for method in methods:
                path = path_of(name, style_name, method).with_suffix(".json")
                if path.is_file():
                    found[name, style_name, method] = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", nargs="*", default=list(pocket.STYLES))
    parser.add_argument("--photos", nargs="*", default=list(pocket.photos()), choices=list(pocket.photos()))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--only", choices=("cells", "report"), help="one half of the work; default both")
    chosen = parser.parse_args()
    if chosen.only != "report":
        make(chosen)
    if chosen.only != "cells":
        kept = records(pocket.STYLES, METHODS)
        write_report(kept, list(METHODS), pocket.STYLES, anchors(pocket.STYLES), path_of)


if __name__ == "__main__":
    main()
