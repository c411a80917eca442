"""The style score in the steps of an ordinary sampler."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ....errors import StylizationError
from ....sms.guidance import EditPath, added
from ..model import BASE, BRANCHES, Branch, predict
from ..sms import NOT_FINITE, PROMPT_PAIR, STYLE, RowGate, SecondModel
from .context import Missing, SamplingContext
from .settings import ScoreGuidance

HIGHEST = 1e4
"""Stands for the infinite noise-to-signal ratio of a flow's first level."""


NO_PICTURE = Missing(
    subject="latent_image",
    empty="Connect VAE Encode of your picture to latent_image of the sampler",
    noised="Edit in one sampler that starts from your picture and adds the noise, or set mode to add",
)


class Guidance:
    """Asks for the style's prediction beside the ones of the step, and adds the score or follows it alone.

    Attributes:
        holds: in the edit form, what else changes the estimate of a step; the path goes on from what they leave.
    """

    def __init__(self, run: SamplingContext, settings: ScoreGuidance):
        self.run, self.settings = run, settings
        self.window = run.window(settings)
        self.path = None
        if settings.edit:
            self.path = EditPath(run.content(None, NO_PICTURE))
        style = settings.style
        self.gate = None if style.branch is None else RowGate(style.branch, STYLE)
        self.second = None if style.patcher is None else SecondModel(style.patcher, run.guider.original_conds)
        self.holds: list = []
        self._answer: tuple | None = None
        self._finite: Tensor | None = None

    def open(self, denoise_mask: Tensor | None) -> None:
        """Make a second model ready."""
        if self.second is not None:
            noise, latent_image = self.run.noise, self.run.latent_image
            raw = self.run.guider.inner_model.process_latent_out(latent_image)
            self.second.open(noise, raw, noise.device, denoise_mask, self.run.sigmas, [noise.shape])

    def beside(self, executor, model, conds, x, level, options):
        """CALC_COND_BATCH wrapper: the style's row joins the batch of the step's own predictions.

        In the edit form both answers are the path's estimate, so that samplers which step along the negative one
        (CFG++) follow the path too; the negative prompt is not asked for, and nothing is outside the window.
        """
        sigma = self.run.sigma(level)
        own = options.get("transformer_options", {}).get(BRANCHES) is None and len(conds) == 2 and conds[0] is not None
        # the step's own question comes first; later ones about the same input are other nodes'
        own = own and (self._answer is None or self._answer[0] is not x or self._answer[1] != sigma)
        inside = self.window.open_at(sigma)
        if not own or (self.path is None and not inside):
            return executor(model, conds, x, level, options)
        pair = negative = None
        if inside:
            pair, negative = self._asked(model, conds, x, level, options, executor)
        if self.path is None:
            self._answer = (x, sigma, conds[0], pair)
            return [pair[1], torch.zeros_like(x) if negative is None else negative]
        estimate = self._estimate(pair, sigma).to(x)
        self._answer = (x, sigma, conds[0], estimate)
        return [estimate, torch.zeros_like(x) if conds[1] is None else estimate]

    def _asked(self, model, conds, x, level, options, executor):
        """((style, base) for the positive prompt, base for the negative one where it is used)."""
        requests = [(Branch(BASE, 0), conds[0])]
        negative = self.path is None and conds[1] is not None
        if negative:
            requests.append((Branch(BASE, 1), conds[1]))
        if self.second is None:
            requests.append((Branch(STYLE, 0), conds[0]))
        base, *others = predict(model, requests, x, level, options, self.gate, executor)
        style = others[-1] if self.second is None else self.second.predict(PROMPT_PAIR[:1], x, level, None)[0]
        return self._note((style, base)), others[0] if negative else None

    def act(self, denoised: Tensor, sigma: float, args: dict) -> Tensor:
        answer = self._answer
        own = answer is not None and answer[0] is args["input"] and answer[1] == sigma and answer[2] is args["cond"]
        inside = self.window.open_at(sigma)
        if self.path is None:
            if not inside:
                return denoised
            return added(denoised, *(answer[3] if own else self._pair(args)), self._strength())
        return answer[3] if own else self._estimate(self._pair(args) if inside else None, sigma).to(denoised)

    def _strength(self) -> float:
        return self.settings.strength * self.run.strength

    def _estimate(self, pair: tuple[Tensor, Tensor] | None, sigma: float) -> Tensor:
        """The path's, by the score of a (style, base) pair or without one."""
        score = torch.zeros_like(self.path.z)
        if pair is not None:
            score = self._strength() * (pair[0].float() - pair[1].float())
        ratio = min(self.run.levels.reference(sigma), HIGHEST)
        return self.path.denoised(score, ratio, (lambda estimate: self._held(estimate, sigma)) if self.holds else None)

    def _held(self, estimate: Tensor, sigma: float) -> Tensor:
        for hold in self.holds:
            estimate = hold.act(estimate, sigma)
        return estimate

    def _pair(self, args: dict) -> tuple[Tensor, Tensor]:
        """(style, base) for the prompt of a step whose own question was of another kind."""
        x, level = args["input"], args["sigma"]
        if self.second is not None:
            style = self.second.predict(PROMPT_PAIR[:1], x, level, None)[0]
        else:
            requests = [(Branch(STYLE, 0), args["cond"])]
            style = predict(args["model"], requests, x, level, self.run.model_options, self.gate)[0]
        return self._note((style, args["cond_denoised"]))

    def _note(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """``pair`` itself; whether it is finite is asked at the end, since an answer now would wait for the device."""
        finite = torch.isfinite(pair[0]).all() & torch.isfinite(pair[1]).all()
        self._finite = finite if self._finite is None else self._finite & finite
        return pair

    def check(self) -> None:
        """After the run.

        Raises:
            StylizationError: a prediction held NaN or infinite values, and with it the picture.
        """
        if self._finite is not None and not self._finite:
            raise StylizationError(
                "model", "the style's or the base's prediction held NaN or infinite values in this run", NOT_FINITE
            )

    def close(self) -> None:
        if self.second is not None:
            self.second.close()


def log_guidance(settings: ScoreGuidance) -> None:
    """Say beforehand what guidance costs."""
    rows = "2" if settings.edit else "3 (2 at CFG 1)"
    style = 0 if settings.style.branch is None else settings.style.branch.nbytes
    logging.info(
        "[Stylization] score guidance: %s model rows per picture and step; style deltas %.1f MiB beside the model",
        rows,
        style / 2**20,
    )
