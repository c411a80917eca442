"""What other nodes put around classifier-free guidance on a MODEL."""

from __future__ import annotations

from comfy.patcher_extension import WrappersMP

OWN_PREFIX = "stylization."

CFG_SLOTS = ("sampler_cfg_function", "sampler_calc_cond_batch_function")
CFG_LISTS = ("sampler_pre_cfg_function", "sampler_post_cfg_function")
CFG1 = "disable_cfg1_optimization"


def with_guidance_of(model_options: dict, other: dict) -> dict:
    """Copy of model options with what another MODEL's options have around guidance, instead of their own."""
    names = (*CFG_SLOTS, *CFG_LISTS, CFG1)
    inside = {key: value for key, value in model_options.items() if key not in names}
    return {**inside, **{key: other[key] for key in names if key in other}}


def foreign_cfg_functions(model_options: dict) -> list[str]:
    """Names of what other nodes put around classifier-free guidance on a MODEL (PAG, RescaleCFG and the like)."""
    functions = [model_options[slot] for slot in CFG_SLOTS if model_options.get(slot) is not None]
    for slot in CFG_LISTS:
        functions += model_options.get(slot, [])
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {}).get(WrappersMP.PREDICT_NOISE, {})
    keyed = [str(key) for key in wrappers if key is not None and not str(key).startswith(OWN_PREFIX)]
    functions += wrappers.get(None, [])
    return sorted({name_of(function) for function in functions} | set(keyed))


def name_of(function: object) -> str:
    """What to call a function, or an object that is called, of another node: its module and name."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(named, '__module__', '?')}.{named.__qualname__}"
