"""Holistic injection and regions beside other nodes: guidance, attention patches, ControlNets, the pack's operators."""

from __future__ import annotations

import pytest
import torch

FORMS = {
    "moments": lambda rig, model, **how: rig.effects.injecting(model, **how),
    "quantiles": lambda rig, model, **how: rig.effects.injecting(model, table=True, **how),
    "regions": lambda rig, model, **how: rig.effects.regional(model, **how),
    "regions, holistic": lambda rig, model, **how: rig.effects.regional(model, holistic=True, **how),
}


@pytest.fixture(params=list(FORMS))
def act(request, rig):
    """All forms: ``act(model, **settings)``."""
    return lambda model, **how: FORMS[request.param](rig, model, **how)


def both_orders(act, other, model) -> list:
    return [other(act(model)), act(other(model))]


def pag(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0)[0]


def adapter(model):
    """A cross-attention replacement of the IPAdapter kind: indexes a pair by cond_or_uncond, adds tokens of its own."""
    from comfy.ldm.modules.attention import optimized_attention

    clone, pair = model.clone(), torch.randn(2, 1, 5, 128, generator=torch.Generator().manual_seed(4))

    def replace(q, k, v, options):
        rows = len(q) // len(options["cond_or_uncond"])
        tokens = torch.cat([pair[i].expand(rows, -1, -1) for i in options["cond_or_uncond"]])
        own, added = (optimized_attention(q, *given, options["n_heads"]) for given in ((k, v), (tokens, tokens)))
        return own + added

    clone.set_model_attn2_replace(replace, "middle", 0, 0)
    return clone


@pytest.mark.parametrize("other", [pag, adapter])
def test_other_nodes_in_both_orders(rig, micro, calls, act, other):
    source = rig.runs.latent()
    one, two = (rig.ordinary.one_step(model, source) for model in both_orders(act, other, micro))
    assert torch.equal(one, two)
    for without in (other(micro), act(micro)):
        assert rig.runs.moved(one, rig.ordinary.one_step(without, source)) > 1e-3


def test_owner_of_a_self_attention_slot_keeps_its_layer(rig, micro, act):
    """PAG's layer has its values for output, and the effect reaches every other layer of its prediction."""
    source = rig.runs.latent()
    found, plain = (rig.sharing.step_layers(pag(model), source) for model in (act(micro), micro))
    (_, perturbed), (_, without) = (one["middle", 0, 0][-1] for one in (found, plain))
    assert torch.equal(perturbed.out, perturbed.v)
    assert rig.runs.moved(perturbed.v, without.v) > 1e-4


def merged(model):
    from comfy_extras.nodes_tomesd import TomePatchModel

    return TomePatchModel.execute(model, 0.4)[0]


def tiled(model):
    from comfy_extras.nodes_hypertile import HyperTile

    return HyperTile.execute(model, 48, 1, 0, False)[0]


@pytest.mark.parametrize("other", [merged, tiled])
@pytest.mark.parametrize("table", [False, True])
def test_merged_or_tiled_tokens_in_both_orders(rig, micro, calls, other, table):
    source, results = rig.runs.latent(2, 4, 12, 12), []
    act = lambda model: rig.effects.injecting(model, table=table)  # noqa: E731
    for model in (*both_orders(act, other, micro), other(micro), act(micro)):
        torch.manual_seed(8)  # theirs
        results.append(rig.ordinary.one_step(model, source))
    assert torch.equal(*results[:2])
    assert all(rig.runs.moved(results[0], without) > 1e-3 for without in results[2:])


@pytest.mark.parametrize("holistic", [False, True])
@pytest.mark.parametrize("other", [merged, tiled])
def test_regions_refuse_merged_or_tiled_tokens_by_name(rig, micro, other, holistic):
    """They have no place that a mask could know."""
    model = other(rig.effects.regional(micro, *rig.effects.two_regions(96, 96), holistic=holistic))
    with pytest.raises(ValueError, match=r"Stylize Class-Adaptive Attention.*mask.*ToMe, HyperTile"):
        rig.ordinary.one_step(model, rig.runs.latent(2, 4, 12, 12))


def test_style_score_and_effects_in_both_orders(rig, styled, calls, act):
    source, add = rig.runs.latent(), lambda model: rig.ordinary.guided(model, strength=0.6, edit=False)
    one, two = (rig.ordinary.one_step(model, source) for model in both_orders(act, add, styled))
    assert rig.runs.moved(one, two) < 1e-4
    assert rig.runs.moved(one, rig.ordinary.one_step(act(styled), source)) > 1e-3
    assert rig.runs.moved(one, rig.ordinary.one_step(add(styled), source)) > 1e-3


def test_style_matching_score_acts_in_all_four_predictions(rig, styled, act):
    source, model = rig.runs.latent(), act(styled)
    recorded, rows = rig.runs.recording(model)
    result = rig.runs.sms(recorded, source, steps=2)
    assert sorted(rows[0][1]) == ["base", "base", "style", "style"]
    assert torch.isfinite(result).all()
    assert rig.runs.moved(result, rig.runs.sms(styled, source, steps=2)) > 1e-3
    assert rig.leaks.network(model)["hooks"] == []


def test_injection_regions_and_sharing_together_in_any_order(rig, micro):
    """Attention is shared first, then injected, then adapted, whatever the order of the nodes."""
    source, nodes = rig.runs.latent(), (rig.sharing.shared, rig.effects.injecting, rig.effects.regional)
    results = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        model = micro
        for place in order:
            model = nodes[place](model)
        results.append(rig.ordinary.one_step(model, source))
    assert all(torch.equal(results[0], one) for one in results[1:])


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_controlnets_reach_the_pictures_alone(rig, monkeypatch, comfy, wiring_model, wiring_files, family, act):
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES

    known, model = FAMILIES[family], wiring_model(family)
    control = comfy.controlnet.load_controlnet(str(wiring_files.path(known.controlnet)))
    control = control.set_cond_hint(torch.rand(1, 3, 96, 80), 1.0, (0.0, 1.0))
    pair = rig.runs.pair(known.width, known.pooled)
    prompts = {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in pair.items()}
    kept = rig.sharing.described
    monkeypatch.setattr(rig.sharing, "described", lambda **given: rig.sharing.reference(**given))
    acting = act(model)
    monkeypatch.setattr(rig.sharing, "described", kept)
    calls, source = rig.sharing.asked(monkeypatch, model), rig.runs.latent()
    result = rig.ordinary.one_step(acting, source, conditionings=prompts)
    alone = [named for x, _, named in calls if x.shape[-2:] == (10, 14)]
    assert alone and all(named.get("control") is None for named in alone)
    for without in (
        rig.ordinary.one_step(acting, source, conditionings=pair),
        rig.ordinary.one_step(model, source, conditionings=prompts),
    ):
        assert rig.runs.moved(result, without) > 1e-4
