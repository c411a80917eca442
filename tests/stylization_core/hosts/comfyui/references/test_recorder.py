"""References that run alone beside a sampling run: how often, on what, seen by whom."""

from __future__ import annotations

import pytest
import torch


def recorder_of(rig, model, reference, body, *, probes=None, given=None, conditionings=None):
    """What ``body(Recorder)`` returns inside a run of ``model``."""

    def ask(guider, options):
        wanted = probes or [keeping(rig, model)]
        made = rig.recorder.Recorder(guider, reference, wanted, given or options, 3, torch.device("cpu"))
        return body(made)

    return rig.runs.inside(model, conditionings or rig.runs.pair(), rig.runs.latent(), ask)


def keeping(rig, model, layers=None, **settings):
    """A probe that keeps queries, keys, values and outputs."""
    every = frozenset(rig.layers.self_attention_layers(model.model.diffusion_model))
    keep = lambda call, out: rig.sharing.Attention(call.q, call.k, call.v, out)  # noqa: E731
    return rig.recorder.Probe(every if layers is None else layers, keep, **settings)


# what it gives


@pytest.mark.parametrize("prediction", ["EPS", "V_PREDICTION"])
@pytest.mark.parametrize("own", [True, False])
def test_record_is_what_the_plain_model_sees_of_the_reference(rig, prediction, own):
    """Bit for bit, at the reference's own size, under each polarity of its conditioning."""
    model = rig.micro.unet(prediction=prediction)
    reference = rig.sharing.described() if own else rig.sharing.reference()
    prompts = (reference.positive, reference.negative) if own else rig.runs.pair().values()
    x = rig.sharing.noised(model, reference)
    for polarity, prompt in enumerate(prompts):
        record = recorder_of(
            rig, model, reference, lambda one, polarity=polarity: one.at(rig.sharing.SIGMA, (polarity,))[polarity]
        )
        expected = rig.sharing.features(model, prompt, x)
        assert {tuple(layer) for layer in record.layers[""]} == set(expected)
        for layer, kept in record.layers[""].items():
            assert all(torch.equal(getattr(kept, part), getattr(expected[layer], part)) for part in ("q", "k", "v"))
            assert torch.equal(kept.out, expected[layer].out)


def test_group_norms_are_recorded_where_a_probe_wants_them(rig, micro):
    reference, seen = rig.sharing.described(), {}
    norms = {n: m for n, m in micro.model.diffusion_model.named_modules() if isinstance(m, torch.nn.GroupNorm)}
    handles = [
        module.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name, given[0].double()))
        for name, module in norms.items()
    ]
    rig.runs.plain(micro, {"positive": reference.positive}, rig.sharing.noised(micro, reference))
    for handle in handles:
        handle.remove()
    probes = [keeping(rig, micro), keeping(rig, micro, layers=frozenset(), norms=True, name="norms")]
    record = recorder_of(rig, micro, reference, lambda one: one.at(rig.sharing.SIGMA, (0,))[0], probes=probes)
    assert set(record.norms) == set(norms) and len(norms) > 10
    for name, (mean, var) in record.norms.items():
        grouped = seen[name].unflatten(1, (norms[name].num_groups, -1)).flatten(2)
        assert rig.runs.moved(mean, grouped.mean(-1)) < 1e-5
        assert rig.runs.moved(var, grouped.var(-1, correction=0)) < 1e-4 * grouped.var(-1).max()
    assert not recorder_of(rig, micro, reference, lambda one: one.at(rig.sharing.SIGMA, (0,))[0]).norms


def test_one_pass_serves_all_probes(rig, micro, monkeypatch):
    reference, calls = rig.sharing.described(), rig.sharing.asked(monkeypatch, micro)
    layers = sorted(rig.layers.self_attention_layers(micro.model.diffusion_model))
    parts = {"one": layers[:2], "other": layers[1:4]}
    probes = [keeping(rig, micro, layers=frozenset(part), name=name) for name, part in parts.items()]
    record = recorder_of(rig, micro, reference, lambda one: one.at(1.0, (0,))[0], probes=probes)
    assert {name: set(kept) for name, kept in record.layers.items()} == {n: set(part) for n, part in parts.items()}
    assert rig.sharing.passes(calls, reference) == [(1.0, 1)]


def test_level_and_polarity_are_asked_once_each(rig, micro, monkeypatch):
    reference, calls = rig.sharing.described(), rig.sharing.asked(monkeypatch, micro)

    def body(recorder):
        first = recorder.at(1.0, (0,))[0]
        assert recorder.at(1.0, (0,))[0] is first
        both = recorder.at(1.0, (0, 1))
        assert both[0] is first and both[1] is not first
        recorder.at(0.5, (0,))
        return recorder.passes

    assert recorder_of(rig, micro, reference, body) == 3
    assert rig.sharing.passes(calls, reference) == [(1.0, 1), (1.0, 1), (0.5, 1)]


def test_both_polarities_are_two_rows_of_one_call(rig, micro, monkeypatch):
    """What each keeps is what it keeps alone, within what the plain model itself differs by."""
    reference = rig.sharing.described()
    tolerance = rig.runs.layout_tolerance(micro, rig.runs.pair(), rig.sharing.noised(micro, reference))
    calls = rig.sharing.asked(monkeypatch, micro)
    probes = [keeping(rig, micro, norms=True)]
    both = recorder_of(rig, micro, reference, lambda one: one.at(rig.sharing.SIGMA, (0, 1)), probes=probes)
    assert rig.sharing.passes(calls, reference) == [(pytest.approx(rig.sharing.SIGMA), 2)]
    for polarity, record in both.items():
        ask = lambda one, polarity=polarity: one.at(rig.sharing.SIGMA, (polarity,))[polarity]  # noqa: E731
        alone = recorder_of(rig, micro, reference, ask, probes=probes)
        for layer, kept in record.layers[""].items():
            assert kept.k.shape[0] == 1
            assert rig.sharing.relative(kept.out, alone.layers[""][layer].out) < max(1e-5, 4 * tolerance)
        for name, moments in record.norms.items():
            assert all(rig.runs.moved(a, b) < 1e-4 for a, b in zip(moments, alone.norms[name], strict=True))


def test_polarities_of_other_lengths_are_told_apart(rig, micro, monkeypatch):
    """Prompts that cannot stand in one batch as they are, and calls that are split where memory is short."""
    reference = rig.sharing.reference(
        positive=rig.runs.conditioning(5, tokens=7), negative=rig.runs.conditioning(6, tokens=5)
    )
    ask = lambda one: one.at(rig.sharing.SIGMA, (0, 1))  # noqa: E731
    x = rig.sharing.noised(micro, reference)
    for split in (False, True):
        if split:
            rig.runs.split_calls(monkeypatch, micro)
        both = recorder_of(rig, micro, reference, ask)
        for polarity, prompt in enumerate((reference.positive, reference.negative)):
            expected = rig.sharing.features(micro, prompt, x)
            for layer, kept in both[polarity].layers[""].items():
                assert rig.sharing.relative(kept.out, expected[layer].out) < 1e-4


# beside what the run has on its model


def test_controlnet_and_attention_patches_do_not_change_the_record(rig, micro):
    reference, at = rig.sharing.described(), lambda one: one.at(rig.sharing.SIGMA, (0,))[0]
    loud = micro.clone()
    loud.set_model_attn1_patch(lambda q, k, v, options: (q * 2, k, v))
    plain, same = (recorder_of(rig, model, reference, at).layers[""] for model in (micro, loud))
    assert all(torch.equal(plain[layer].k, same[layer].k) for layer in plain)


def test_attention_backend_of_the_run_is_kept(rig, micro):
    model, calls = micro.clone(), []

    def backend(func, q, *args, **kwargs):
        calls.append(len(q))
        return func(q, *args, **kwargs) * 0.5

    model.model_options["transformer_options"]["optimized_attention_override"] = backend
    reference = rig.sharing.described()
    record = recorder_of(rig, model, reference, lambda one: one.at(rig.sharing.SIGMA, (0,))[0])
    # self- and cross-attention of each block
    assert calls == [1] * 2 * len(record.layers[""])
    first = min(record.layers[""])
    kept = record.layers[""][first]
    expected = 0.5 * rig.sharing.attention64(kept.q, kept.k, kept.v)
    assert rig.sharing.relative(kept.out, expected) < 1e-5


def test_weights_as_the_run_has_them(rig, micro, path):
    """A LoRA of the stock loader acts on the reference too."""
    model, reference = rig.loras.weight_patched(micro, path, 0.8), rig.sharing.described()
    x = rig.sharing.noised(micro, reference)
    record = recorder_of(rig, model, reference, lambda one: one.at(rig.sharing.SIGMA, (0,))[0])
    changed, plain = (rig.sharing.features(one, reference.positive, x) for one in (model, micro))
    assert all(torch.equal(kept.k, changed[layer].k) for layer, kept in record.layers[""].items())
    assert any(not torch.equal(changed[layer].k, plain[layer].k) for layer in plain)


# its conditioning


def test_areas_and_windows_of_the_runs_prompts_are_not_the_references(rig, micro, monkeypatch):
    calls = rig.sharing.asked(monkeypatch, micro)
    placed = {
        "positive": rig.runs.conditioning(1, area=(4, 4, 0, 0), strength=0.5, start_percent=0.9),
        "negative": rig.runs.conditioning(2),
    }
    reference = rig.sharing.reference()
    record = recorder_of(rig, micro, reference, lambda one: one.at(0.7, (0,))[0], conditionings=placed)
    expected = rig.sharing.features(micro, rig.runs.conditioning(1), rig.sharing.noised(micro, reference))
    assert all(torch.equal(kept.k, expected[layer].k) for layer, kept in record.layers[""].items())
    assert [x.shape[-2:] for x, _, _ in calls][0] == (10, 14)


def test_conditionings_of_reference_and_run_are_processed_apart(rig, micro):
    """ComfyUI completes areas across the prompts of one call: neither side may gain an entry from the other."""
    quarter = rig.runs.conditioning(5, area=(4, 4, 0, 0), strength=0.5)
    reference = rig.sharing.reference(positive=quarter + rig.runs.conditioning(7))
    for model in (micro, rig.sharing.shared(micro, reference)):
        recorded, rows = rig.runs.recording(model)
        rig.ordinary.sample(recorded, rig.runs.latent())
        assert [indexes for indexes, *_ in rows] == [(1, 0)] * 4
    areas = {"positive": rig.runs.conditioning(1, area=(8, 8, 2, 1)), "negative": rig.runs.conditioning(2)}
    whole = rig.sharing.reference(positive=rig.runs.conditioning(5), negative=rig.runs.conditioning(6))
    counts = recorder_of(rig, micro, whole, lambda one: {k: len(v) for k, v in one.conds.items()}, conditionings=areas)
    assert counts == {"positive": 1, "negative": 1}


def test_lora_hooks_of_the_runs_prompt_act_on_a_reference_that_it_describes(rig, micro, path):
    """As they act on the picture; a prompt without them is read without them."""
    reference, hooks = rig.sharing.reference(), lora_hooks(path)
    x = rig.sharing.noised(micro, reference)
    prompts = {"positive": rig.runs.conditioning(1, hooks=hooks), "negative": rig.runs.conditioning(2)}
    both = recorder_of(rig, micro, reference, lambda one: one.at(rig.sharing.SIGMA, (0, 1)), conditionings=prompts)
    styled = rig.loras.weight_patched(micro, path, 0.8)
    for polarity, (model, seed) in enumerate(((styled, 1), (micro, 2))):
        expected = rig.sharing.features(model, rig.runs.conditioning(seed), x)
        assert all(rig.sharing.relative(kept.k, expected[layer].k) < 1e-5 for layer, kept in layers_of(both[polarity]))
    plain = rig.sharing.features(micro, rig.runs.conditioning(1), x)
    assert any(rig.sharing.relative(kept.k, plain[layer].k) > 1e-3 for layer, kept in layers_of(both[0]))


def test_lora_hooks_of_a_references_own_prompt_act_where_the_run_has_them(rig, micro, path):
    hooks = lora_hooks(path)
    reference = rig.sharing.reference(positive=rig.runs.conditioning(5, hooks=hooks), negative=rig.runs.conditioning(6))
    prompts = {"positive": rig.runs.conditioning(1, hooks=hooks), "negative": rig.runs.conditioning(2)}
    record = recorder_of(rig, micro, reference, lambda one: one.at(rig.sharing.SIGMA, (0,))[0], conditionings=prompts)
    styled = rig.loras.weight_patched(micro, path, 0.8)
    expected = rig.sharing.features(styled, rig.runs.conditioning(5), rig.sharing.noised(micro, reference))
    assert all(rig.sharing.relative(kept.k, expected[layer].k) < 1e-5 for layer, kept in layers_of(record))
    with pytest.raises(ValueError, match="reference: its positive prompt has hooks .* that no prompt of the run"):
        recorder_of(rig, micro, reference, lambda one: None)


def layers_of(record):
    return record.layers[""].items()


def lora_hooks(path):
    """What Create Hook LoRA makes."""
    import comfy.hooks
    import comfy.utils

    return comfy.hooks.create_hook_lora(comfy.utils.load_torch_file(str(path)), 0.8, 0.0)


@pytest.mark.parametrize("sigma", [10.0, 1.0, 0.1])
def test_prompt_of_a_reference_that_is_open_describes_it(rig, micro, sigma):
    """Two prompts in turn with a gap between them, which the first one fills: percents 0.5 and 0.8 are 1.6 and 0.5."""
    scheduled = rig.runs.conditioning(5, end_percent=0.4) + rig.runs.conditioning(7, start_percent=0.8)
    reference = rig.sharing.reference(positive=scheduled, negative=rig.runs.conditioning(6))
    record = recorder_of(rig, micro, reference, lambda one: one.at(sigma, (0,))[0])
    open_one = rig.runs.conditioning(7 if sigma < 0.5 else 5)
    expected = rig.sharing.features(micro, open_one, rig.sharing.noised(micro, reference, sigma), sigma)
    assert len(record.layers[""]) == len(expected)
    assert all(rig.sharing.relative(kept.k, expected[layer].k) < 1e-5 for layer, kept in layers_of(record))


@pytest.mark.parametrize("split", [False, True])
def test_first_of_several_prompts_describes_the_whole_reference(rig, micro, monkeypatch, caplog, split):
    """Whatever the layout of the calls; that others are left out is said."""
    if split:
        rig.runs.split_calls(monkeypatch, micro)
    several = rig.runs.conditioning(5, area=(4, 4, 0, 0), strength=0.5) + rig.runs.conditioning(7)
    reference = rig.sharing.reference(positive=several, negative=rig.runs.conditioning(6))
    with caplog.at_level("WARNING"):
        record = recorder_of(rig, micro, reference, lambda one: one.at(rig.sharing.SIGMA, (0,))[0])
    expected = rig.sharing.features(micro, rig.runs.conditioning(5), rig.sharing.noised(micro, reference))
    for layer, kept in layers_of(record):
        assert kept.k.shape == expected[layer].k.shape
        assert rig.sharing.relative(kept.k, expected[layer].k) < 1e-5
    assert "its positive combines 2 prompts" in caplog.text


def test_scheduled_prompt_of_a_reference_samples_to_the_end(rig, micro):
    """A prompt that closes on the way took the sampler down."""
    closing = rig.sharing.reference(
        positive=rig.runs.conditioning(5, end_percent=0.4), negative=rig.runs.conditioning(6)
    )
    open_ = rig.sharing.reference(positive=rig.runs.conditioning(5), negative=rig.runs.conditioning(6))
    found, same = (rig.ordinary.sample(rig.sharing.shared(micro, one), rig.runs.latent()) for one in (closing, open_))
    assert torch.equal(found, same)


# networks that see a picture beside the noise


@pytest.mark.parametrize("kind", ["inpaint", "edit"])
def test_reference_is_its_own_picture_for_networks_that_take_one(rig, kind):
    """The run's picture and mask are not the reference's: it is shown whole, with nothing to be painted."""
    model, reference = rig.micro.concatenating(kind), rig.sharing.reference()
    seen: list = []
    original = model.model.diffusion_model.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            model.model.diffusion_model, "forward", lambda x, *a, **k: (seen.append(x.clone()), original(x, *a, **k))[1]
        )
        for draw in (31, 32):
            given = {"concat_latent_image": rig.runs.drawn(1, 4, 12, 10, seed=draw)}
            if kind == "inpaint":
                given["concat_mask"] = (rig.runs.drawn(1, 96, 80, seed=draw) > 0).float()
            prompts = {"positive": rig.runs.conditioning(1, **given), "negative": rig.runs.conditioning(2, **given)}
            recorder_of(rig, model, reference, lambda one: one.at(rig.sharing.SIGMA, (0, 1)), conditionings=prompts)
    assert len(seen) == 2 and torch.equal(*seen)
    beside = seen[0][:, 4:]
    if kind == "inpaint":
        assert not beside[:, 0].any()
        beside = beside[:, 1:]
        picture = model.model.process_latent_in(reference.samples)
    else:
        picture = reference.samples
    assert torch.equal(beside, picture.expand(2, -1, -1, -1))


def test_prompts_of_a_reference_keep_what_they_say_of_pictures(rig):
    model, picture = rig.micro.concatenating("edit"), rig.runs.drawn(1, 4, 10, 14, seed=33)
    own = {"concat_latent_image": picture}
    reference = rig.sharing.reference(
        positive=rig.runs.conditioning(5, **own), negative=rig.runs.conditioning(6, **own)
    )
    conds = recorder_of(rig, model, reference, lambda one: one.conds)
    assert all(torch.equal(conds[name][0]["model_conds"]["c_concat"].cond, picture) for name in conds)


# memory


def test_what_is_kept_is_freed_after_the_run(rig, micro, monkeypatch):
    made, original = [], rig.attention_run.Recorder

    def note(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(rig.attention_run, "Recorder", note)
    held: list[int] = []
    rig.ordinary.sample(
        rig.sharing.shared(micro), rig.runs.latent(), callback=lambda *_: held.append(len(made[0]._kept))
    )
    assert held == [2] * 4 and not made[0]._kept
    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.ordinary.sample(rig.sharing.shared(micro), rig.runs.latent(), callback=rig.endings.interrupting_at(1))
    assert len(made) == 2 and not made[1]._kept


def test_only_one_level_is_kept(rig, micro):
    def body(recorder):
        first = recorder.at(1.0, (0,))[0]
        recorder.at(0.5, (1,))
        return recorder.at(1.0, (0,))[0] is first, len(recorder._kept)

    assert recorder_of(rig, micro, rig.sharing.described(), body) == (False, 1)


def test_interrupt_ends_before_the_references_pass(rig, micro, monkeypatch):
    calls = rig.sharing.asked(monkeypatch, micro)

    def body(recorder):
        rig.model_management.interrupt_current_processing(True)
        with pytest.raises(rig.model_management.InterruptProcessingException):
            recorder.at(1.0, (0,))

    recorder_of(rig, micro, rig.sharing.described(), body)
    assert not calls
