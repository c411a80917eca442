"""Autograd through the loaded network, inside a node.

The loaded network cannot be trained as it is: other nodes share it, ComfyUI runs nodes in inference mode, and weights
that a loader node has made are inference tensors, which autograd refuses. So what trains works on a twin: a deep copy
of the network, made of ordinary tensors, with PyTorch's own attention. Nothing is written to the loaded one.
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

from ....errors import StylizationError
from ....saved_tensors import copied_before_writing
from .self_attention import OVERRIDE

TRAINABLE = (torch.float16, torch.bfloat16, torch.float32)
COMPILED = "torch.compile"
"""Under this key ComfyUI's compile node wraps the model call and puts the compiled network in the place of ours."""


def untrainable(patcher) -> str | None:
    """Why the network of a loaded MODEL cannot be copied and trained through, or None. Call it inside a sampling run.

    It is partly offloaded or managed by dynamic VRAM, its weights are quantised, or its network is compiled.
    """
    network = patcher.model.diffusion_model
    return _not_in_place(patcher) or _compiled(patcher, network) or _quantised(network)


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


def network_bytes(patcher) -> int:
    """Bytes of the weights that a twin copies."""
    network = patcher.model.diffusion_model
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


def twin_of(inner_model, remedy: str):
    """The ``BaseModel`` once more around a deep copy of its network; all else is shared, and nothing written to it.

    Call it outside inference mode. No parameter of the copy asks for gradients.

    Raises:
        StylizationError: the network cannot be copied; ``remedy`` says what to do.
    """
    try:
        network = copy.deepcopy(inner_model.diffusion_model)
    except TypeError as error:
        found = f"its network cannot be copied, since a node has put something on it ({error})"
        raise StylizationError("model", found, remedy) from error
    network.requires_grad_(False)
    twin = copy.copy(inner_model)
    # a module's shallow copy shares the dictionaries of its submodules, parameters and hooks with the original
    for name, value in vars(inner_model).items():
        if isinstance(value, (dict, set)):
            vars(twin)[name] = value.copy()
    twin.diffusion_model = network
    return twin


@contextmanager
def autograd() -> Iterator[None]:
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


class OrdinaryTensors(TorchFunctionMode):
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


class Gradients:
    """Gradients of losses of one network, also where something writes into tensors that the backward pass needs."""

    def __init__(self):
        self.overwriting = False

    def of(
        self, loss: Callable[[], Tensor], factors: Sequence[Tensor], scale: float
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The loss, (), and ``scale`` times its gradients by ``factors``; none at all where it depends on none.

        Args:
            loss: may be called twice.
            scale: keeps float16 from losing gradients that a mean has divided by the number of elements.
        """
        if not self.overwriting:
            try:
                return self._once(loss, factors, scale)
            except RuntimeError as error:
                if "modified by an inplace operation" not in str(error):
                    raise
            # Flux, residuals of ControlNets and some patches are written into tensors that the backward pass needs.
            # Keeping copies of those costs time at every operation, so it is done only where it has to be.
            self.overwriting = True
        with copied_before_writing():
            return self._once(loss, factors, scale)

    def _once(self, loss: Callable[[], Tensor], factors: Sequence[Tensor], scale: float):
        with OrdinaryTensors():
            found = loss()
        if not found.requires_grad:
            return found.detach(), ()
        # never backward(): it would leave gradients on parameters of other nodes' patches
        return found.detach(), torch.autograd.grad(found * scale, list(factors), allow_unused=True)


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


def with_untrained_controls(conditioning: list[dict]) -> list[dict]:
    """The conditioning with its ControlNets out of autograd; one stand-in per control, so that entries still batch."""
    controls = {id(entry["control"]): entry["control"] for entry in conditioning if entry.get("control") is not None}
    stand_ins = {key: _UntrainedControl(control) for key, control in controls.items()}
    return [
        {**entry, "control": stand_ins[id(entry["control"])]} if entry.get("control") is not None else entry
        for entry in conditioning
    ]


def refuse_weight_hooks(conditioning: list[dict], subject: str, remedy: str) -> None:
    """Refuse prompts with LoRA hooks.

    Raises:
        StylizationError: they would change the loaded model and not the twin.
    """
    groups = [entry["hooks"] for entry in conditioning if entry.get("hooks") is not None]
    if any(group.get_type(comfy.hooks.EnumHookType.Weight) for group in groups):
        found = "a prompt carries a LoRA hook, which changes the loaded model and not the copy that is trained"
        raise StylizationError(subject, found, remedy)


def on_one_device(model_options: dict) -> dict:
    """Options under which ComfyUI asks our copy, not the clones that it keeps on other GPUs."""
    return {key: value for key, value in model_options.items() if key != "multigpu_clones"}


def differentiable_options(model_options: dict) -> dict:
    """Options with PyTorch's own attention: SageAttention and the like compute no gradients."""
    transformer_options = {
        **model_options.get("transformer_options", {}),
        OVERRIDE: lambda _chosen, *args, **kwargs: attention_pytorch(*args, **kwargs),
    }
    return {**on_one_device(model_options), "transformer_options": transformer_options}
