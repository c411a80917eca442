"""Runs of one graph at several settings of the dial, for the content budget; the user's guider stays as it is."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.patcher_extension import WrappersMP
from PIL import Image
from torch import Tensor

from ....errors import StylizationError
from ....finite import check_finite
from ..attention import HOLISTIC, REGIONS, SHARED, SHARED_BATCH
from ..guidance import GUIDANCE
from ..model import DIAL, at_dial
from ..sms import ScoreSampler, StyleMatchingGuider

KEY = "stylization.budget"
DIALLED = (GUIDANCE, SHARED, SHARED_BATCH, HOLISTIC, REGIONS)
"""Keys of what the dial's factor turns on a MODEL."""

CAUSE = "a prompt, a LoRA or a model in half precision often does this, try --force-fp32"
PRECISE = "a VAE in half precision often does this, try --fp32-vae"
ADVICE = (
    "Put 'Stylize SMS Guidance', 'Stylize Shared Attention', 'Stylize Shared Attention (Batch)', 'Stylize Holistic "
    "Injector' or 'Stylize Class-Adaptive Attention' on the MODEL, or connect 'Stylize SMS Guider' with 'Stylize SMS "
    "Sampler'"
)


def dialled(guider, factor: float):
    """A copy of a GUIDER whose operators act at a factor of their strength.

    Its MODELs are clones, and so are those of guiders that it wraps; nothing of the given one changes.

    Raises:
        StylizationError: a guider that keeps no MODEL where ComfyUI's own do.
    """
    _refuse_unknown(guider)
    made = copy.copy(guider)
    for name, kept in _parts(guider):
        setattr(made, name, dialled(kept, factor) if _is_guider(kept) else at_dial(kept, factor))
    own = guider.model_options is guider.model_patcher.model_options
    made.model_options = made.model_patcher.model_options if own else _with_dial(guider.model_options, factor)
    return made


def _with_dial(options: dict, factor: float) -> dict:
    options = comfy.model_patcher.create_model_options_clone(options)
    return {**options, "transformer_options": {**options.get("transformer_options", {}), DIAL: factor}}


def _is_guider(kept: object) -> bool:
    return isinstance(kept, comfy.samplers.CFGGuider)


def _parts(guider) -> Iterator[tuple[str, object]]:
    """What the dial is to be set on: attributes that are a MODEL or a guider."""
    for name, kept in vars(guider).items():
        if _is_guider(kept) or isinstance(kept, comfy.model_patcher.ModelPatcher):
            yield name, kept


def _refuse_unknown(guider) -> None:
    patcher = getattr(guider, "model_patcher", None)
    if isinstance(patcher, comfy.model_patcher.ModelPatcher) and hasattr(guider, "model_options"):
        return
    raise StylizationError(
        "guider",
        f"a {type(guider).__name__} keeps its MODEL where this node does not find it",
        "Use CFGGuider, BasicGuider, DualCFGGuider or 'Stylize SMS Guider', or connect model with its prompts",
    )


def turns(guider, sampler) -> bool:
    """Whether the dial turns anything in a run of this guider.

    Raises:
        StylizationError: as :func:`dialled`.
    """
    _refuse_unknown(guider)
    if isinstance(guider, StyleMatchingGuider) and isinstance(sampler, ScoreSampler):
        return True
    for _, kept in _parts(guider):
        if turns(kept, sampler) if _is_guider(kept) else any(kept.get_attachment(key) for key in DIALLED):
            return True
    return False


def refuse_idle(guider, sampler, subject: str) -> None:
    """Refuse a guider on which the dial would turn nothing.

    Raises:
        StylizationError: names the nodes that it could turn.
    """
    if not turns(guider, sampler):
        raise StylizationError(
            subject,
            "nothing on it stylizes by a strength, so every setting would give the same picture",
            ADVICE,
        )


def thinned(sigmas: Tensor, steps: int) -> Tensor:
    """So many steps of a run, its first and last level among them; 0, or as many as there are, is all of them."""
    last = len(sigmas) - 1
    if steps <= 0 or steps >= last:
        return sigmas
    return sigmas[torch.linspace(0, last, steps + 1).round().long()]


class Runs:
    """Runs of a guider with one noise, each setting once; what they gave is kept.

    Args:
        guider: GUIDER, as the user has it.
        noise: NOISE; asked once.
        latent: LATENT, its channels fixed already.
        vae: VAE.
    """

    def __init__(self, guider, sampler, noise, latent: dict, vae):
        self.guider, self.sampler, self.latent, self.vae = guider, sampler, latent, vae
        self.noise, self.seed = noise.generate_noise(latent), noise.seed
        self.kept: dict[tuple[float, int], Tensor] = {}
        self.calls, self.seconds, self.steps = 0, 0.0, 0
        patcher = guider.model_patcher
        self.expect(1)
        self._previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)

    def expect(self, steps: int) -> None:
        """So many steps will come, of all runs together: the end of the progress bar."""
        self.most, self._bar = steps, comfy.utils.ProgressBar(steps)

    def __call__(self, factor: float, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (B, C, h, w) and pictures (B, H, W, 3) at a factor.

        Raises:
            StylizationError: NaN or infinite values, in either.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        key = factor, len(sigmas)
        if key not in self.kept:
            started = time.perf_counter()
            self.kept[key] = self._sampled(factor, sigmas)
            self.seconds += time.perf_counter() - started
        pictures = decoded(self.vae, self.kept[key])
        return self.kept[key], check_finite(pictures, "vae", f"It decodes the run at strength {factor:.4g}; {PRECISE}")

    def show(self, picture: Tensor) -> None:
        """End the progress with a picture (1, H, W, 3): frontends leave the last preview on a node."""
        shown = Image.fromarray((picture[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
        self._bar.update_absolute(self.most, self.most, ("JPEG", shown, max(shown.size)))

    def _sampled(self, factor: float, sigmas: Tensor) -> Tensor:
        guider = dialled(self.guider, factor)
        guider.model_patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self._count)
        samples = guider.sample(
            self.noise.clone(),
            self.latent["samples"],
            self.sampler,
            sigmas,
            denoise_mask=self.latent.get("noise_mask"),
            callback=self._callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=self.seed,
        )
        self.steps += len(sigmas) - 1
        self._bar.update_absolute(self.steps, max(self.most, self.steps))
        check_finite(samples, f"the run at strength {factor:.4g}", f"Lower 'strongest' or the nodes' strength; {CAUSE}")
        return samples.to(comfy.model_management.intermediate_device())

    def _count(self, executor, *args, **kwargs):
        self.calls += 1
        return executor(*args, **kwargs)

    def _callback(self, step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        preview = None if self._previewer is None else self._previewer.decode_latent_to_preview_image("JPEG", denoised)
        self._bar.update_absolute(min(self.steps + step + 1, self.most), self.most, preview)


def decoded(vae, samples: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) of samples, as VAE Decode makes them."""
    pictures = vae.decode(samples)
    return pictures.reshape(-1, *pictures.shape[-3:]) if pictures.ndim == 5 else pictures
