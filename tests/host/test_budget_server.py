"""Stylize Content Budget through a real server on the pocket model: its limit is kept, also without the dial."""

from __future__ import annotations

import importlib
import re

import pytest
from stylization_host import graphs, scores
from stylization_host.graphs import node

SIZE = (192, 128)
LIMIT = 0.75
ROUNDING = 0.003
"""What 8-bit pictures may change."""


def budgeted(photo: str) -> graphs.Graph:
    """Guidance in eight steps, at the budget's setting and again by a node of that strength."""
    scale = {"upscale_method": "area", "width": SIZE[0], "height": SIZE[1], "crop": "center"}
    prompts = {"positive": ["positive", 0], "negative": ["negative", 0], "cfg": 1.0}
    run = {"sampler": ["sampler", 0], "sigmas": ["sigmas", 0], "noise": ["noise", 0], "latent_image": ["latent", 0]}
    search = {"limits": f"structure >= {LIMIT}", "strongest": 3.0, "grid": 4, "bisections": 2, "proxy_steps": 0}
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="stylization_pocket.safetensors"),
        "positive": node("CLIPTextEncode", text="starry style, a castle", clip=["model", 1]),
        "negative": node("CLIPTextEncode", text="", clip=["model", 1]),
        "photo": node("LoadImage", image=photo),
        "small": node("ImageScale", image=["photo", 0], **scale),
        "latent": node("VAEEncode", pixels=["small", 0], vae=["model", 2]),
        "style": node(
            "StylizeStyleLoRA",
            model=["model", 0],
            lora_name="pocket_starry.safetensors",
            strength=1.0,
            clip_strength=0.0,
        ),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=8, denoise=0.6),
        "noise": node("RandomNoise", noise_seed=4),
        "guided": guidance(1.0),
        "budget": node(
            "StylizeContentBudget", model=["guided", 0], vae=["model", 2], theme="dark", **run, **prompts, **search
        ),
        "found": node("PreviewImage", images=["budget", 1]),
        "again": guidance(["budget", 3]),
        "guider": node("CFGGuider", model=["again", 0], **prompts),
        "sampled": node("SamplerCustomAdvanced", guider=["guider", 0], **run),
        "decoded": node("VAEDecode", samples=["sampled", 0], vae=["model", 2]),
        "remade": node("PreviewImage", images=["decoded", 0]),
        "before": node("VAEDecode", samples=["latent", 0], vae=["model", 2]),
        "content": node("PreviewImage", images=["before", 0]),
    }


def guidance(strength) -> dict:
    window = {"start_percent": 0.0, "end_percent": 1.0}
    return node("StylizeSMSGuidance", model=["style", 0], strength=strength, mode="edit", **window)


@pytest.mark.parametrize("photo", ["neuschwanstein_castle.jpg", "colosseum.jpg"])
def test_the_limit_is_kept_and_a_stronger_setting_would_not(core, client, photo):
    measure = importlib.import_module("stylization.stylization_core.rulers.content").structure_similarity
    result = client.run(budgeted(photo)).expect_success()
    content, found, again = (scores.as_batch(client.images(result, name)[0]) for name in ("content", "found", "remade"))
    kept = measure(content, found)[0]
    assert kept >= LIMIT - ROUNDING
    assert measure(content, again)[0] == pytest.approx(kept, abs=ROUNDING)
    text = result.outputs["budget"]["text"][0]
    strength = float(re.search(r"holds: ([\d.]+) x", text)[1])
    failing = [float(line.split()[0]) for line in text.split("\n") if line.endswith("  no")]
    # strength 0 is plain image to image, which changes more than guidance does
    broken = [factor for factor in failing if factor > 0]
    assert 0 < strength < 3 and 0 < min(broken) - strength <= 0.25 + 1e-3
    (curve,) = client.images(result, "budget")
    assert curve.width == 760
