"""The Style Matching Score of pictures, by the run that the score's ruler makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import latent_preview
from torch import Tensor

from ....finite import check_finite
from ..sms import StyleMatchingGuider, StyleSource, style_scores

CAUSE = "The model made them at these pictures; a prompt, a LoRA or half precision often does this, try --force-fp32"


@dataclass(frozen=True)
class Asked:
    """What a score is asked with: numbers are comparable under equal ones.

    Attributes:
        positive, negative: CONDITIONING.
        cfg: of both predictions.
        timesteps: levels of the reference chain, 1 .. 999.
        draws: noises at each level.
        seed: of the noise.
    """

    positive: list
    negative: list
    cfg: float
    timesteps: Sequence[int]
    draws: int
    seed: int


def scored(model, style: StyleSource, samples: Tensor, asked: Asked) -> Tensor:
    """Scores of latents (B, C, H, W) as a VAE gives them.

    Returns:
        float64 (levels, B).

    Raises:
        StylizationError: scores that are not finite.
    """
    guider = StyleMatchingGuider(model, style)
    guider.inner_set_conds({"positive": asked.positive, "negative": asked.negative})
    guider.set_cfg(asked.cfg)
    callback = latent_preview.prepare_callback(model, len(asked.timesteps) * asked.draws)
    scores = style_scores(guider, samples, asked.seed, asked.timesteps, asked.draws, callback)
    return check_finite(scores, "the scores", CAUSE)


def summed(timesteps: Sequence[int], images: Tensor, content: Tensor | None = None) -> dict:
    """Scores (levels, B) as a report: of each picture, its mean and that of each level, and the mean of all.

    Args:
        content: of the photo, or of one per picture: adds its own, and the share of the way that is gone.
    """
    rows = [_row(timesteps, levels) for levels in images.T.tolist()]
    report = {"score": sum(row["score"] for row in rows) / len(rows), "pictures": rows}
    if content is not None:
        report["content"] = [_row(timesteps, levels) for levels in content.T.tolist()]
        for number, row in enumerate(rows):
            whole = report["content"][number % len(report["content"])]["score"]
            row["share_of_the_way"] = 1 - row["score"] / whole if whole > 0 else None
    return report


def _row(timesteps: Sequence[int], levels: Sequence[float]) -> dict:
    named = {str(timestep): value for timestep, value in zip(timesteps, levels, strict=True)}
    return {"score": sum(levels) / len(levels), "levels": named}
