"""Where a prompt change acts on a picture, asked of the loaded model: at each step or once before a run."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.samplers
import torch
import torch.nn.functional as F
from torch import Tensor

from ....finite import check_finite
from ....randomness import stream
from ....relevance import discrepancy, robust_relevance
from ....sms.schedule import vp_sigma
from ..model import BASE, Branch, Levels, predict, refuse_step_caches

TIMESTEPS = (101, 201, 301, 401)
"""Levels of the reference chain whose maps are averaged; SMS visits 21 to 499."""

NOT_FINITE = (
    "Look at the prompt and at the LoRAs on the model for damaged values; a model in half precision often does this, "
    "try --force-fp32"
)

AskPair = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(noised source, level) -> the base model's denoised predictions for the edit and the empty prompt."""


def ask_pair(inner_model, edit: list, empty: list, x: Tensor, sigma: float, model_options: dict) -> list[Tensor]:
    """Denoised predictions (edit, empty) of the base model for processed conditionings.

    Raises:
        StylizationError: a step cache on the model, whose answers are of another noise.
    """
    refuse_step_caches(model_options)
    requests = [(Branch(BASE, 0), edit), (Branch(BASE, 1), empty)]
    return predict(inner_model, requests, x, x.new_full((x.shape[0],), sigma), model_options)


def precomputed(
    source: Tensor,
    seed: int,
    levels: Levels,
    ask: AskPair,
    *,
    noises: int = 1,
    **scaling: float,
) -> Tensor:
    """The relevance map of a clean latent (B, C, H, W): maps of several levels and noises, averaged and scaled.

    ``scaling`` goes to :func:`robust_relevance`. Costs two model rows per picture, level and noise.

    Raises:
        StylizationError: an answer that is not finite.
    """
    draws = stream(seed, "sms.relevance")
    maps = []
    for t in (t for _ in range(noises) for t in TIMESTEPS):
        noise = torch.randn(source.shape, generator=draws).to(source.device)
        sigma = levels.model(vp_sigma(t))
        answers = ask(levels.noised(source, noise, sigma), sigma)
        for prompt, answer in zip(("edit", "empty"), answers, strict=True):
            subject = f"{prompt} prompt of the relevance map, the model's answer at sigma {sigma:.3g}"
            check_finite(answer, subject, NOT_FINITE)
        maps.append(discrepancy(*answers))
    return robust_relevance(torch.stack(maps).float(), **scaling)


class RelevanceSampler(comfy.samplers.Sampler):
    """Runs as a SAMPLER so that the model is loaded and conditionings are processed; leaves its map in ``map``.

    The guider's ``positive`` is the edit prompt, its ``negative`` the empty one. The latent comes back as it was.
    """

    def __init__(self, noises: int = 1, **scaling: float):
        self.noises, self.scaling = noises, scaling
        self.map: Tensor | None = None

    @property
    def questions(self) -> int:
        """How often the model is asked for both prompts."""
        return self.noises * len(TIMESTEPS)

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_others, **_named):
        """Called by the guider."""
        source, done = latent_image.float(), [0]

        def ask(x, sigma):
            comfy.model_management.throw_exception_if_processing_interrupted()
            conds = model_wrap.conds
            answers = ask_pair(
                model_wrap.inner_model, conds["positive"], conds["negative"], x, sigma, extra_args["model_options"]
            )
            done[0] += 1
            if callback is not None:
                callback(done[0] - 1, source, source, self.questions)
            return answers

        levels = Levels(model_wrap.inner_model.model_sampling)
        self.map = precomputed(source, extra_args["seed"] or 0, levels, ask, noises=self.noises, **self.scaling)
        return latent_image


def relevance_mask(
    model,
    samples: Tensor,
    sampler: RelevanceSampler,
    *,
    edit: list,
    empty: list,
    seed: int,
    callback: Callable | None = None,
) -> Tensor:
    """The map of a picture in pixels.

    Args:
        model: MODEL that is asked.
        samples: (B, C, H, W) as a VAE gives them.
        edit, empty: CONDITIONING.
        seed: of the noises.
        callback: as samplers call it.

    Returns:
        (B, height, width) in [0, 1], float32, where the samples lie.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": edit, "negative": empty})
    # a sampler needs a step to be called at all
    sigmas = torch.tensor([1.0, 0.0])
    guider.sample(torch.zeros_like(samples), samples, sampler, sigmas, callback=callback, seed=seed)
    ratio = getattr(model.model.latent_format, "spacial_downscale_ratio", 8)
    cells = sampler.map.to(samples.device, torch.float32)
    return F.interpolate(cells, scale_factor=ratio, mode="bilinear", align_corners=False)[:, 0]
