"""Nodes MODEL -> MODEL that patch a model the way other packs do, or break its run at a chosen moment."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from .inputs import CATEGORY

KEY = "stylization_probe"


def schema(node_id: str, *inputs: io.Input) -> io.Schema:
    return io.Schema(
        node_id=node_id, category=CATEGORY, inputs=[io.Model.Input("model"), *inputs], outputs=[io.Model.Output()]
    )


class ProbeAttn2Pair(io.ComfyNode):
    """Scales cross-attention values by ``(1 + s, 1 - s)[i]`` for each ``i`` of ``cond_or_uncond``.

    Popular packs index a pair in this way, and so does this patch: a third branch raises IndexError.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("ProbeAttn2Pair", io.Float.Input("strength", default=0.5, min=-10.0, max=10.0))

    @classmethod
    def execute(cls, model, strength: float) -> io.NodeOutput:
        pair = (1.0 + strength, 1.0 - strength)

        def patch(n, context, value, extra_options):
            branches = extra_options["cond_or_uncond"]
            rows = value.shape[0] // len(branches)
            scale = torch.cat([value.new_full((rows, 1, 1), pair[branch]) for branch in branches])
            return n, context, value * scale

        patched = model.clone()
        patched.set_model_attn2_patch(patch)
        return io.NodeOutput(patched)


class ProbeSplitBatch(io.ComfyNode):
    """Has ComfyUI run every conditioning in a model call of its own, as it does when memory is short.

    While conditionings are batched, the model says that any merged batch needs more memory than there is.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("ProbeSplitBatch")

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        def split(executor, base_model, *args, **kwargs):
            base_model.memory_required = lambda *_args, **_kwargs: float("inf")
            try:
                return executor(base_model, *args, **kwargs)
            finally:
                del base_model.memory_required

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, f"{KEY}.split", split)
        return io.NodeOutput(patched)


class _AtCall:
    """Does something before the ``number``-th call of the network in every sampling run, counted from 1."""

    def __init__(self, number: int, action) -> None:
        self.number = number
        self.action = action
        self.calls = 0

    def start(self, executor, *args, **kwargs):
        self.calls = 0
        return executor(*args, **kwargs)

    def count(self, executor, *args, **kwargs):
        self.calls += 1
        if self.calls == self.number:
            self.action()
        return executor(*args, **kwargs)

    def attach(self, model, key: str):
        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, self.start)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, self.count)
        return patched


class ProbeRaise(io.ComfyNode):
    """Raises RuntimeError at the n-th model call of a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "ProbeRaise",
            io.Int.Input("call", default=2, min=1, max=100000),
            io.String.Input("message", default="raised by ProbeRaise"),
        )

    @classmethod
    def execute(cls, model, call: int, message: str) -> io.NodeOutput:
        def action():
            raise RuntimeError(message)

        return io.NodeOutput(_AtCall(call, action).attach(model, f"{KEY}.raise"))


class ProbeInterrupt(io.ComfyNode):
    """Interrupts the prompt at the n-th model call of a run, as the user's button does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("ProbeInterrupt", io.Int.Input("call", default=2, min=1, max=100000))

    @classmethod
    def execute(cls, model, call: int) -> io.NodeOutput:
        action = comfy.model_management.interrupt_current_processing
        return io.NodeOutput(_AtCall(call, action).attach(model, f"{KEY}.interrupt"))


class ProbeDisturbBlocks(io.ComfyNode):
    """Adds ``amount`` to the output of every input and output block: a patch that must reach every prediction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema("ProbeDisturbBlocks", io.Float.Input("amount", default=0.1, min=-10.0, max=10.0))

    @classmethod
    def execute(cls, model, amount: float) -> io.NodeOutput:
        patched = model.clone()
        patched.set_model_input_block_patch(lambda h, _options: h + amount)
        patched.set_model_output_block_patch(lambda h, hsp, _options: (h + amount, hsp))
        return io.NodeOutput(patched)


NODES = [ProbeAttn2Pair, ProbeSplitBatch, ProbeRaise, ProbeInterrupt, ProbeDisturbBlocks]
