"""Sampling runs in which a test asks the loaded model for predictions, and whole SMS runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from stylization.stylization_core.hosts.comfyui.model.noise_levels import Levels
from stylization.stylization_core.hosts.comfyui.model.predictions import predict
from stylization.stylization_core.hosts.comfyui.model.rows import CHUNKS, Branch
from stylization.stylization_core.hosts.comfyui.sms.guider import FakeScore, StyleMatchingGuider
from stylization.stylization_core.hosts.comfyui.sms.row_gate import RowGate
from stylization.stylization_core.hosts.comfyui.sms.sampler import StyleMatchingSampler
from stylization.stylization_core.hosts.comfyui.sms.settings import Refinement, SpectrumHold
from stylization.stylization_core.hosts.comfyui.sms.style_source import find_style

SIGMA = 0.7
STYLE = Branch("style", 0)
STYLE_NEGATIVE = Branch("style", 1)
BASE = Branch("base", 0)
BASE_NEGATIVE = Branch("base", 1)
FOUR = ((STYLE, "positive"), (STYLE_NEGATIVE, "negative"), (BASE, "positive"), (BASE_NEGATIVE, "negative"))
"""What one SMS step asks: (branch, key of the conditioning)."""


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latent(*shape: int) -> torch.Tensor:
    """A LATENT of two pictures of 96x80 pixels, or of another shape."""
    return drawn(*(shape or (2, 4, 12, 10)), seed=11)


def moved(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of an element."""
    return (one - other).abs().max().item()


def conditioning(seed: int, width: int = 64, pooled: int = 0, tokens: int = 7, **entries) -> list:
    """A CONDITIONING of random tokens."""
    if pooled:
        entries["pooled_output"] = drawn(1, pooled, seed=seed + 100)
    return [[drawn(1, tokens, width, seed=seed), entries]]


def pair(width: int = 64, pooled: int = 0) -> dict[str, list]:
    """Positive and negative conditioning."""
    return {"positive": conditioning(1, width, pooled), "negative": conditioning(2, width, pooled)}


class _Question(comfy.samplers.Sampler):
    def __init__(self, ask: Callable):
        self.ask, self.answer = ask, None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_others, **_named):
        self.answer = self.ask(model_wrap, extra_args["model_options"])
        return latent_image


def inside(patcher, conditionings: dict[str, list], latent: torch.Tensor, ask: Callable):
    """What ``ask(guider, model_options)`` returns inside a sampling run of ``patcher``, everything loaded."""
    guider = comfy.samplers.CFGGuider(patcher)
    guider.inner_set_conds(conditionings)
    question = _Question(ask)
    with torch.inference_mode():
        guider.sample(torch.zeros_like(latent), latent, question, torch.tensor([SIGMA, 0.0]), seed=0)
    return question.answer


def plain(patcher, conditionings: dict, x: torch.Tensor, sigma: float = SIGMA, together: bool = True) -> dict:
    """Denoised predictions by key, by ComfyUI alone; all conditionings in one call or each by itself."""

    def ask(guider, options):
        level = x.new_full((x.shape[0],), sigma)
        groups = [list(conditionings)] if together else [[key] for key in conditionings]
        found = {}
        for keys in groups:
            lists = [guider.conds[key] for key in keys]
            answers = comfy.samplers.calc_cond_batch(guider.inner_model, lists, x, level, options)
            found.update(zip(keys, answers, strict=True))
        return found

    return inside(patcher, conditionings, x, ask)


def gated(patcher, branch, conditionings: dict[str, list], requests: Iterable[tuple[Branch, str]], x) -> list:
    """Denoised predictions of named branches with ``branch`` gated to the rows of the style."""

    def ask(guider, options):
        level = x.new_full((x.shape[0],), SIGMA)
        asked = [(request, guider.conds[key]) for request, key in requests]
        return predict(guider.inner_model, asked, x, level, options, RowGate(branch, "style"))

    return inside(patcher, conditionings, x, ask)


def layout_tolerance(patcher, conditionings: dict[str, list], x: torch.Tensor) -> float:
    """How far the unpatched model's own predictions differ between one batch and row by row calls."""
    batched = plain(patcher, conditionings, x)
    single = [plain(patcher, conditionings, x[[row]], together=False) for row in range(x.shape[0])]
    return max((batched[key] - torch.cat([one[key] for one in single])).abs().max().item() for key in batched)


def split_calls(monkeypatch, patcher) -> None:
    """Let ComfyUI believe that memory is short, so that every chunk becomes a call of its own."""
    monkeypatch.setattr(patcher.model, "memory_required", lambda *args, **kwargs: float("inf"))


def recording(patcher) -> tuple:
    """(clone, calls): a clone that notes every model call as (cond_or_uncond, branch names, rows)."""
    calls: list[tuple] = []

    def note(executor, x, *args, **kwargs):
        options = args[4]
        names = tuple(branch.name for branch in options.get(CHUNKS, ()))
        calls.append((tuple(options["cond_or_uncond"]), names, x.shape[0]))
        return executor(x, *args, **kwargs)

    clone = patcher.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test.recording", note)
    return clone, calls


def guider(model, style_model=None, conditionings: dict | None = None, cfg: float = 4.5, **fake) -> StyleMatchingGuider:
    made = StyleMatchingGuider(model, find_style(model, style_model), FakeScore(**fake))
    made.inner_set_conds(pair() if conditionings is None else conditionings)
    made.set_cfg(cfg)
    return made


def bounds(model, steps: int, latent: torch.Tensor | None = None, narrowing: bool = True) -> torch.Tensor:
    """SIGMAS over the published range of levels."""
    cells = None if latent is None else latent.shape[-1] * latent.shape[-2]
    return Levels(model.get_model_object("model_sampling")).bounds(steps, 0.02, 0.5, narrowing, cells)


def sms(
    model,
    latent: torch.Tensor,
    style_model=None,
    *,
    conditionings: dict | None = None,
    steps: int = 4,
    cfg: float = 4.5,
    seed: int = 3,
    mask: torch.Tensor | None = None,
    callback: Callable | None = None,
    sigmas: torch.Tensor | None = None,
    spectrum: float = 1.0,
    proximal: bool = False,
    color: float = 1.0,
    relevance_floor: float | None = None,
    live: bool = False,
    blend: float = 0.0,
    trained: bool = False,
    **settings,
) -> torch.Tensor:
    """A whole SMS run; ``settings`` are those of the sampler."""
    made = guider(model, style_model, conditionings, cfg, blend=blend, trained=trained)
    hold = SpectrumHold(weight=spectrum, proximal=proximal, color=color)
    refinement = None if relevance_floor is None else Refinement(relevance_floor, live=live)
    sampler = StyleMatchingSampler(spectrum=hold, refinement=refinement, **settings)
    sigmas = bounds(model, steps, latent) if sigmas is None else sigmas
    with torch.inference_mode():
        return made.sample(
            torch.zeros_like(latent), latent, sampler, sigmas, denoise_mask=mask, callback=callback, seed=seed
        )
