"""Graphs of Stylize SMS, of its parts and of its relatives in ordinary sampling, on the bases that tests know."""

from __future__ import annotations

from stylization_host import graphs
from stylization_host.graphs import node

LORA = {"wiring": "wiring_lora_sd15_kohya.safetensors", "pocket": "pocket_starry.safetensors"}
CONTROL = {"wiring": "wiring_control_sd15.safetensors", "pocket": "stylization_pocket_edges.safetensors"}
PHOTO = "neuschwanstein_castle.jpg"
SIZE = (12, 8)


def loaded(base: str, size: tuple[int, int], batch: int) -> graphs.Graph:
    """``model``, ``positive``, ``negative`` and ``latent`` of a base; ``size`` counts latent cells."""
    if base == "wiring":
        latent = node(
            "ProbeRandomLatent", width=size[0], height=size[1], channels=4, batch=batch, frames=0, seed=3, scale=1.0
        )
        return {**graphs.loaded("sd15"), "latent": latent}
    scale = {"upscale_method": "area", "width": 8 * size[0], "height": 8 * size[1], "crop": "center"}
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="stylization_pocket.safetensors"),
        "positive": node("CLIPTextEncode", text="starry style, castle", clip=["model", 1]),
        "negative": node("CLIPTextEncode", text="", clip=["model", 1]),
        "photo": node("LoadImage", image=PHOTO),
        "small": node("ImageScale", image=["photo", 0], **scale),
        "encoded": node("VAEEncode", pixels=["small", 0], vae=["model", 2]),
        "latent": node("RepeatLatentBatch", samples=["encoded", 0], amount=batch),
    }


def stylizing(base: str = "wiring", *, size=SIZE, batch: int = 1, save: str = "sms", **inputs) -> graphs.Graph:
    """Style LoRA and SMS on a base, three steps; ``inputs`` replace those of the node ``sms``."""
    settings = {
        "model": ["style", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
        "seed": 5,
        "steps": 3,
        "cfg": 4.5,
        "strength": 1.0,
        "step_size": 0.1,
        "spectrum": 1.0,
        "relevance": "off",
        "relevance_floor": 0.1,
    }
    return {
        **loaded(base, size, batch),
        "style": node("StylizeStyleLoRA", model=["model", 0], lora_name=LORA[base], strength=0.8, clip_strength=0.0),
        "sms": node("StylizeSMS", **{**settings, **inputs}),
        "save": node("ProbeSaveTensor", name=save, samples=["sms", 0]),
        "source": node("ProbeSaveTensor", name=f"{save}_source", samples=["latent", 0]),
    }


def before_sms(graph: graphs.Graph, kind: str, **inputs) -> graphs.Graph:
    """The graph with a node MODEL -> MODEL in front of SMS."""
    sms = graph["sms"]
    put = node(kind, model=sms["inputs"]["model"], **inputs)
    return {**graph, "between": put, "sms": {**sms, "inputs": {**sms["inputs"], "model": ["between", 0]}}}


WINDOW = {"start_percent": 0.0, "end_percent": 1.0}
HOLD = {"weight": 1.0, "hold": 0.5, "band": 1.0, "form": "gradient", "color_hold": 1.0, **WINDOW}
PLACE = {"floor": 0.1, "map": "precomputed", **WINDOW}
GUIDANCE = {"strength": 1.0, "mode": "edit", **WINDOW}
SIGMAS = {"steps": 3, "t_max": 0.5, "t_min": 0.02, "narrowing": "linear"}
SAMPLER = {"strength": 1.0, "step_size": 0.1, "levels": "drawn"}


def prompts() -> graphs.Graph:
    """Conditionings for a map: ``edit``, and ``negative`` as the empty prompt."""
    return {"edit": graphs.conditioning("sd15", seed=9)}


def by_parts(*, save: str = "parts", guider=None, sigmas=None, sampler=None) -> graphs.Graph:
    """SamplerCustomAdvanced with our guider, levels and sampler on ``held``, the MODEL with a hold and a map."""
    graph = {**stylizing(), **prompts()}
    del graph["sms"], graph["source"]
    conditionings = {"positive": ["positive", 0], "negative": ["negative", 0]}
    links = {"noise": "noise", "guider": "guider", "sampler": "sampler", "sigmas": "sigmas", "latent_image": "latent"}
    return {
        **graph,
        "hold": node("StylizeSpectrumRegularizer", model=["style", 0], **HOLD),
        "held": node("StylizeSemanticRefiner", model=["hold", 0], edit=["edit", 0], empty=["negative", 0], **PLACE),
        "guider": node("StylizeSMSGuider", model=["held", 0], **conditionings, **{"cfg": 4.5, **(guider or {})}),
        "sigmas": node("StylizeSMSSigmas", model=["held", 0], **{**SIGMAS, **(sigmas or {})}),
        "sampler": node("StylizeSMSSampler", **{**SAMPLER, **(sampler or {})}),
        "noise": node("RandomNoise", noise_seed=5),
        "run": node("SamplerCustomAdvanced", **{key: [name, 0] for key, name in links.items()}),
        "save": node("ProbeSaveTensor", name=save, samples=["run", 0]),
    }


def sampling(save: str = "sampled", *put: tuple[str, dict], steps: int = 3, **settings) -> graphs.Graph:
    """KSampler from a latent at half its noise, on the MODEL with a style and the nodes of ``put`` behind it."""
    graph = {**graphs.sampling("sd15", steps=steps, denoise=0.5, save=save, **settings), **prompts()}
    lora = {"lora_name": LORA["wiring"], "strength": 0.8, "clip_strength": 0.0}
    graph = graphs.through(graph, "style", "StylizeStyleLoRA", **lora)
    for kind, inputs in put:
        graph = graphs.through(graph, kind, kind, **inputs)
    return graph
