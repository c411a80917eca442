"""A latent of one cell goes through every node that samples, and comes out finite."""

from __future__ import annotations

import pytest
import torch

LATENT = torch.full((1, 4, 1, 1), 0.5)


@pytest.fixture
def make(pack_nodes):
    """``make(node_id, **given)``: a node's first result, inputs that are not given at their defaults."""
    nodes = {node.GET_SCHEMA().node_id: node for node in pack_nodes.NODES}

    def run(node_id: str, **given):
        inputs = {one.id: getattr(one, "default", None) for one in nodes[node_id].GET_SCHEMA().inputs}
        known = {key: value for key, value in {**inputs, **given}.items() if value is not None}
        with torch.inference_mode():
            return nodes[node_id].execute(**known).result[0]

    return run


@pytest.fixture
def prompts(rig):
    return rig.runs.pair()


@pytest.mark.parametrize("relevance", ["off", "precomputed"])
def test_score_matching(make, styled, prompts, relevance):
    given = {"latent_image": {"samples": LATENT}, "steps": 2, "spectrum": 0.5, "edit": prompts["positive"]}
    found = make("StylizeSMS", model=styled, **prompts, **given, relevance=relevance)["samples"]
    assert found.shape == LATENT.shape and found.isfinite().all()


def test_relevance_map(make, micro, prompts):
    given = {"edit": prompts["positive"], "empty": prompts["negative"], "noises": 1}
    assert make("StylizeRelevanceMap", model=micro, latent_image={"samples": LATENT}, **given).isfinite().all()


@pytest.mark.parametrize(
    ("node", "given"),
    [
        ("StylizeSMSGuidance", {}),
        ("StylizeSpectrumRegularizer", {"form": "gradient"}),
        ("StylizeSpectrumRegularizer", {"form": "proximal"}),
        ("StylizeProtectRegion", {"mask": torch.ones(1, 8, 8)}),
        ("StylizeSharedAttention", {"reference": {}}),
        ("StylizeHolisticInjector", {"reference": {}, "mode": "moments"}),
        ("StylizeHolisticInjector", {"reference": {}, "mode": "quantiles"}),
        ("StylizeClassAdaptiveAttention", {"regions": {}}),
    ],
)
def test_ordinary_sampling(make, styled, ksampler, prompts, node, given):
    given = dict(given)
    reference = make("StylizeReference", latent={"samples": LATENT}, **prompts)
    if "reference" in given:
        given["reference"] = reference
    if "regions" in given:
        given["regions"] = make("StylizeRegion", mask=torch.ones(1, 8, 8), reference=reference)
    found = ksampler(make(node, model=styled, **given), LATENT, steps=2)
    assert found.shape == LATENT.shape and found.isfinite().all()
