"""Sharing beside other nodes: guidance, attention patches and backends, and the operators of this pack."""

from __future__ import annotations

import pytest
import torch

FIRST = ("input", 1, 0)
MIDDLE = ("middle", 0, 0)


def forms(rig) -> dict:
    return {
        "references": lambda model, **how: rig.sharing.shared(model, **how),
        "batch": lambda model, **how: rig.sharing.in_batch(model, **how),
    }


@pytest.fixture(params=["references", "batch"])
def share(request, rig):
    """Both forms: ``share(model, **settings)``."""
    return forms(rig)[request.param]


def both_orders(share, other, model) -> list:
    return [other(share(model)), share(other(model))]


# guidance with calls of its own


def pag(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0)[0]


def sag(model):
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    return SelfAttentionGuidance.execute(model, 0.5, 2.0)[0]


@pytest.mark.parametrize("other", [pag, sag])
def test_other_guidance_in_both_orders(rig, micro, calls, share, other):
    source = rig.runs.latent()
    one, two = (rig.ordinary.one_step(model, source) for model in both_orders(share, other, micro))
    assert torch.equal(one, two)
    for without in (other(micro), share(micro)):
        assert rig.runs.moved(one, rig.ordinary.one_step(without, source)) > 1e-2


def test_perturbed_prediction_shares_everywhere_but_in_its_own_layer(rig, micro, share):
    """PAG asks once more for the positive prompt with the middle layer's values for its output."""
    found = rig.sharing.step_layers(pag(share(micro)), rig.runs.latent())
    # the two chunks of the step, then PAG's one
    assert [half for half, _ in found[FIRST]] == [1, 0, 0]
    (_, ordinary), (_, perturbed) = found[MIDDLE][1:]
    assert torch.equal(perturbed.out, perturbed.v) and not torch.equal(ordinary.out, ordinary.v)
    (_, ordinary), (_, perturbed) = found[FIRST][1:]
    assert rig.runs.moved(ordinary.out, perturbed.out) < 1e-5
    plain = rig.sharing.attention64(perturbed.q, perturbed.k, perturbed.v)
    assert rig.sharing.relative(perturbed.out[1:], plain[1:]) > 1e-2


@pytest.mark.parametrize("other", [pag, sag])
def test_cross_attention_behind_a_replaced_layer_is_left_alone(rig, micro, share, other):
    """The layer's own attention never comes, and the next one is not taken for it."""
    attn2, seen, last = rig.sharing.blocks(micro)[MIDDLE].attn2, [], {}
    handles = [
        getattr(attn2, f"to_{part}").register_forward_hook(lambda _, x, out, part=part: last.__setitem__(part, out))
        for part in "qkv"
    ]
    keep = lambda _, given: seen.append(rig.sharing.Attention(**last, out=given[0]))  # noqa: E731
    handles.append(attn2.to_out.register_forward_pre_hook(keep))
    rig.ordinary.one_step(other(share(micro)), rig.runs.latent())
    for handle in handles:
        handle.remove()
    assert len(seen) >= 2
    for one in seen:
        assert one.k.shape[1] == 7  # text tokens
        assert rig.sharing.relative(one.out, rig.sharing.attention64(one.q, one.k, one.v)) < 1e-5


def test_sag_meets_the_half_of_its_prompt(rig, micro):
    """Its extra question holds the negative prompt alone, at index 0."""
    reference = rig.sharing.described()
    found = rig.sharing.step_layers(sag(rig.sharing.shared(micro, reference)), rig.runs.latent())
    negative = rig.sharing.features(micro, reference.negative, rig.sharing.noised(micro, reference))
    (_, own) = found[FIRST][2]
    assert rig.sharing.relative(own.out, rig.sharing.published(own, [negative[FIRST]])) < 2e-5


# attention patches


def adapter(model):
    """A cross-attention replacement of the IPAdapter kind: indexes a pair by cond_or_uncond, adds tokens of its own."""
    from comfy.ldm.modules.attention import optimized_attention

    clone, pair = model.clone(), torch.randn(2, 1, 5, 128, generator=torch.Generator().manual_seed(4))

    def replace(q, k, v, options):
        tokens = torch.cat(
            [pair[i].expand(len(q) // len(options["cond_or_uncond"]), -1, -1) for i in options["cond_or_uncond"]]
        )
        return optimized_attention(q, k, v, options["n_heads"]) + optimized_attention(
            q, tokens, tokens, options["n_heads"]
        )

    clone.set_model_attn2_replace(replace, "middle", 0, 0)
    return clone


def test_cross_attention_replacement_in_both_orders(rig, micro, calls, share):
    source = rig.runs.latent()
    one, two = (rig.ordinary.one_step(model, source) for model in both_orders(share, adapter, micro))
    assert torch.equal(one, two)
    for without in (adapter(micro), share(micro)):
        assert rig.runs.moved(one, rig.ordinary.one_step(without, source)) > 1e-3


def merged(model):
    from comfy_extras.nodes_tomesd import TomePatchModel

    return TomePatchModel.execute(model, 0.4)[0]


def tiled(model):
    from comfy_extras.nodes_hypertile import HyperTile

    return HyperTile.execute(model, 48, 1, 0, False)[0]


@pytest.mark.parametrize("other", [merged, tiled])
def test_merged_or_tiled_tokens_in_both_orders(rig, micro, calls, share, other):
    source, results = rig.runs.latent(2, 4, 12, 12), []
    for model in (*both_orders(share, other, micro), other(micro), share(micro)):
        torch.manual_seed(8)  # theirs
        results.append(rig.ordinary.one_step(model, source))
    assert torch.equal(*results[:2])
    assert all(rig.runs.moved(results[0], without) > 1e-3 for without in results[2:])


def test_merged_tokens_share_by_the_formula(rig, micro):
    reference = rig.sharing.described()
    found = rig.sharing.step_layers(merged(rig.sharing.shared(micro, reference)), rig.runs.latent(2, 4, 12, 12))
    x = rig.sharing.noised(micro, reference)
    for half, own in found[FIRST]:
        given = rig.sharing.features(micro, (reference.positive, reference.negative)[half], x)[FIRST]
        assert own.q.shape[1] < own.k.shape[1] == 144
        assert rig.sharing.relative(own.out, rig.sharing.published(own, [given])) < 2e-5


def test_tiles_take_the_statistics_of_their_picture(rig, micro):
    """HyperTile at 12x12 cells: four tiles of 6x6; keys are dealt to them as the backend deals them."""
    reference = rig.sharing.described()
    found = rig.sharing.step_layers(tiled(rig.sharing.shared(micro, reference)), rig.runs.latent(2, 4, 12, 12))
    x = rig.sharing.noised(micro, reference)
    for half, own in found[FIRST]:
        given = rig.sharing.features(micro, (reference.positive, reference.negative)[half], x)[FIRST]
        assert own.q.shape[:2] == (8, 36) and own.k.shape[:2] == (2, 144)
        to = [rig.sharing.moments64(part) for part in (given.q, given.k)]
        q, k = (
            rig.sharing.adain64(part.reshape(2, 144, -1), m).reshape(8, 36, -1)
            for part, m in zip((own.q, own.k), to, strict=True)
        )
        v = own.v.double().reshape(8, 36, -1)
        keys, values = (
            torch.cat([part, more.double().expand(8, -1, -1)], 1) for part, more in ((k, given.k), (v, given.v))
        )
        assert rig.sharing.relative(own.out, rig.sharing.attention64(q, keys, values)) < 2e-5


@pytest.mark.parametrize("other", [merged, tiled])
def test_mask_beside_merged_or_tiled_tokens_is_refused(rig, micro, other):
    model = other(rig.sharing.shared(micro, mask=torch.ones(1, 96, 96)))
    with pytest.raises(ValueError) as caught:
        rig.ordinary.one_step(model, rig.runs.latent(2, 4, 12, 12))
    message = str(caught.value)
    assert message.startswith("Stylize Shared Attention, mask: a layer has ") and "ToMe, HyperTile" in message


def backend(calls):
    """An attention-backend node as ComfyUI's own: takes the slot and ignores what was there."""
    from comfy.ldm.modules.attention import attention_sub_quad

    def put(model):
        clone = model.clone()

        def override(func, q, *args, **kwargs):
            calls.append(q.shape[0])
            return attention_sub_quad(q, *args, **kwargs)

        clone.model_options["transformer_options"]["optimized_attention_override"] = override
        return clone

    return put


def test_attention_backend_in_both_orders(rig, micro, share):
    source, counts, results = rig.runs.latent(), [], []
    for model in both_orders(share, backend(counts), micro):
        counts.clear()
        results.append(rig.ordinary.one_step(model, source))
        assert len(counts) >= 14  # self- and cross-attention of seven blocks
    assert torch.equal(*results)
    shared, plain = (rig.ordinary.one_step(model, source) for model in (share(micro), micro))
    assert rig.runs.moved(results[0], shared) < 1e-4 < rig.runs.moved(shared, plain)


# operators of this pack


def guided(rig, model):
    return rig.ordinary.guided(model, strength=0.6, edit=False)


def test_style_score_and_sharing_in_both_orders(rig, styled, calls, share):
    """The style's row meets the positive half; the score is that of two predictions that share alike."""
    source, add = rig.runs.latent(), lambda model: guided(rig, model)
    one, two = (rig.ordinary.one_step(model, source) for model in both_orders(share, add, styled))
    assert rig.runs.moved(one, two) < 1e-4
    shared = rig.ordinary.one_step(share(styled), source)
    double = rig.ordinary.one_step(rig.ordinary.guided(share(styled), strength=1.2, edit=False), source)
    assert rig.runs.moved(double - shared, 2 * (one - shared)) < 1e-3 * rig.runs.moved(double, shared)
    assert rig.runs.moved(one - shared, torch.zeros_like(one)) > 1e-2


@pytest.fixture
def late_style(rig, micro, tmp_path):
    """A style that leaves the first layer's projections alone."""
    weights = rig.loras.kohya(
        micro, only=[name for name in rig.loras.layers(micro) if name.startswith("output_blocks")]
    )
    path = rig.loras.saved(weights, tmp_path / "late.safetensors")
    return rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.8))


def test_rows_of_base_and_style_meet_the_reference_of_their_half(rig, micro, late_style):
    """The reference itself runs in the base model."""
    reference = rig.sharing.described()
    x, prompts = rig.sharing.noised(micro, reference), (reference.positive, reference.negative)
    given = [rig.sharing.features(micro, prompt, x)[FIRST] for prompt in prompts]
    parts = rig.sharing.step_layers(guided(rig, rig.sharing.shared(late_style, reference)), rig.runs.latent())[FIRST]
    assert sorted(half for half, _ in parts) == [0, 0, 1]
    for half, own in parts:
        assert rig.sharing.relative(own.out, rig.sharing.published(own, [given[half]])) < 2e-5


def test_style_matching_score_shares_in_all_four_predictions(rig, micro, styled, share):
    source = rig.runs.latent()
    model = share(styled)
    recorded, rows = rig.runs.recording(model)
    result = rig.runs.sms(recorded, source, steps=2)
    assert sorted(rows[0][1]) == ["base", "base", "style", "style"]
    assert torch.isfinite(result).all()
    assert rig.runs.moved(result, rig.runs.sms(styled, source, steps=2)) > 1e-3
    assert rig.leaks.network(model)["hooks"] == []


def test_branches_meet_references_of_their_polarity(rig, late_style):
    """In SMS, whose four predictions are style and base of both prompts."""
    reference = rig.sharing.described()
    model, calls = rig.runs.recording(rig.sharing.shared(late_style, reference))
    with rig.sharing.watched(late_style) as seen:
        rig.runs.sms(model, rig.runs.latent(), steps=1)
    (polarities, names, rows) = calls[-1]
    assert sorted(polarities) == [0, 0, 1, 1] and rows == 8
    passes = seen[FIRST]
    own = passes[-1].chunks(4)
    # one call of both polarities, the negative one first, as ComfyUI lays them out
    (pair,) = [one for one in passes if one.q.shape[1] == 140 and len(one.q) == 2]
    alone = pair.chunks(2)[::-1]
    for polarity, name, part in zip(polarities, names, own, strict=True):
        expected = rig.sharing.published(part, [alone[polarity]])
        assert rig.sharing.relative(part.out, expected) < 5e-5, name


def test_branches_in_any_order_are_the_steps_own_predictions(rig, micro, calls, share):
    """Two positive ones first, so that the index of the negative one is none that other packs know."""
    asked, seen = share(micro, both=False).clone(), []
    names = (("one", 0), ("two", 0), ("three", 1))

    def ask(args):
        requests = [(rig.rows.Branch(name, half), args[("cond", "uncond")[half]]) for name, half in names]
        found = rig.predictions.predict(args["model"], requests, args["input"], args["sigma"], args["model_options"])
        seen.extend(zip(found, (args["cond_denoised"], args["cond_denoised"], args["uncond_denoised"]), strict=True))
        return args["denoised"]

    asked.set_model_sampler_post_cfg_function(ask)
    rig.ordinary.one_step(asked, rig.runs.latent())
    assert len(seen) == 3 and all(rig.runs.moved(*each) < 1e-4 for each in seen)


def test_refiner_and_regularizer_act_on_what_is_shared(rig, styled, share):
    source = rig.runs.latent()
    made = lambda model: rig.ordinary.held(model, hold=0.5)  # noqa: E731
    one, two = (
        rig.ordinary.sample(model, source, sigmas=(1.5, 0.5, 0.0)) for model in both_orders(share, made, styled)
    )
    assert torch.equal(one, two)
    assert rig.runs.moved(one, rig.ordinary.sample(made(styled), source, sigmas=(1.5, 0.5, 0.0))) > 1e-3


# other families


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_wiring_models_share_by_the_formula(rig, wiring_model, family):
    from stylization_host.wiring import FAMILIES

    known, model = FAMILIES[family], wiring_model(family)
    reference = rig.sharing.reference(
        positive=rig.runs.conditioning(5, known.width, known.pooled),
        negative=rig.runs.conditioning(6, known.width, known.pooled),
    )
    pair, source = rig.runs.pair(known.width, known.pooled), rig.runs.latent(3, 4, 16, 16)
    found = rig.sharing.step_layers(rig.sharing.shared(model, reference, weight=2.0), source, conditionings=pair)
    x = rig.sharing.noised(model, reference)
    for half in (0, 1):
        given = rig.sharing.features(model, (reference.positive, reference.negative)[half], x)
        for layer, parts in found.items():
            heads = rig.sharing.blocks(model)[layer].n_heads
            (own,) = (part for index, part in parts if index == half)
            expected = rig.sharing.published(own, [given[layer]], [2.0], heads=heads)
            assert rig.sharing.relative(own.out, expected) < 1e-3, layer
