"""The trained fake score of SMS: a LoRA on a private copy of the network learns what the latent looks like by now.

Source: SMS (arXiv 2503.07601) and its public code: peft, rank 8, alpha 32, on the query and value projections; after
each iteration one AdamW step (1e-3, no decay) on the plain denoising loss of the positive prompt alone.

The loaded network cannot be trained as it is: other nodes share it, and weights that a loader node has made are
inference tensors, which autograd refuses. So :class:`TrainedFake` works on a deep copy, made of ordinary tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import comfy.hooks
import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import StylizationError
from ...randomness import stream
from ...saved_tensors import copied_before_writing
from .branches import Branch, predict

RANK, ALPHA, LEARNING_RATE = 8, 32, 1e-3
TARGETS = ("to_q", "to_v")
FUSED = ("qkv", "linear1")
"""Where query, key and value are one layer (Flux, SD3), it is adapted, and the rows that are neither stay zero."""

ADAPTER = "default"
TRAINABLE = (torch.float16, torch.bfloat16, torch.float32)
COMPILED = "torch.compile"
"""Under this key ComfyUI's compile node wraps the model call and puts the compiled network in the place of ours."""

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
            network is compiled, or it has no layers that could be adapted.
    """
    network = patcher.model.diffusion_model
    found = _not_in_place(patcher) or _compiled(patcher, network) or _quantised(network) or _not_adaptable(network)
    if found:
        raise StylizationError("model", f"{found}, so a trained fake score cannot be made of it", REMEDY)


def _not_in_place(patcher) -> str | None:
    if hasattr(patcher, "is_dynamic") and patcher.is_dynamic():
        return "ComfyUI's dynamic VRAM moves its weights in and out while it runs"
    loaded, size = patcher.loaded_size(), patcher.model_size()
    if patcher.model.model_lowvram or patcher.lowvram_patch_counter() > 0 or loaded < size:
        return f"it is only partly in the GPU's memory ({loaded / 2**20:.0f} of {size / 2**20:.0f} MiB)"
    return None


def _compiled(patcher, network: nn.Module) -> str | None:
    wrappers = (patcher.wrappers, patcher.model_options["transformer_options"].get("wrappers", {}))
    wrapped = any(COMPILED in kinds.get(WrappersMP.APPLY_MODEL, {}) for kinds in wrappers)
    # the attribute that torch documents for telling an OptimizedModule; its class would import the compiler
    if wrapped or any("_orig_mod" in module._modules for module in network.modules()):
        return "its network is compiled (torch.compile)"
    return None


def _quantised(network: nn.Module) -> str | None:
    for name, weight in network.named_parameters():
        if type(weight) not in (nn.Parameter, Tensor):
            return f"its weights are quantised ({name} is a {type(weight).__name__})"
        if weight.dtype not in TRAINABLE:
            return f"its weights are quantised ({name} has dtype {weight.dtype})"
    return None


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
    network = patcher.model.diffusion_model
    weights = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    adapter = sum(rank * (layer.in_features + layer.out_features) for layer in _target_layers(network))
    return weights + 4 * adapter * torch.float32.itemsize


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
            self._twin = _twin(inner_model)
            self._factors = _inject(self._twin.diffusion_model, rank, alpha, seed)
            self._optimizer = torch.optim.AdamW(list(self._factors), lr=lr, weight_decay=0.0, eps=1e-8)
        self._overwriting = False

    def __enter__(self) -> TrainedFake:
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def close(self) -> None:
        """Drop the copy, the adapter and the optimiser; a second call does nothing."""
        self._twin, self._factors, self._optimizer = None, {}, None

    def predict(
        self, requests: Sequence[tuple[Branch, list]], x: Tensor, level: Tensor, model_options: dict
    ) -> list[Tensor]:
        """Denoised predictions of the fake, one (B, C, H, W) per request; arguments as of ``branches.predict``."""
        _refuse_weight_hooks(requests)
        with torch.no_grad():
            return predict(self._open(), requests, x, level, _on_one_device(model_options))

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
        _refuse_weight_hooks([request])
        twin = self._open()
        asked = [(request[0], _with_untrained_controls(request[1]))]
        options = _differentiable(model_options)

        def loss() -> Tensor:
            with _OrdinaryTensors():
                (denoised,) = predict(twin, asked, noised, level, options)
                return weight * torch.mean((denoised.float() - clean.float()) ** 2)

        # float16 would lose gradients that the mean has divided by the number of elements
        scale = clean.numel()
        with _autograd():
            found, gradients = self._differentiated(loss, scale)
            self._descend(gradients, scale)
        return found

    def _open(self):
        if self._twin is None:
            raise RuntimeError("Stylization: this fake score has been closed.")
        return self._twin

    def _differentiated(self, loss: Callable[[], Tensor], scale: float) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The loss, and ``scale`` times its gradients by the factors."""
        if not self._overwriting:
            try:
                return self._differentiated_once(loss, scale)
            except RuntimeError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
            # Flux, residuals of ControlNets and some patches are written into tensors that the backward pass needs.
            # Keeping copies of those costs time at every operation, so it is done only where it has to be.
            self._overwriting = True
        with copied_before_writing():
            return self._differentiated_once(loss, scale)

    def _differentiated_once(self, loss: Callable[[], Tensor], scale: float):
        found, gradients = loss(), ()
        if found.requires_grad:
            # never backward(): it would leave gradients on parameters of other nodes' patches
            gradients = torch.autograd.grad(found * scale, list(self._factors), allow_unused=True)
        if all(gradient is None for gradient in gradients):
            cause = "a node on it replaces the network's prediction (a step cache, for instance)"
            raise StylizationError("model", f"{cause}, so the fake score cannot be trained", f"Remove it. {REMEDY}")
        return found.detach(), gradients

    def _descend(self, gradients: Sequence[Tensor | None], scale: float) -> None:
        """One optimiser step."""
        finite = torch.stack([g.sum() for g in gradients if g is not None]).isfinite().all()
        for (factor, rows), gradient in zip(self._factors.items(), gradients, strict=True):
            if gradient is None:
                continue
            factor.grad = torch.where(finite, gradient / scale, 0.0)
            for unused in rows:
                factor.grad[unused] = 0.0
        self._optimizer.step()
        self._optimizer.zero_grad()


def _twin(inner_model):
    """The ``BaseModel`` once more around a deep copy of its network; all else is shared, and nothing written to it."""
    try:
        network = copy.deepcopy(inner_model.diffusion_model)
    except TypeError as error:
        found = f"its network cannot be copied, since a node has put something on it ({error})"
        raise StylizationError("model", found, REMEDY) from error
    network.requires_grad_(False)
    twin = copy.copy(inner_model)
    # a module's shallow copy shares the dictionaries of its submodules, parameters and hooks with the original
    for name, value in vars(inner_model).items():
        if isinstance(value, (dict, set)):
            vars(twin)[name] = value.copy()
    twin.diffusion_model = network
    return twin


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


@contextmanager
def _autograd() -> Iterator[None]:
    """Autograd inside a node, where ComfyUI has switched on inference mode; forward-only kernels are switched off."""
    # newer ComfyUI: fused rotary embeddings and activations have no backward
    before = getattr(comfy.model_management, "in_training", None)
    with torch.inference_mode(False), torch.enable_grad():
        try:
            if before is not None:
                comfy.model_management.in_training = True
            yield
        finally:
            if before is not None:
                comfy.model_management.in_training = before


class _OrdinaryTensors(TorchFunctionMode):
    """Hands autograd a copy of each inference tensor it meets: conditionings, residuals, what patches have kept.

    Patches are closures, so what they hold cannot be found and cloned beforehand.
    """

    def __init__(self):
        super().__init__()
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None):
        # a ControlNet runs without autograd; attributes such as the shape need no copy
        if torch.is_grad_enabled() and getattr(func, "__name__", "") != "__get__":
            args, kwargs = self._ordinary(args), self._ordinary(kwargs)
        return func(*args, **(kwargs or {}))

    def _ordinary(self, value):
        if isinstance(value, Tensor):
            if not value.is_inference():
                return value
            if id(value) not in self._copies:
                # the original is kept, or another tensor could come to bear its id
                self._copies[id(value)] = (value, value.detach().clone())
            return self._copies[id(value)][1]
        if type(value) in (list, tuple):
            return type(value)(self._ordinary(one) for one in value)
        if type(value) is dict:
            return {key: self._ordinary(one) for key, one in value.items()}
        return value


class _UntrainedControl:
    """A ControlNet whose residuals are computed without autograd.

    Not in inference mode: what is made there could not be written into by the network.
    """

    def __init__(self, control):
        self._control = control

    def get_control(self, *args, **kwargs):
        with torch.no_grad():
            return self._control.get_control(*args, **kwargs)

    def __getattr__(self, name: str):
        return getattr(self._control, name)


def _with_untrained_controls(conditioning: list[dict]) -> list[dict]:
    """The conditioning with its ControlNets out of autograd; one stand-in per control, so that entries still batch."""
    controls = {id(entry["control"]): entry["control"] for entry in conditioning if entry.get("control") is not None}
    stand_ins = {key: _UntrainedControl(control) for key, control in controls.items()}
    return [
        {**entry, "control": stand_ins[id(entry["control"])]} if entry.get("control") is not None else entry
        for entry in conditioning
    ]


def _refuse_weight_hooks(requests: Sequence[tuple[Branch, list]]) -> None:
    for _, conditioning in requests:
        groups = [entry["hooks"] for entry in conditioning if entry.get("hooks") is not None]
        if any(group.get_type(comfy.hooks.EnumHookType.Weight) for group in groups):
            found = "a prompt carries a LoRA hook, which changes the loaded model and not the fake score's own copy"
            raise StylizationError("positive and negative", found, f"Load that LoRA with 'Load LoRA'. {REMEDY}")


def _on_one_device(model_options: dict) -> dict:
    """Options under which ComfyUI asks our copy, not the clones that it keeps on other GPUs."""
    return {key: value for key, value in model_options.items() if key != "multigpu_clones"}


def _differentiable(model_options: dict) -> dict:
    """Options with PyTorch's own attention: SageAttention and the like compute no gradients."""
    transformer_options = {
        **model_options.get("transformer_options", {}),
        "optimized_attention_override": lambda _chosen, *args, **kwargs: attention_pytorch(*args, **kwargs),
    }
    return {**_on_one_device(model_options), "transformer_options": transformer_options}
