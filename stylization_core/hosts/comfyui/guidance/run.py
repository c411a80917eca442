"""Regularizer, refiner, score guidance and protected regions in the steps of an ordinary sampler.

One wrapper around the sampler reads what the nodes left on the MODEL (``settings``), builds everything the run needs,
and puts it into the run's own copy of the model options; so nothing outlives the run. SMS reads the same settings
itself and passes through here untouched.
"""

from __future__ import annotations

import logging

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....errors import naming
from ..model import dial, foreign_cfg_functions, with_wrapper
from ..sms import PROTECTION, REFINEMENT, SPECTRUM, RelevanceSampler, ScoreSampler
from .context import SamplingContext
from .holds import Protector, Refiner, Regularizer
from .score import Guidance
from .settings import GUIDANCE

KEY = "stylization.sampling"

CFG_FUNCTIONS = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")


def acting(patcher):
    """The MODEL (a clone already) with the wrapper that makes its attached settings act in ordinary sampling."""
    if not patcher.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _around_sampler)
    return patcher


def _around_sampler(
    executor, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *others, **named
):
    """SAMPLER_SAMPLE wrapper."""
    strength = dial(extra_args["model_options"])
    rest = (callback, noise, latent_image, denoise_mask, *others)
    # these ask for predictions and take no steps from noise to a picture
    if isinstance(executor.class_obj, (ScoreSampler, RelevanceSampler)) or strength == 0:
        return executor(model_wrap, sigmas, extra_args, *rest, **named)
    context = SamplingContext(model_wrap, sigmas, extra_args, noise, latent_image, strength)
    context.clean_input = getattr(executor.class_obj, "clean_input", False)
    run = _Run(context)
    try:
        run.open(denoise_mask)
        if run.acts:
            extra_args = {**extra_args, "model_options": run.options()}
        result = executor(model_wrap, sigmas, extra_args, *rest, **named)
        run.check()
        return result
    finally:
        run.close()


class _Run:
    """What acts in one sampling run, in the order guidance, refiner, regularizer, protection."""

    def __init__(self, context: SamplingContext):
        self.context = context
        self.holds: list = []
        self.asking: list = []
        self.guidance = None

    def open(self, denoise_mask: Tensor | None) -> None:
        """Build what acts; :meth:`close` is due afterwards, also where this fails."""
        attached = self.context.guider.model_patcher.get_attachment
        guidance, refinement, spectrum, region = map(attached, (GUIDANCE, REFINEMENT, SPECTRUM, PROTECTION))
        if guidance is not None and guidance.strength != 0 and self.context.entered(guidance):
            with naming(guidance.node):
                self.guidance = Guidance(self.context, guidance)
                self.asking.append(self.guidance)
                self.guidance.open(denoise_mask)
        if refinement is not None and self.context.entered(refinement):
            with naming(refinement.node):
                refiner = Refiner(self.context, refinement)
            self.asking.append(refiner)
            self.holds.append(refiner)
        if spectrum is not None and spectrum.hold != 0 and self.context.entered(spectrum):
            with naming(spectrum.node):
                self.holds.append(Regularizer(self.context, spectrum))
        if region is not None and region.strength != 0 and self.context.entered(region):
            with naming(region.node):
                self.holds.append(Protector(self.context, region))
        if self.guidance is not None and self.guidance.path is not None:
            # the path goes on from the estimate as it is after the holds, which otherwise a later step would forget
            self.guidance.holds, self.holds = self.holds, []

    def check(self) -> None:
        """After the run: refuse a result that was made from answers of the model which are not finite."""
        for part in self.asking:
            part.check()

    @property
    def acts(self) -> bool:
        """Whether anything changes the run."""
        return self.guidance is not None or bool(self.holds)

    def options(self) -> dict:
        """The run's model options with our functions at the end of the CFG chain."""
        options = dict(self.context.model_options)
        if self.guidance is not None and self.guidance.path is not None:
            # the estimate is the path's own: what other nodes put around guidance would be asked for in vain
            names = foreign_cfg_functions(options)
            if names:
                text = "[Stylization] guidance in mode edit replaces the guided prediction; without effect in it: %s"
                logging.warning(text, ", ".join(names))
            options = {key: value for key, value in options.items() if key not in CFG_FUNCTIONS}
        options["sampler_post_cfg_function"] = [*options.get("sampler_post_cfg_function", []), self]
        if self.guidance is not None:
            # innermost: other wrappers see the two predictions that they expect
            options = with_wrapper(options, WrappersMP.CALC_COND_BATCH, KEY, self.guidance.beside)
        return options

    def __call__(self, args: dict) -> Tensor:
        """Post-CFG function."""
        denoised, sigma = args["denoised"], self.context.sigma(args["sigma"])
        if self.guidance is not None:
            denoised = self.guidance.act(denoised, sigma, args)
        for hold in self.holds:
            denoised = hold.act(denoised, sigma)
        return denoised

    def close(self) -> None:
        """Take down a second model, and let go of what acts: it knows the run, which keeps its MODEL."""
        if self.guidance is not None:
            self.guidance.close()
            self.guidance.holds = []
        self.holds, self.asking, self.guidance = [], [], None
