"""Records that later runs find again: when they do, when they must not, and what room they take."""

from __future__ import annotations

import gc
import importlib
import weakref

import pytest
import torch

LEVELS = 4  # of `ordinary.sample`
PASSES = LEVELS
"""One call a level, of both polarities."""

RECORDS = 2 * LEVELS


@pytest.fixture
def cached(rig):
    """(cache, reference) with room for everything, or for ``limit`` bytes; more goes to the reference."""
    module = importlib.import_module("stylization.stylization_core.hosts.comfyui.references.record_cache")

    def make(limit=2**40, **given):
        cache = module.RecordCache(limit)
        return cache, rig.sharing.described(cache=cache, **given)

    make.module = module
    return make


@pytest.fixture
def count(rig, monkeypatch):
    """count(model, **settings) -> (passes of references, picture) of one run."""
    made, original = [], rig.attention_run.Recorder

    def note(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(rig.attention_run, "Recorder", note)

    def run(model, **settings):
        made.clear()
        found = rig.ordinary.sample(model, rig.runs.latent(), **settings)
        return sum(one.passes for one in made), found

    return run


# what is found again


def test_second_run_asks_nothing_and_gives_the_same(rig, micro, cached, count):
    cache, reference = cached()
    uncached = count(rig.sharing.shared(micro, rig.sharing.described()))
    first = count(rig.sharing.shared(micro, reference))
    again = count(rig.sharing.shared(micro, reference))
    assert (uncached[0], first[0], again[0]) == (PASSES, PASSES, 0)
    assert torch.equal(first[1], uncached[1]) and torch.equal(again[1], uncached[1])
    assert cache.used > 0


def test_other_pictures_and_guidance_find_it_too(rig, micro, cached, count):
    """What only the pictures know does not count: their prompts, strength, mask, guidance and patches."""
    _, reference = cached()
    count(rig.sharing.shared(micro, reference))
    other = {"positive": rig.runs.conditioning(8), "negative": rig.runs.conditioning(9)}
    others = {
        "prompts": (rig.sharing.shared(micro, reference), {"conditionings": other}),
        "strength": (rig.sharing.shared(micro, reference, weight=2.0, adain_key=0.5), {}),
        "guidance": (rig.sharing.shared(micro, reference), {"cfg": 7.0}),
        "one polarity": (rig.sharing.shared(micro, reference), {"cfg": 1.0}),
    }
    patched = micro.clone()
    patched.set_model_attn1_patch(lambda q, k, v, options: (q * 1.1, k, v))
    others["patch"] = (rig.sharing.shared(patched, reference), {})
    for name, (model, settings) in others.items():
        passes, found = count(model, **settings)
        assert passes == 0, name
        assert found.isfinite().all(), name


def test_own_prompt_of_the_run_is_told_by_its_content(rig, micro, cached, count):
    cache, _ = cached()
    reference = rig.sharing.reference(cache=cache)
    model = rig.sharing.shared(micro, reference)
    assert count(model, conditionings=rig.runs.pair())[0] == PASSES
    assert count(model, conditionings=rig.runs.pair())[0] == 0
    other = {"positive": rig.runs.conditioning(9), "negative": rig.runs.conditioning(2)}
    passes, found = count(model, conditionings=other)
    assert passes == PASSES  # both: the contents are told apart as one
    assert torch.equal(found, count(rig.sharing.shared(micro, rig.sharing.reference()), conditionings=other)[1])


# what must not be found


def _loaded(rig, micro, path):
    return rig.loras.weight_patched(micro, path, 0.8)


def _resampled(rig, micro, path):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(micro, "eps", True)[0]


def _backend(rig, micro, path):
    model = micro.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = lambda f, *a, **k: f(*a, **k) * 0.9
    return model


@pytest.mark.parametrize("change", [_loaded, _resampled, _backend])
def test_another_model_is_asked_again(rig, micro, cached, count, path, change):
    _, reference = cached()
    count(rig.sharing.shared(micro, reference))
    model = change(rig, micro, path)
    passes, found = count(rig.sharing.shared(model, reference))
    assert passes == PASSES
    assert torch.equal(found, count(rig.sharing.shared(model, rig.sharing.described()))[1])


def test_another_schedule_and_other_layers_are_asked_again(rig, micro, cached, count):
    _, reference = cached()
    model = rig.sharing.shared(micro, reference)
    count(model)
    assert count(model, sigmas=(3.0, 1.5, 0.8, 0.2, 0.0))[0] == PASSES
    assert count(rig.sharing.shared(micro, reference, layers="style block"))[0] == PASSES
    assert count(rig.sharing.shared(micro, reference, norms=True))[0] == PASSES


def test_model_that_is_gone_is_never_found_by_its_address(cached):
    """A new object can lie where the old one lay."""

    class Owner:
        pass

    one = Owner()
    key = cached.module.Same(one)
    assert key == cached.module.Same(one) and key != cached.module.Same(Owner())
    del one
    gc.collect()
    assert key != cached.module.Same(Owner()) and key != key


def test_conditioning_with_an_unknown_object_is_not_kept(rig, micro, cached, count):
    cache, _ = cached()
    strange = rig.sharing.reference(
        positive=rig.runs.conditioning(5, own=object()), negative=rig.runs.conditioning(6), cache=cache
    )
    model = rig.sharing.shared(micro, strange)
    assert [count(model)[0], count(model)[0]] == [PASSES, PASSES]
    assert cache.used == 0


# content


def test_digest_tells_contents_apart(cached):
    digest = cached.module.digest
    values = [
        None,
        0,
        0.0,
        False,
        "0",
        [],
        {},
        [0],
        {"a": [0]},
        {"a": 0},
        {"b": 0},
        torch.zeros(2),
        torch.zeros(2, 1),
        torch.zeros(2, dtype=torch.int32),
        torch.tensor([0.0, -0.0]),
        torch.tensor(0.0, dtype=torch.bfloat16),
        torch.zeros(2).numpy(),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": 1, "b": [torch.ones(2)]}) == digest({"b": [torch.ones(2)], "a": 1})
    assert digest({"uuid": 1, "a": 1}) == digest({"uuid": 2, "a": 1})
    with pytest.raises(cached.module.Unkeyed, match="object"):
        digest([object()])


# room


def test_limit_keeps_the_first_levels_and_says_so(rig, micro, cached, count, caplog):
    cache, reference = cached()
    count(rig.sharing.shared(micro, reference))
    each = cache.used // RECORDS
    cache, reference = cached(limit=3 * each + each // 2)
    model = rig.sharing.shared(micro, reference)
    with caplog.at_level("INFO"):
        assert count(model)[0] == PASSES
    assert cache.used == 3 * each
    assert sum("limit" in record.message for record in caplog.records) == 1
    passes, found = count(model)
    assert passes == PASSES - 1 and cache.used == 3 * each
    assert torch.equal(found, count(rig.sharing.shared(micro, rig.sharing.described()))[1])


def test_records_of_other_runs_make_room(rig, micro, cached, count):
    cache, reference = cached()
    model = rig.sharing.shared(micro, reference)
    count(model)
    cache.limit = cache.used  # full
    other = (3.0, 1.4, 0.6, 0.2, 0.0)
    assert [count(model, sigmas=other)[0], count(model, sigmas=other)[0]] == [PASSES, 0]
    assert count(model)[0] == PASSES and cache.used <= cache.limit


def test_what_is_kept_goes_with_the_reference(rig, micro, cached):
    cache, reference = cached()
    rig.ordinary.sample(rig.sharing.shared(micro, reference), rig.runs.latent())
    assert cache.used
    gone = weakref.ref(cache)
    del cache, reference
    gc.collect()
    assert gone() is None


def test_interrupted_run_leaves_whole_records_only(rig, micro, cached, count):
    cache, reference = cached()
    model = rig.sharing.shared(micro, reference)
    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.ordinary.sample(model, rig.runs.latent(), callback=rig.endings.interrupting_at(1))
    passes, found = count(model)
    assert 0 < passes < PASSES
    assert torch.equal(found, count(rig.sharing.shared(micro, rig.sharing.described()))[1])


def test_kept_tensors_can_meet_gradients(rig, micro, cached, count):
    """They come from a run without gradients; a later one may need them in a backward pass."""
    cache, reference = cached()
    count(rig.sharing.shared(micro, reference))
    ((record, _), *_) = next(iter(cache._runs.values())).values()
    (token, *_) = next(iter(next(iter(record.layers.values())).values()))
    weight = torch.ones(token.key.shape[-1], requires_grad=True)
    (token.key * weight).sum().backward()
    assert torch.equal(weight.grad, token.key.sum((0, 1)))


def test_only_references_with_a_cache_are_kept(rig, micro, cached, count):
    """Two references, one with a cache."""
    _, one = cached()
    other = rig.sharing.described(draw=22, weight=0.5)
    model = rig.sharing.shared(micro, one, other)
    first, again = count(model), count(model)
    assert (first[0], again[0]) == (2 * PASSES, PASSES) and torch.equal(first[1], again[1])
