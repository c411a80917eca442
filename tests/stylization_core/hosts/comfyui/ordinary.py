"""Runs of ComfyUI's own samplers on models that carry settings of our nodes, and what they should come to."""

from __future__ import annotations

import comfy.samplers
import torch
from stylization.stylization_core.hosts.comfyui.guidance.run import acting
from stylization.stylization_core.hosts.comfyui.guidance.settings import GUIDANCE, ScoreGuidance
from stylization.stylization_core.hosts.comfyui.model.attachments import attach_once
from stylization.stylization_core.hosts.comfyui.sms.second_model import SECOND_MODEL
from stylization.stylization_core.hosts.comfyui.sms.settings import (
    PROTECTION,
    REFINEMENT,
    SPECTRUM,
    ProtectedRegion,
    Refinement,
    SpectrumHold,
)
from stylization.stylization_core.hosts.comfyui.sms.style_source import find_style

from . import runs

REGULARIZER, REFINER = "Stylize Spectrum Regularizer", "Stylize Semantic Refiner"
PROTECT_REGION, SCORE_GUIDANCE = "Stylize Protect Region", "Stylize SMS Guidance"

SIGMAS = (3.0, 1.5, 0.7, 0.2, 0.0)
ONE_STEP = (0.7, 0.0)


def unit_noise(like: torch.Tensor) -> torch.Tensor:
    """The noise of the runs below."""
    return runs.drawn(*like.shape, seed=12)


def in_scale(model, source: torch.Tensor) -> torch.Tensor:
    """A LATENT as the network sees it."""
    return model.model.process_latent_in(source)


# what the nodes do


def held(model, **settings):
    return acting(attach_once(model, SPECTRUM, SpectrumHold(**settings, node=REGULARIZER), REGULARIZER))


def refined(model, **settings):
    return acting(attach_once(model, REFINEMENT, Refinement(**settings, node=REFINER), REFINER))


def guided(model, style_model=None, **settings):
    style = find_style(model, style_model)
    clone = attach_once(model, GUIDANCE, ScoreGuidance(style, **settings, node=SCORE_GUIDANCE), SCORE_GUIDANCE)
    if style.patcher is not None:
        clone.set_additional_models(SECOND_MODEL, [style.patcher])
    return acting(clone)


def protected(model, mask, **settings):
    return acting(
        attach_once(model, PROTECTION, ProtectedRegion(mask, **settings, node=PROTECT_REGION), PROTECT_REGION)
    )


def everything(model, style_model=None, *, edit: bool = True):
    """All three at once, with a map made from prompts."""
    prompts = {"edit": runs.conditioning(7), "empty": runs.conditioning(8)}
    return held(refined(guided(model, style_model, edit=edit), **prompts), hold=0.5)


# runs


def guider_of(model, conditionings: dict | None = None, cfg: float = 4.5) -> comfy.samplers.CFGGuider:
    made = comfy.samplers.CFGGuider(model)
    made.inner_set_conds(runs.pair() if conditionings is None else conditionings)
    made.set_cfg(cfg)
    return made


def sample(
    model, source, *, sampler="euler", sigmas=SIGMAS, cfg=4.5, conditionings=None, noise=None, guider=None, **run
) -> torch.Tensor:
    """A LATENT sampled from ``source``."""
    guider = guider or guider_of(model, conditionings, cfg)
    noise = unit_noise(source) if noise is None else noise
    chosen, levels = comfy.samplers.sampler_object(sampler), torch.tensor(sigmas)
    with torch.inference_mode():
        return guider.sample(noise, source, chosen, levels, seed=3, disable_pbar=True, **run)


def steps_of(model, source, **settings) -> list[tuple]:
    """(x, denoised) that the sampler saw at each step."""
    seen: list[tuple] = []
    sample(
        model, source, callback=lambda step, denoised, x, total: seen.append((x.clone(), denoised.clone())), **settings
    )
    return seen


def one_step(model, source, **settings) -> torch.Tensor:
    """The estimate at sigma 0.7."""
    ((_, estimate),) = steps_of(model, source, sigmas=ONE_STEP, **settings)
    return estimate


# by ComfyUI alone


def own_estimate(model, x: torch.Tensor, sigma: float, cfg: float = 4.5, conditionings=None) -> torch.Tensor:
    """Guided prediction of the model."""
    parts = runs.plain(model, conditionings or runs.pair(), x, sigma)
    return parts["negative"] + cfg * (parts["positive"] - parts["negative"])


def score(base, style, x: torch.Tensor, sigma: float, conditionings=None) -> torch.Tensor:
    """D_style - D_base for the positive prompt, of two models."""
    two = [runs.plain(model, conditionings or runs.pair(), x, sigma)["positive"] for model in (style, base)]
    return two[0] - two[1]
