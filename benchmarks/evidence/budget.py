"""The content budget: a strength for each photograph beside one strength for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..common.case import THINGS, Case, photograph, words_of
from ..common.cells import Record
from ..common.evidence import Comparison, Evidence
from ..common.host import DRAWINGS, PHOTOGRAPHS, Host, PocketModel, exemplars, host_of, paintings, scores
from ..common.nodes import through
from . import budget_page as page
from .budget_page import COMMON, LIMITS

# isort: split
# found by their paths, once the host has put them in place
import comfy.samplers
import comfy_extras.nodes_custom_sampler as stock_samplers
import numpy as np
import torch
from PIL import Image
from stylization.stylization_core.budget.search import parse_limits, read
from stylization.stylization_core.hosts.comfyui.measure import ContentRulers, Runs, Search, within_budget
from stylization.stylization_core.rulers.style import StyleTarget

SEED = 1


@dataclass(frozen=True)
class Budgeted(Case):
    """A photograph, and pictures of the style that it is to come near.

    Attributes:
        styles: those pictures.
    """

    styles: tuple[Image.Image, ...] = ()

    @property
    def prompts(self) -> tuple:
        """With the LoRA's trigger, or under the ControlNet."""
        return self.conditionings(controlled=not self.style, styled=bool(self.style))


Made = tuple
"""(guider, sampler, sigmas)."""


def sigmas(host: Host, steps: int, denoise: float) -> torch.Tensor:
    """As KSampler has them."""
    return comfy.samplers.KSampler(host.model, steps, "cpu", "euler", "normal", denoise).sigmas


def ordinary(case: Budgeted, model, steps: int, denoise: float, cfg: float) -> Made:
    """A guider on a MODEL, euler, and the levels."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*case.prompts)
    guider.set_cfg(cfg)
    return guider, comfy.samplers.sampler_object("euler"), sigmas(case.host, steps, denoise)


def guidance(case: Budgeted, factor: float) -> Made:
    """The style score in 12 steps, mode edit."""
    return ordinary(case, through("StylizeSMSGuidance", case.with_style, factor), 12, 0.6, 1.0)


def matching(case: Budgeted, factor: float) -> Made:
    """Style Matching Score in 10 iterations."""
    model = case.with_style
    guider = through("StylizeSMSGuider", model, *case.prompts, cfg=1.0, fake_blend=0.12)
    sampler = through("StylizeSMSSampler", strength=factor, step_scale="per picture")
    return guider, sampler, through("StylizeSMSSigmas", model, steps=10)


def drawn(case: Budgeted, model) -> Made:
    """A guider on a MODEL of drawings."""
    return ordinary(case, model, 10, 0.5, case.cfg)


def injected(case: Budgeted, model, factor: float):
    """Holistic injection."""
    return through("StylizeHolisticInjector", model, reference=case.reference, balance="slider", strength=factor)


def shared(case: Budgeted, model, factor: float):
    """Shared attention; the dial multiplies the weight and the strengths of AdaIN."""
    adain = {"adain_queries": min(1.0, factor), "adain_keys": min(1.0, factor)}
    return through("StylizeSharedAttention", model, reference=case.reference, weight=factor, **adain)


def both(case: Budgeted, factor: float) -> Made:
    """The injector, and shared attention after it."""
    return drawn(case, shared(case, injected(case, case.host.model, factor), factor))


@dataclass(frozen=True)
class Form:
    """What is turned.

    Attributes:
        run: guider, sampler and sigmas at a factor on the strength of its nodes.
        top: strongest factor tried.
    """

    run: Callable[[Budgeted, float], Made]
    top: float


FORMS = {
    "photographs": {"guidance": Form(guidance, 2.0), "SMS, 10 iterations": Form(matching, 4.0)},
    "drawings": {
        "injector": Form(lambda case, factor: drawn(case, injected(case, case.host.model, factor)), 2.0),
        "shared attention": Form(lambda case, factor: drawn(case, shared(case, case.host.model, factor)), 2.0),
        "injector and shared attention": Form(both, 2.0),
    },
}
"""By model."""


def as_picture(pixels: torch.Tensor) -> Image.Image:
    """The first picture of an IMAGE."""
    return Image.fromarray((pixels[0].clamp(0, 1).numpy() * 255).round().astype(np.uint8))


def fresh(case: Budgeted, form: Form, factor: float) -> Image.Image:
    """A run whose nodes have that strength, without the dial."""
    with torch.inference_mode():
        guider, sampler, levels = form.run(case, factor)
        noise = stock_samplers.Noise_RandomNoise(SEED)
        sampled = stock_samplers.SamplerCustomAdvanced.execute(noise, guider, sampler, levels, case.latent)[0]
        return case.host.decoded(sampled)


def pixels_of(*pictures: Image.Image) -> torch.Tensor:
    """IMAGE of pictures."""
    return torch.from_numpy(scores.as_batch(*pictures)).float()


class Strengths(Comparison):
    """Photographs by forms on one model: at the strength that the budget finds, and at one strength for all."""

    def __init__(self, model: str, pocket: PocketModel):
        self.pocket, self.forms = pocket, FORMS[model]
        methods = (name for form in self.forms for name in (form, f"{form} {COMMON}"))
        super().__init__(f"budget/{model}", {name: self._form_of(name) for name in methods}, page.CASES)

    def _form_of(self, method: str) -> Form:
        return self.forms[method.removesuffix(f" {COMMON}")]

    def case(self, number: int) -> Budgeted:
        name, size = sorted(THINGS)[number], self.pocket.size
        given = {"host": host_of(self.pocket), "number": number, "cfg": self.pocket.cfg, "shown_words": "painting"}
        if self.pocket.styles:
            style = self.pocket.styles[number % len(self.pocket.styles)]
            shown, words = tuple(exemplars(style)), words_of(name, things=False)
            return Budgeted(**given, words=words, photo=photograph(name, size), style=style, styles=shown)
        files = paintings()
        painting = scores.opened(files[sorted(files)[number % len(files)]], size)
        words, photo = words_of(name, things=True), photograph(name, size)
        return Budgeted(**given, words=words, photo=photo, shown=painting, styles=(painting,))

    def has(self, number: int, method: str) -> bool:
        """One strength for all is known once the budget has been found on all photographs."""
        return not method.endswith(COMMON) or self._common(method) is not None

    def _common(self, method: str) -> float | None:
        return page.common_strength(self.cells.records(), method.removesuffix(f" {COMMON}"))

    def run(self, case: Budgeted, method: str) -> tuple[list[Image.Image], Record]:
        form = self._form_of(method)
        if not method.endswith(COMMON):
            return self._searched(case, method, form)
        strength = self._common(method)
        return [case.photo, fresh(case, form, strength)], {"strength": strength}

    def _searched(self, case: Budgeted, name: str, form: Form) -> tuple[list[Image.Image], Record]:
        """The budget on one photograph, and its answer made again by a fresh run."""
        with torch.inference_mode():
            guider, sampler, levels = form.run(case, 1.0)
            style = pixels_of(*case.styles)
            rulers = ContentRulers(
                parse_limits(LIMITS[name]), case.latent, case.host.vae, pixels_of(case.photo), style=style
            )
            runs = Runs(guider, sampler, stock_samplers.Noise_RandomNoise(SEED), case.latent, case.host.vae)
            result = within_budget(runs, rulers, levels, Search(form.top, page.GRID, page.BISECTIONS))
        outcome = result.outcome
        whole = next(setting for setting in outcome.tried if setting.factor == 1)
        record = {
            "strength": result.strength,
            "found": float(outcome.chosen is not None),
            "monotone": float(outcome.monotone),
            "runs": float(len(outcome.tried)),
            "style at 1": whole.reading.style,
            "holds at 1": float(whole.holds),
        }
        return [case.photo, as_picture(result.pictures), fresh(case, form, result.strength)], record

    def measured(self, case: Budgeted, method: str, pictures: list[Image.Image]) -> Record:
        """The last picture against the photograph and its style, from the picture alone."""
        limits = parse_limits(LIMITS[method.removesuffix(f" {COMMON}")])
        target = StyleTarget.of(scores.as_batch(*case.styles))
        reading = read(limits, pixels_of(case.photo), scores.as_batch(pictures[-1]), None, target)
        holds = all(limit.holds(value) for limit, value in zip(limits, reading.values, strict=True))
        return {"holds": float(holds), "style": reading.style, "first": reading.values[0]}


EVIDENCE = Evidence(
    page, {"photographs": Strengths("photographs", PHOTOGRAPHS), "drawings": Strengths("drawings", DRAWINGS)}
)
