"""Caches that answer with what the network said at the step before: kept apart by branch, or refused by name."""

from __future__ import annotations

import pytest
import torch

SIGMAS = (3.0, 2.7, 2.4, 2.1, 1.8, 1.5, 1.2, 0.0)


def with_easycache(model, threshold: float, kind: str = "EasyCacheNode"):
    import comfy_extras.nodes_easycache as nodes

    return getattr(nodes, kind).execute(model, threshold, 0.0, 1.0, False)[0]


@pytest.fixture
def estimates(rig):
    """The estimates of all steps of an ordinary run."""

    def run(model, **settings) -> list[torch.Tensor]:
        source = rig.runs.latent(1, 4, 8, 8)
        return [found for _, found in rig.ordinary.steps_of(model, source, sigmas=SIGMAS, **settings)]

    return run


@pytest.mark.parametrize("edit", [False, True])
@pytest.mark.parametrize("kind", ["EasyCacheNode", "LazyCacheNode"])
def test_guidance_with_a_cache_that_never_reuses_is_guidance_without(rig, styled, estimates, edit, kind):
    guided = rig.ordinary.guided(styled, edit=edit)
    cached = estimates(with_easycache(guided, 0.0, kind))
    for one, other in zip(cached, estimates(guided), strict=True):
        assert torch.equal(one, other)


def test_style_and_base_are_reused_each_as_its_own(rig, styled, estimates, calls):
    """The last steps are all reused; what the style adds to them is what it added at the last step asked."""
    guided = rig.ordinary.guided(styled, edit=False)
    with_style = estimates(with_easycache(guided, 3.0))
    without = estimates(with_easycache(styled, 3.0))
    added = [rig.runs.moved(one, other) for one, other in zip(with_style, without, strict=True)]
    assert min(added) > 0.5 * max(added) > 0.05


def test_guidance_in_a_window_that_begins_later(rig, styled, estimates):
    """0.3.75 has no answer for a prediction that joins; newer versions ask the network for it."""
    import comfy_extras.nodes_easycache as nodes

    model = with_easycache(rig.ordinary.guided(styled, edit=False, start=0.5), 3.0)
    if hasattr(nodes.EasyCacheHolder, "can_apply_cache_diff"):
        assert all(torch.isfinite(found).all() for found in estimates(model))
        return
    with pytest.raises(rig.rows.StylizationError, match="EasyCache.*joins in the middle.*begin at 0"):
        estimates(model)


def test_sms_refuses_a_step_cache_and_keeps_nothing(rig, styled, outputs):
    before = rig.leaks.network(styled)
    with pytest.raises(rig.rows.StylizationError, match=r"model: .*step cache \(easycache\).*noise of its own"):
        rig.runs.sms(with_easycache(styled, 0.1), rig.runs.latent())
    assert not outputs.exists()
    assert rig.leaks.network(styled) == before


def test_sms_refuses_a_step_cache_of_the_second_model(rig, micro):
    other = rig.micro.unet(seed=1)
    with pytest.raises(rig.rows.StylizationError, match=r"style_model: .*step cache \(easycache\)"):
        rig.runs.sms(micro, rig.runs.latent(), with_easycache(other, 0.1))


def test_sms_is_not_touched_by_a_cache_of_whole_steps(rig, styled):
    source = rig.runs.latent()
    found = rig.runs.sms(with_easycache(styled, 3.0, "LazyCacheNode"), source)
    assert torch.equal(found, rig.runs.sms(styled, source))


def test_style_alone_is_sampled_with_a_step_cache(rig, styled, stock):
    """As the same style written into the weights is."""
    source = rig.runs.latent(1, 4, 8, 8)
    found, expected = (
        rig.ordinary.sample(model, source, sigmas=SIGMAS, guider=guider(model))
        for model, guider in (
            (with_easycache(styled, 0.5), rig.runs.guider),
            (with_easycache(stock, 0.5), rig.ordinary.guider_of),
        )
    )
    assert rig.runs.moved(found, expected) < 1e-3


class TeaCache:
    """As packs name theirs; keeps one answer for each entry of ``cond_or_uncond``."""

    def apply(self, model):
        def wrapper(apply_model, call):
            return apply_model(call["input"], call["timestep"], **call["c"])

        clone = model.clone()
        clone.set_model_unet_function_wrapper(wrapper)
        return clone


def test_caches_by_polarity_are_refused_where_style_and_base_are_both_asked(rig, styled, estimates):
    model = TeaCache().apply(rig.ordinary.guided(styled))
    with pytest.raises(rig.rows.StylizationError, match=r"step cache \(teacache\) that keeps one answer"):
        estimates(model)
    plain = TeaCache().apply(styled)
    assert all(torch.isfinite(found).all() for found in estimates(plain))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("apply_model", "FBCache.run"),
        ("diffusion_model", "magcache_forward"),
        ("calc_cond_batch", "WaveSpeed"),
    ],
)
def test_caches_are_known_by_their_names(rig, place, name):
    def wrapper():
        pass

    wrapper.__qualname__ = name
    options = {"transformer_options": {"wrappers": {place: {None: [wrapper]}}}}
    (found,) = rig.step_caches.step_caches(options)
    assert found in name.lower()
    assert rig.step_caches.step_caches({"transformer_options": {"wrappers": {"predict_noise": {name: []}}}}) == []


def test_ordinary_wrappers_are_no_caches(rig, micro):
    recorded, _ = rig.runs.recording(micro)
    tiled = rig.repacking.tiled(recorded)
    assert rig.step_caches.step_caches(tiled.model_options) == []
