"""Small prompts in API form for the wiring models, to be taken as they are or extended.

graph = graphs.sampling("sdxl", steps=2)            # nodes "model", "positive", "negative", "latent", "sampler" …
graph["sampler"]["inputs"]["model"] = ["mine", 0]   # put a node of ours between
graph["mine"] = graphs.node("StylizeStyleLoRA", model=["model", 0], …)
"""

from __future__ import annotations

from typing import Any

from .wiring import FAMILIES

Graph = dict[str, dict[str, Any]]


def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
    """One node; a link is ``["id", slot]``."""
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": class_type}}


def loaded(family: str) -> Graph:
    """``model`` (and, for checkpoints, its VAE in slot 2), ``positive`` and ``negative`` of a wiring model."""
    known = FAMILIES[family]
    if known.folder == "checkpoints":
        model = node("CheckpointLoaderSimple", ckpt_name=known.file)
    elif family == "flux":
        # ComfyUI before 0.9 gives every Flux 24 heads; this loader reads them from the width.
        model = node("ProbeLoadFlux", unet_name=known.file)
    else:
        model = node("UNETLoader", unet_name=known.file, weight_dtype="default")
    return {
        "model": model,
        "positive": conditioning(family, seed=1),
        "negative": conditioning(family, seed=2),
    }


def conditioning(family: str, seed: int, tokens: int = 8) -> dict[str, Any]:
    """Random conditioning in the sizes that the wiring model takes."""
    known = FAMILIES[family]
    return node("ProbeConditioning", tokens=tokens, width=known.width, pooled=known.pooled, seed=seed, batch=1)


def sampling(
    family: str,
    *,
    steps: int = 2,
    cfg: float = 5.0,
    seed: int = 7,
    batch: int = 1,
    size: tuple[int, int] = (12, 8),
    denoise: float = 1.0,
    sampler: str = "euler",
    scheduler: str = "normal",
    save: str = "sampled",
) -> Graph:
    """KSampler on a seeded latent; the result goes to ``output/probe/<save>.safetensors``.

    :param size: width and height of the latent.
    """
    width, height = size
    channels = FAMILIES[family].channels
    frames = 1 if family == "wan" else 0
    return {
        **loaded(family),
        "latent": node(
            "ProbeRandomLatent",
            width=width,
            height=height,
            channels=channels,
            batch=batch,
            frames=frames,
            seed=seed,
            scale=1.0,
        ),
        "sampler": node(
            "KSampler",
            model=["model", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler,
            scheduler=scheduler,
            denoise=denoise,
        ),
        "save": node("ProbeSaveTensor", name=save, samples=["sampler", 0]),
    }


def with_picture(graph: Graph, prefix: str = "wiring") -> Graph:
    """The graph with VAEDecode and SaveImage behind its sampler (checkpoints only)."""
    return {
        **graph,
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "picture": node("SaveImage", images=["decode", 0], filename_prefix=prefix),
    }


def with_control(graph: Graph, family: str, image: str, strength: float = 1.0, stacked: int = 1) -> Graph:
    """The graph with its family's ControlNet applied, ``stacked`` times, to both conditionings.

    :param image: name of a picture in the server's input folder.
    """
    extended = {
        **graph,
        "control": node("ControlNetLoader", control_net_name=FAMILIES[family].controlnet),
        "hint": node("LoadImage", image=image),
    }
    positive, negative = ["positive", 0], ["negative", 0]
    for number in range(stacked):
        name = f"controlled{number}"
        extended[name] = node(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=negative,
            control_net=["control", 0],
            image=["hint", 0],
            strength=strength,
            start_percent=0.0,
            end_percent=1.0,
        )
        positive, negative = [name, 0], [name, 1]
    inputs = {**graph["sampler"]["inputs"], "positive": positive, "negative": negative}
    extended["sampler"] = {**graph["sampler"], "inputs": inputs}
    return extended


def through(graph: Graph, key: str, class_type: str, /, **inputs: Any) -> Graph:
    """The graph with a node MODEL -> MODEL, called ``key``, put between the sampler and what feeds its model."""
    sampler = graph["sampler"]
    fed = node(class_type, model=sampler["inputs"]["model"], **inputs)
    return {**graph, key: fed, "sampler": {**sampler, "inputs": {**sampler["inputs"], "model": [key, 0]}}}
