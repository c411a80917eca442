"""The holistic injector: photographs that take the style of paintings."""

from __future__ import annotations

from functools import lru_cache

from ..common import training_nodes
from ..common.case import THINGS, Case, photograph, words_of
from ..common.cells import Record
from ..common.evidence import KEPT, Comparison, Evidence, Method
from ..common.host import DRAWINGS, Host, host_of, paintings, scores
from ..common.nodes import through
from . import baselines
from . import holistic_page as page

# isort: split
# found by their paths, once the host has put them in place
from PIL import Image
from stylization.stylization_core.rulers import content, style
from stylization.stylization_core.trained_injector import TrainedInjector

CASES = 2 * len(THINGS)


@lru_cache(maxsize=1)
def injector(host: Host) -> TrainedInjector:
    """Trained once."""
    return training_nodes.trained(host, "StylizeTrainHolisticInjector", TrainedInjector, KEPT / "holistic")


def trained(strength: float) -> Method:
    """Injection by the trained injector."""

    def run(case: Case) -> Image.Image:
        return through_node("StylizeHolisticInjector", strength=strength, injector=injector(case.host))(case)

    return run


def through_node(node_id: str, controlled: bool = False, **settings) -> Method:
    """Sampled with the MODEL of one of our nodes."""

    def run(case: Case) -> Image.Image:
        return case.sampled(through(node_id, case.host.model, reference=case.reference, **settings), controlled)

    return run


def injected(controlled: bool = False, **settings) -> Method:
    """Holistic injection; the slider at texture unless it is named."""
    return through_node("StylizeHolisticInjector", controlled, **{"balance": "slider", **settings})


def with_card(case: Case) -> Image.Image:
    """The painting as a style card of eight levels."""
    prompts = case.host.text(case.shown_words), case.host.text("")
    given = {"layers": "all", "filename_prefix": "style_cards/evidence"}
    card = through("StylizeSaveStyleCard", case.host.model, case.reference, *prompts, **given)
    return case.sampled(through("StylizeHolisticInjector", case.host.model, balance="slider", card=card))


def latent_adain(case: Case) -> Image.Image:
    """The photograph's latent with mean and deviation of the painting's, then image to image."""
    moved = baselines.latent_adain(case.latent, case.host.encoded(case.shown), 1.0)
    return case.sampled(case.host.model, latent=moved)


def image_to_image(denoise: float = page.DENOISE, controlled: bool = False) -> Method:
    """The stock way, without any style."""
    return lambda case: case.sampled(case.host.model, controlled, denoise=denoise)


METHODS: dict[str, Method] = {
    "photo itself": lambda case: case.photo,
    "VAE only": lambda case: case.plain,
    "painting itself": lambda case: case.shown,
    "image to image": image_to_image(),
    **{f"image to image, denoise {denoise:g}": image_to_image(denoise) for denoise in page.DENOISES},
    "AdaIN on the latent": latent_adain,
    **{f"moments, tone {tone:g}": injected(tone=tone) for tone in page.TONES},
    "moments, by likeness": injected(balance="by likeness"),
    **{f"moments, strength {strength:g}": injected(strength=strength) for strength in page.STRENGTHS},
    "moments, style block": injected(layers="style block"),
    "moments, card": with_card,
    **{f"trained, strength {strength:g}": trained(strength) for strength in page.TRAINED},
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


class Painted(Comparison):
    """Photographs with paintings by methods; each photograph meets two paintings."""

    def case(self, number: int) -> Case:
        files, name = paintings(), sorted(THINGS)[number // 2]
        painting = files[sorted(files)[(5 * number + 3 * (number // 8)) % len(files)]]
        return Case(
            host=host_of(DRAWINGS),
            number=number,
            words=words_of(name, things=True),
            photo=photograph(name, page.SIZE),
            shown=scores.opened(painting, page.SIZE),
            shown_words="painting",
            cfg=DRAWINGS.cfg,
        )

    def strip(self, case: Case, made: list[Image.Image]) -> list[Image.Image]:
        return [case.photo, case.shown, *made]

    def measured(self, case: Case, method: str, pictures: list[Image.Image]) -> Record:
        """Content against the photograph, style against the painting."""
        photo, painting, result = (scores.as_batch(picture) for picture in pictures)
        return {
            "structure": float(content.structure_similarity(photo, result)[0]),
            "edges": float(content.edge_agreement(photo, result)[0]),
            "color": float(style.color_distance(result, painting)[0]),
            "texture": float(style.texture_distance(result, painting)[0]),
        }


EVIDENCE = Evidence(page, {"holistic": Painted("holistic", METHODS, CASES)})
