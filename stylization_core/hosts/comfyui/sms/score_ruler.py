"""The Style Matching Score of given pictures: how far a model's style and its base disagree about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.model_management
import torch
from torch import Tensor

from ....finite import check_finite
from ....randomness import stream
from ....sms.schedule import SUBSTEPS, vp_sigma
from ..model import Levels
from .guider import ScoreSampler, StyleMatchingGuider
from .relevance_map import NOT_FINITE

SCORED_TIMESTEPS = (200, 400, 600)
"""Levels of the reference chain; SMS visits 21 to 499."""


class ScoreRuler(ScoreSampler):
    """Runs as a SAMPLER under a :class:`StyleMatchingGuider`; the latent comes back as it was.

    The score at a level is the root mean square of (D_style - D_base) / sigma over noises, channels and cells: of the
    difference of the two noise predictions, as in the gradient of SMS but for its weight w_t, which would let the
    highest level rule. sigma is the noise-to-signal ratio, for flow models too; 1 is as much as the noise itself.

    Range and direction: [0, inf), lower is nearer: style and base agree where a picture already lies where the style
    would take it.
    Source: Style Matching Score (arXiv 2503.07601), its integrand at set levels.
    On the pocket model pictures of a style have 0.14 to 0.30, held-out ones too, and photographs 0.25 to 0.8.
    What fools it: SMS optimises exactly this, so for its results it is shown and never proof. It goes by the model:
    a picture that neither network knows can have any score, and a plain grey, in which there is little to style, has
    a lower one than photographs. Numbers of two LoRAs, prompts or strengths are not comparable; those of two pictures
    of one size under the same settings are.

    Args:
        timesteps: levels of the reference chain, 1 .. 999.
        draws: noises at each level; the same for every picture, whatever the batch.

    Attributes:
        scores: (levels, B) float64 on the CPU after a run.
    """

    def __init__(self, timesteps: Sequence[int] = SCORED_TIMESTEPS, draws: int = 2):
        self.timesteps, self.draws = tuple(timesteps), draws
        self.scores: Tensor | None = None

    def work(self, sigmas: Tensor) -> str:
        """As the parent's."""
        return f"style score: {len(self.timesteps) * self.draws} questions"

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_others, **_named):
        """Called by the guider."""
        x, draws = latent_image.float(), stream(extra_args["seed"] or 0, "score.ruler")
        levels = Levels(model_wrap.inner_model.model_sampling)
        total = len(self.timesteps) * self.draws
        rows = []
        for number, timestep in enumerate(self.timesteps):
            sigma = levels.model(vp_sigma(timestep))
            squares = 0.0
            for draw in range(self.draws):
                comfy.model_management.throw_exception_if_processing_interrupted()
                unit_noise = torch.randn(x.shape[1:], generator=draws).to(x.device)
                noised = levels.noised(x, unit_noise.expand_as(x), sigma)
                style, base = model_wrap.score_pair(noised, sigma, _progress(timestep), extra_args["model_options"])
                for name, prediction in (("the style", style), ("the base", base)):
                    subject = f"model, its prediction with {name} at sigma {sigma:.3g}"
                    check_finite(prediction, subject, NOT_FINITE)
                squares = squares + (style.float() - base.float()).square().mean((1, 2, 3)).cpu().double()
                if callback is not None:
                    callback(number * self.draws + draw, x, x, total)
            rows.append((squares / self.draws).sqrt() / levels.reference(sigma))
        self.scores = torch.stack(rows)
        return latent_image


def _progress(timestep: int) -> float:
    """The share of a published SMS run after which levels lie below this one, for percent windows of conditionings."""
    return max(0.0, 1 - timestep / SUBSTEPS)


def style_scores(
    guider: StyleMatchingGuider,
    samples: Tensor,
    seed: int,
    timesteps: Sequence[int] = SCORED_TIMESTEPS,
    draws: int = 2,
    callback: Callable | None = None,
) -> Tensor:
    """Scores of pictures.

    Args:
        guider: with conditionings and CFG.
        samples: (B, C, H, W) as a VAE gives them.
        seed: of the noise.
        callback: as samplers call it.

    Returns:
        float64 (levels, B).
    """
    ruler = ScoreRuler(timesteps, draws)
    guider.sample(torch.zeros_like(samples), samples, ruler, torch.tensor([1.0, 0.0]), callback=callback, seed=seed)
    return ruler.scores
