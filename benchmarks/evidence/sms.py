"""Style Matching Score in every form beside image to image, on held-out photographs in styles the base has not seen."""

from __future__ import annotations

from collections.abc import Callable

from ..common.case import Case, photograph, words_of
from ..common.cells import Record
from ..common.evidence import Comparison, Evidence, Method
from ..common.host import PHOTOGRAPHS, exemplars, host_of, photos, scores
from ..common.nodes import through
from . import sms_page as page

# isort: split
# found by their paths, once the host has put them in place
from PIL import Image
from stylization.stylization_core.rulers import content, style

TUNED = {"steps": 60, "cfg": 1.0, "step_size": 0.1, "step_scale": "per picture"}
BLEND, FLOOR, COLOR = 0.12, 0.3, 0.1
DENOISE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GUIDANCE = (0.5, 1.0, 1.5, 2.0, 3.0)
GUIDED = {"steps": 24, "denoise": 0.6}
PUBLISHED_PHOTOS, PUBLISHED_STYLE = 4, "riso"
FEWER = (10, 20, 30)
"""Iterations of the full form beside the published loop."""

COPIES = 2
"""Pictures of a style that stand for all as results: this is an anchor, and the rulers take a second each."""


def img2img(denoise: float) -> Method:
    """The stock way: LoRA in the weights, KSampler from the noised photograph."""
    return lambda case: case.sampled(case.host.with_lora(case.style), styled=True, denoise=denoise)


def latent_by_score(
    case: Case, spectrum: float, relevance: str, controlled: bool = False, lora: float = 1.0, **settings
) -> dict:
    """LATENT of Style Matching Score with some of its terms."""
    positive, negative = case.conditionings(controlled, styled=True)
    model = through("StylizeStyleLoRA", case.host.model, f"pocket_{case.style}.safetensors", lora, 0.0)
    given = {**TUNED, "fake_blend": BLEND, "color_hold": COLOR, "relevance_floor": FLOOR, "strength": 1.0, **settings}
    edit = case.host.text(f"turn into {case.style} style")
    terms = {"seed": 1, "spectrum": spectrum, "relevance": relevance, "edit": edit}
    return through("StylizeSMS", model, positive, negative, case.latent, **terms, **given)


def sms(spectrum: float, relevance: str, **settings) -> Method:
    """Style Matching Score with some of its terms."""
    return lambda case: case.host.decoded(latent_by_score(case, spectrum, relevance, **settings))


def guided(case: Case, strength: float, controlled: bool = False, *more: Callable) -> Image.Image:
    """The style score in an ordinary KSampler run, mode edit, with more operators on its MODEL."""
    model = through("StylizeSMSGuidance", case.with_style, strength, "edit", 0.0, 1.0)
    for add in more:
        model = add(case, model)
    return case.sampled(model, controlled, styled=True, cfg=1.0, **GUIDED)


def guidance(strength: float) -> Method:
    """SMS guidance alone."""
    return lambda case: guided(case, strength)


def copies(case: Case) -> list[Image.Image]:
    """Pictures of the style as results."""
    return [scores.ImageOps.fit(picture, case.photo.size, Image.LANCZOS) for picture in exemplars(case.style)[:COPIES]]


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
METHODS: dict[str, Method] = {
    page.PLAIN: lambda case: case.plain,
    **{f"img2img {denoise:g}": img2img(denoise) for denoise in DENOISE},
    "score alone": sms(0.0, "off"),
    "score + spectrum": sms(1.0, "off"),
    "score + refiner": sms(0.0, "precomputed"),
    "full": sms(1.0, "precomputed"),
    "full, trained fake": sms(1.0, "precomputed", fake_score="trained", fake_blend=0.0),
    **{f"guidance {strength:g}": guidance(strength) for strength in GUIDANCE},
    **{f"full, {steps} steps": sms(1.0, "precomputed", steps=steps) for steps in FEWER},
    page.PUBLISHED: sms(1.0, "live", **PUBLISHED),
    page.PHOTO: lambda case: case.photo,
    page.COPY: copies,
}


class Forms(Comparison):
    """Photographs by forms of the score, style by style."""

    def case(self, number: int) -> Case:
        name = list(photos())[number % page.PHOTOS]
        host = host_of(PHOTOGRAPHS)
        named = PHOTOGRAPHS.styles[number // page.PHOTOS]
        return Case(host, number, words_of(name, things=False), photograph(name, PHOTOGRAPHS.size), named)

    @staticmethod
    def number_of(photo: str, style_name: str) -> int:
        """The case of a photograph in a style."""
        return PHOTOGRAPHS.styles.index(style_name) * page.PHOTOS + list(photos()).index(photo)

    def has(self, number: int, method: str) -> bool:
        """The published loop, fifty times as dear as the rest, runs on a few cells, and what is shortest beside it."""
        beside = method == page.PUBLISHED or method.endswith("steps")
        style_name, photo = PHOTOGRAPHS.styles[number // page.PHOTOS], number % page.PHOTOS
        return not beside or (photo < PUBLISHED_PHOTOS and style_name == PUBLISHED_STYLE)

    def measured(self, case: Case, method: str, pictures: list[Image.Image]) -> Record:
        """Content against the photograph, style against the photograph through the VAE, or of a copy itself."""
        shown = scores.as_batch(*exemplars(case.style))
        before, plain, after = (scores.as_batch(*some) for some in ([case.photo], [case.plain], pictures))
        values = {
            "structure": content.structure_similarity(before, after),
            "edges": content.edge_agreement(before, after),
            "low band": content.low_band_distance(before, after),
            "shift": content.shift_pixels(before, after),
        }
        if method == page.COPY:
            progress = style.style_copy_progress(before, shown)
        else:
            progress = style.style_progress(plain, after, shown)
        values |= {"color": progress.color, "texture": progress.texture, "style": progress.combined}
        return {name: float(value.mean()) for name, value in values.items()}


FORMS = Forms("sms", METHODS, page.CASES)
EVIDENCE = Evidence(page, {"sms": FORMS})
