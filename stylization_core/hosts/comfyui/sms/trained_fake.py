"""The trained fake score of SMS: a LoRA on a private copy of the network learns what the latent looks like by now.

Source: SMS (arXiv 2503.07601) and its public code: peft, rank 8, alpha 32, on the query and value projections; after
each iteration one AdamW step (1e-3, no decay) on the plain denoising loss of the positive prompt alone.

:class:`TrainedFake` works on a twin of the loaded network, see :mod:`differentiable`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....errors import StylizationError
from ....packages import TRAINING, command
from ....randomness import stream
from ..model import (
    Branch,
    Gradients,
    autograd,
    differentiable_options,
    network_bytes,
    on_one_device,
    predict,
    refuse_weight_hooks,
    twin_of,
    untrainable,
    with_untrained_controls,
)

RANK, ALPHA, LEARNING_RATE = 8, 32, 1e-3
TARGETS = ("to_q", "to_v")
FUSED = ("qkv", "linear1")
"""Where query, key and value are one layer (Flux, SD3), it is adapted, and the rows that are neither stay zero."""

ADAPTER = "default"
REMEDY = "Choose the fake score 'frozen'"


def published_weight(sigma_k: float) -> float:
    """Weight of ``mean((D - x)^2)`` that makes it the published loss ``mean((abar e - abar eps)^2)``.

    With sigma_k^2 = (1 - abar) / abar and D = x_k - sigma_k e, it is abar^2 / sigma_k^2.
    """
    abar = 1 / (1 + sigma_k**2)
    return (abar / sigma_k) ** 2


def refuse_untrainable(patcher) -> None:
    """Refuse a loaded MODEL whose network cannot be copied and trained. Call it inside the sampling run.

    Raises:
        StylizationError: the model is partly offloaded or managed by dynamic VRAM, its weights are quantised, its
            network is compiled, or it has no layers that could be adapted; peft cannot be imported.
    """
    network = patcher.model.diffusion_model
    reason = untrainable(patcher) or _not_adaptable(network)
    if reason:
        raise StylizationError("model", f"{reason}, so a trained fake score cannot be made of it", REMEDY)
    _check_peft()


def _check_peft() -> None:
    """It is no requirement of the pack, since nothing else asks for it."""
    try:
        import peft  # noqa: F401
    except (ImportError, RuntimeError) as error:
        cause = str(error).strip().splitlines()[0][:120]
        found = f"the trained one needs peft, which cannot be imported ({cause})"
        remedy = f"Run `{command(TRAINING)}` and restart ComfyUI, or choose the fake score 'frozen'"
        raise StylizationError("fake_score", found, remedy) from error


def _not_adaptable(network: nn.Module) -> str | None:
    layers = _target_layers(network)
    if not layers:
        return f"its network has no layers named {', '.join((*TARGETS, *FUSED))}"
    odd = next((type(layer).__name__ for layer in layers if not isinstance(layer, nn.Linear)), None)
    return None if odd is None else f"its attention projections are no linear layers but {odd}"


def _named(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    return [module for path, module in network.named_modules() if path.rpartition(".")[2] in names]


def _target_names(network: nn.Module) -> tuple[str, ...]:
    return TARGETS if _named(network, TARGETS) else FUSED


def _target_layers(network: nn.Module) -> list[nn.Module]:
    return _named(network, _target_names(network))


def training_bytes(patcher, rank: int = RANK) -> int:
    """Bytes that a :class:`TrainedFake` of this MODEL holds: copied weights, adapter, its gradients and moments.

    The activations that one training step keeps for its backward pass come on top; they grow with batch and size.
    """
    layers = _target_layers(patcher.model.diffusion_model)
    adapter = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    return network_bytes(patcher) + 4 * adapter * torch.float32.itemsize


class TrainedFake:
    """The fake score of one SMS run; close it, or use it in a ``with`` statement, so that its memory is given back.

    Args:
        inner_model: the loaded ``BaseModel``, its ``current_patcher`` set; see :func:`refuse_untrainable`. Weights
            as patched by now, so LoRAs of the base belong to the fake's base too. It is not changed.
        rank, alpha: of the LoRA; its product is scaled by alpha / rank.
        lr: learning rate of AdamW.
        seed: of the LoRA's start. The up factor starts at zero: the first predictions are the base's, bit for bit.
    """

    def __init__(
        self, inner_model, *, rank: int = RANK, alpha: float = ALPHA, lr: float = LEARNING_RATE, seed: int = 0
    ):
        # outside inference mode whatever is made here is an ordinary tensor, also as a copy of an inference tensor
        with torch.inference_mode(False):
            self._twin = twin_of(inner_model, REMEDY)
            self._factors = _inject(self._twin.diffusion_model, rank, alpha, seed)
            self._optimizer = torch.optim.AdamW(list(self._factors), lr=lr, weight_decay=0.0, eps=1e-8)
        self._gradients = Gradients()
        self._steps, self._untaken = 0, None

    def __enter__(self) -> TrainedFake:
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def close(self) -> None:
        """Drop the copy, the adapter and the optimiser, and say what was not trained; a second call does nothing."""
        if self._untaken is not None and (untaken := int(self._untaken)):
            text = "[Stylization] trained fake score: %d of %d training steps had gradients that are not finite"
            logging.warning(text, untaken, self._steps)
        self._untaken = None
        self._twin, self._factors, self._optimizer = None, {}, None

    def predict(
        self, requests: Sequence[tuple[Branch, list]], x: Tensor, level: Tensor, model_options: dict
    ) -> list[Tensor]:
        """Denoised predictions of the fake, one (B, C, H, W) per request; arguments as of ``model.predict``."""
        _refuse_hooks(requests)
        with torch.no_grad():
            return predict(self._open(), requests, x, level, on_one_device(model_options))

    def train(
        self,
        request: tuple[Branch, list],
        clean: Tensor,
        noised: Tensor,
        level: Tensor,
        weight: float,
        model_options: dict,
    ) -> Tensor:
        """One AdamW step on ``weight * mean((D(noised) - clean)^2)``. Works inside inference mode.

        Where gradients overflow, as float16's may, the step is taken with none at all.

        Args:
            request: (branch, processed conditioning) of the positive prompt.
            clean: (B, C, H, W), the latent, in model scale.
            noised: (B, C, H, W), the same with noise, in model scale.
            level: (B,), noise level in the model's own parametrisation.
            weight: see :func:`published_weight`.
            model_options: of the run. Attention is PyTorch's here, whatever they say.

        Returns:
            The loss before the step, (), detached, still on the device.

        Raises:
            StylizationError: a node replaces the network's prediction, so that nothing is left to train.
        """
        _refuse_hooks([request])
        twin = self._open()
        asked = [(request[0], with_untrained_controls(request[1]))]
        options = differentiable_options(model_options)

        def loss() -> Tensor:
            (denoised,) = predict(twin, asked, noised, level, options)
            return weight * torch.mean((denoised.float() - clean.float()) ** 2)

        # float16 would lose gradients that the mean has divided by the number of elements
        scale = clean.numel()
        with autograd():
            before, gradients = self._gradients.of(loss, list(self._factors), scale)
            if all(gradient is None for gradient in gradients):
                cause = "a node on it replaces the network's prediction (a step cache, for instance)"
                raise StylizationError("model", f"{cause}, so the fake score cannot be trained", f"Remove it. {REMEDY}")
            self._descend(gradients, scale)
        return before

    def _open(self):
        if self._twin is None:
            raise RuntimeError("Stylization: this fake score has been closed.")
        return self._twin

    def _descend(self, gradients: Sequence[Tensor | None], scale: float) -> None:
        """One optimiser step."""
        finite = torch.stack([g.sum() for g in gradients if g is not None]).isfinite().all()
        # read at the end, so that no step waits for the device
        self._untaken = (~finite).long() + (0 if self._untaken is None else self._untaken)
        self._steps += 1
        for (factor, rows), gradient in zip(self._factors.items(), gradients, strict=True):
            if gradient is None:
                continue
            factor.grad = torch.where(finite, gradient / scale, 0.0)
            for unused in rows:
                factor.grad[unused] = 0.0
        self._optimizer.step()
        self._optimizer.zero_grad()


def _inject(network: nn.Module, rank: int, alpha: float, seed: int) -> dict[nn.Parameter, list[slice]]:
    """Put a float32 LoRA on the network; returns its factors, each with the rows that are never trained."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    names, draws = _target_names(network), stream(seed, "sms.adapter")
    # peft draws start values, which are replaced below, from the global generator
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(names)), network)
    factors: dict[nn.Parameter, list[slice]] = {}
    for layer in network.modules():
        if not isinstance(layer, LoraLayer):
            continue
        width, device = layer.in_features, layer.base_layer.weight.device
        # peft's distribution: Kaiming's uniform one with a = sqrt(5)
        start = torch.empty(rank, width).uniform_(-(width**-0.5), width**-0.5, generator=draws)
        layer.lora_A[ADAPTER].weight = down = nn.Parameter(start.to(device))
        layer.lora_B[ADAPTER].weight = up = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        factors[down] = []
        # query, key and value come first, each as wide as the input
        factors[up] = [slice(width, 2 * width), slice(3 * width, None)] if names is FUSED else []
    network.train(False)
    return factors


def _refuse_hooks(requests: Sequence[tuple[Branch, list]]) -> None:
    for _, conditioning in requests:
        refuse_weight_hooks(conditioning, "positive and negative", f"Load that LoRA with 'Load LoRA'. {REMEDY}")
