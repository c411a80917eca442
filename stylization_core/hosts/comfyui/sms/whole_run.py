"""Style Matching Score of one latent in one call: guider, noise levels and sampler put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import Levels
from .guider import FakeScore, StyleMatchingGuider
from .sampler import StyleMatchingSampler
from .style_source import StyleSource


@dataclass(frozen=True, eq=False)
class WholeRun:
    """Settings of a run from the latent to the result.

    Attributes:
        sampler: the optimisation.
        fake: what the style is compared with.
        steps: iterations.
        cfg: guidance of both predictions.
        seed: of noise and levels.
    """

    sampler: StyleMatchingSampler
    fake: FakeScore
    steps: int
    cfg: float
    seed: int


def match_style(
    model,
    style: StyleSource,
    samples: Tensor,
    conditionings: dict[str, list | None],
    run: WholeRun,
    *,
    mask: Tensor | None = None,
    callback: Callable | None = None,
) -> Tensor:
    """The latent after an SMS run over the published range of levels.

    Args:
        model: MODEL of the base.
        samples: (B, C, H, W) as a VAE gives them.
        conditionings: those of :class:`StyleMatchingGuider`; None is not connected.
        mask: (B or 1, 1, H, W), where the picture may change.
        callback: as samplers call it.
    """
    guider = StyleMatchingGuider(model, style, run.fake)
    guider.inner_set_conds({key: value for key, value in conditionings.items() if value is not None})
    guider.set_cfg(run.cfg)
    levels = Levels(model.get_model_object("model_sampling"))
    sigmas = levels.bounds(run.steps, 0.02, 0.5, True, samples.shape[-1] * samples.shape[-2])
    noise = torch.zeros_like(samples)
    return guider.sample(noise, samples, run.sampler, sigmas, denoise_mask=mask, callback=callback, seed=run.seed)
