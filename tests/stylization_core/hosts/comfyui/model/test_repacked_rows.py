"""Nodes that put tiles into one call, or split, repeat or sort its rows: every row is still whose it was."""

from __future__ import annotations

from functools import partial

import pytest
import torch

KNOWN = {
    "two tiles in a call": lambda rig, model: rig.repacking.tiled(model),
    "a tile in a call": lambda rig, model: rig.repacking.tiled(model, together=1),
    "tiles, prompts alone": lambda rig, model: rig.repacking.tiled(model, only_prompts=True),
    "tiles of each row": lambda rig, model: rig.repacking.tiles_of_each_row(model),
    "row by row": lambda rig, model: rig.repacking.row_by_row(model),
    "chunk by chunk": lambda rig, model: rig.repacking.chunk_by_chunk(model),
    "negatives last": lambda rig, model: rig.repacking.negatives_last(model),
}


@pytest.fixture
def branch(rig, micro, path):
    return rig.lora_files.load_style(path, micro, 0.8)


@pytest.fixture(params=list(KNOWN))
def repack(request, rig):
    return partial(KNOWN[request.param], rig)


def by_comfyui(rig, micro, stock, x, repack) -> list[torch.Tensor]:
    """What the four predictions of ``FOUR`` come to with the style written into the weights of a model of its own."""
    found = [rig.runs.plain(repack(model), rig.runs.pair(), x) for model in (stock, micro)]
    return [answers[key] for answers in found for key in ("positive", "negative")]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_predictions_under_a_node_that_lays_rows_out_anew(rig, micro, stock, branch, repack, calls, batch):
    x = rig.runs.drawn(batch, 4, 8, 12)
    found = rig.runs.gated(repack(micro), branch, rig.runs.pair(), rig.runs.FOUR, x)
    expected = by_comfyui(rig, micro, stock, x, repack)
    tolerance = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), rig.runs.drawn(3, 4, 8, 12))
    for one, other in zip(found, expected, strict=True):
        assert rig.runs.moved(one, other) <= tolerance
    assert rig.runs.moved(found[0], found[2]) > 1e-2


@pytest.mark.parametrize("name", sorted(set(KNOWN) - {"tiles, prompts alone"}))
def test_style_and_base_of_one_prompt_are_told_apart(rig, micro, stock, branch, name):
    """Without guidance both have the same prompt, so nothing but the labels tells their rows apart."""
    x, repack = rig.runs.drawn(2, 4, 8, 12), partial(KNOWN[name], rig)
    requests = ((rig.runs.STYLE, "positive"), (rig.runs.BASE, "positive"))
    style, base = rig.runs.gated(repack(micro), branch, rig.runs.pair(), requests, x)
    expected = by_comfyui(rig, micro, stock, x, repack)
    tolerance = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), x)
    assert rig.runs.moved(style, expected[0]) <= tolerance
    assert rig.runs.moved(base, expected[2]) <= tolerance


@pytest.mark.parametrize("settings", [{}, {"cfg": 1.0}, {"trained": True}], ids=str)
def test_sms_under_tiles_in_one_call_is_that_under_a_tile_in_a_call(rig, styled, settings):
    source = rig.runs.latent(2, 4, 12, 12)
    alone = rig.runs.sms(rig.repacking.tiled(styled, together=1), source, **settings)
    together = rig.runs.sms(rig.repacking.tiled(styled), source, **settings)
    assert rig.runs.moved(alone, source) > 0.05
    assert rig.runs.moved(together, alone) < 1e-3


@pytest.mark.parametrize("edit", [True, False])
def test_guidance_under_tiles_in_one_call_is_that_under_a_tile_in_a_call(rig, styled, edit):
    source = rig.runs.latent(2, 4, 12, 12)
    guided = rig.ordinary.guided(styled, edit=edit)
    alone = rig.ordinary.sample(rig.repacking.tiled(guided, together=1), source)
    together = rig.ordinary.sample(rig.repacking.tiled(guided), source)
    plain = rig.ordinary.sample(rig.repacking.tiled(styled), source)
    assert rig.runs.moved(alone, plain) > 0.05
    assert rig.runs.moved(together, alone) < 1e-3


def in_windows_of_two(model):
    """ComfyUI's own context windows over pictures, the only wrapper of the kind that it brings."""
    import comfy.context_windows as windows

    clone = model.clone()
    clone.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(windows.ContextSchedules.STATIC_STANDARD),
        fuse_method=windows.get_matching_fuse_method(windows.ContextFuseMethods.PYRAMID),
        context_length=2,
        context_overlap=0,
        dim=0,
    )
    return clone


LEVELS = (3.0, 1.5, 0.7, 0.0)
"""As many as pictures below: ComfyUI's windows compare the levels of the run with those of the pictures."""


def test_guidance_in_windows_of_pictures(rig, styled):
    source = rig.runs.latent(4, 4, 8, 8)
    guided = rig.ordinary.guided(styled, edit=False)
    found = rig.ordinary.sample(in_windows_of_two(guided), source, sigmas=LEVELS)
    whole = rig.ordinary.sample(guided, source, sigmas=LEVELS)
    assert rig.runs.moved(found, whole) < 1e-3


def test_sms_in_windows_of_pictures(rig, styled):
    source = rig.runs.latent(4, 4, 8, 8)
    settings = {"sigmas": torch.tensor(LEVELS), "drawn": False}
    found = rig.runs.sms(in_windows_of_two(styled), source, **settings)
    whole = rig.runs.sms(styled, source, **settings)
    assert rig.runs.moved(whole, source) > 0.05
    assert rig.runs.moved(found, whole) < 1e-3


def test_rows_as_comfyui_lays_them_out_do_not_have_their_labels_read(rig, micro, branch, monkeypatch):
    def refused(*_args):
        raise AssertionError("the device is waited for")

    monkeypatch.setattr(rig.rows, "_by_label", refused)
    monkeypatch.setattr(rig.rows, "_tile_after_tile", refused)
    rig.runs.gated(micro, branch, rig.runs.pair(), rig.runs.FOUR, rig.runs.drawn(2, 4, 8, 8))


def test_one_prompt_alone_does_not_tell_style_from_base(rig, styled):
    model = rig.repacking.tiled(styled, only_prompts=True)
    with pytest.raises(rig.rows.StylizationError, match="4 rows for 2 predictions of 1 pictures.*tiled"):
        rig.runs.sms(model, rig.runs.latent(1, 4, 8, 8), cfg=1.0)


class HalfOfTheRows:
    """A node that asks about the first half of what it is asked, and says it twice."""

    def __call__(self, apply_model, call):
        half = len(call["input"]) // 2
        prompts = call["c"]["c_crossattn"][:half]
        conditioning = {"c_crossattn": prompts, "transformer_options": call["c"]["transformer_options"]}
        return apply_model(call["input"][:half], call["timestep"][:half], **conditioning).repeat(2, 1, 1, 1)


def test_rows_that_nobody_can_name_are_refused_with_the_name_of_the_node(rig, styled):
    model = styled.clone()
    model.set_model_unet_function_wrapper(HalfOfTheRows())
    with pytest.raises(rig.rows.StylizationError, match="4 rows for 4 predictions of 2.*HalfOfTheRows.*Remove"):
        rig.runs.sms(model, rig.runs.latent(2, 4, 8, 8))


def test_other_orders_of_tiles_are_refused_where_no_label_travels(rig, styled):
    def wrapper(apply_model, call):
        x = call["input"].repeat_interleave(2, dim=0)
        prompts = call["c"]["c_crossattn"].repeat_interleave(2, dim=0)
        conditioning = {"c_crossattn": prompts, "transformer_options": call["c"]["transformer_options"]}
        return apply_model(x, call["timestep"].repeat_interleave(2), **conditioning)[::2]

    model = styled.clone()
    model.set_model_unet_function_wrapper(wrapper)
    with pytest.raises(rig.rows.StylizationError, match="8 rows for 4 predictions of 1"):
        rig.runs.sms(model, rig.runs.latent(1, 4, 8, 8))


def test_arguments_of_the_network_are_as_they_were(rig, styled, micro):
    """Labels are taken off before the network, whatever wrappers a MODEL carries."""
    seen = []

    def note(executor, *args, **kwargs):
        seen.append(sorted(kwargs))
        return executor(*args, **kwargs)

    model = styled.clone()
    model.add_wrapper_with_key(rig.WrappersMP.DIFFUSION_MODEL, "test.arguments", note)
    rig.runs.sms(model, rig.runs.latent(1, 4, 8, 8), steps=2)
    plain = micro.clone()
    plain.add_wrapper_with_key(rig.WrappersMP.DIFFUSION_MODEL, "test.arguments", note)
    ours, seen[:] = seen[:], []
    rig.runs.plain(plain, rig.runs.pair(), rig.runs.latent(1, 4, 8, 8))
    assert ours
    assert all(one == seen[0] for one in ours)
