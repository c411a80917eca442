"""Named predictions: what the model is asked, and what other nodes see of it."""

from __future__ import annotations

import pytest
import torch

PAIR = ("to the positive", "to the negative")


@pytest.fixture
def branch(rig, micro, path):
    return rig.lora_files.load_style(path, micro, 0.8)


def test_predictions_come_back_in_the_order_of_the_requests(rig, micro, branch, calls):
    x, asked = rig.runs.drawn(2, 4, 8, 8), rig.runs.FOUR
    forwards = rig.runs.gated(micro, branch, rig.runs.pair(), asked, x)
    backwards = rig.runs.gated(micro, branch, rig.runs.pair(), asked[::-1], x)
    tolerance = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), x)
    for one, other in zip(forwards, backwards[::-1], strict=True):
        assert (one - other).abs().max() <= tolerance
    assert (forwards[0] - forwards[2]).abs().max() > 1e-2


def test_model_is_called_once_where_memory_allows(rig, micro, branch):
    recorded, seen = rig.runs.recording(micro)
    rig.runs.gated(recorded, branch, rig.runs.pair(), rig.runs.FOUR, rig.runs.drawn(3, 4, 8, 8))
    assert [rows for _, _, rows in seen] == [12]


def test_apply_model_wrappers_see_polarities_and_nothing_else(rig, micro, branch, calls):
    recorded, seen = rig.runs.recording(micro)
    rig.runs.gated(recorded, branch, rig.runs.pair(), rig.runs.FOUR, rig.runs.drawn(1, 4, 8, 8))
    assert len(seen) == (1 if calls == "batched" else 4)
    assert sorted(index for indexes, _, _ in seen for index in indexes) == [0, 0, 1, 1]
    assert sorted(name for _, names, _ in seen for name in names) == ["base", "base", "style", "style"]


def test_attn2_patch_that_indexes_a_pair(rig, micro, branch, calls):
    """Popular packs keep something for (positive, negative) and look it up by ``cond_or_uncond``."""
    patched, seen = micro.clone(), []

    def add_by_index(n, context, value, extra_options):
        indexes = extra_options["cond_or_uncond"]
        seen.append([PAIR[index] for index in indexes])
        size = n.shape[0] // len(indexes)
        gains = torch.tensor([(1.0, 0.5)[index] for index in indexes]).repeat_interleave(size)
        return n, context, value * gains.view(-1, 1, 1)

    patched.set_model_attn2_patch(add_by_index)
    x = rig.runs.drawn(2, 4, 8, 8)
    found = rig.runs.gated(patched, branch, rig.runs.pair(), rig.runs.FOUR, x)
    plain = rig.runs.plain(patched, rig.runs.pair(), x)
    assert seen
    tolerance = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), x)
    assert (found[2] - plain["positive"]).abs().max() <= tolerance
    assert (found[3] - plain["negative"]).abs().max() <= tolerance


def test_model_function_wrapper_that_indexes_a_pair(rig, micro, branch, calls):
    patched, seen = micro.clone(), []

    def wrapper(apply_model, call):
        seen.append([PAIR[index] for index in call["cond_or_uncond"]])
        assert call["c"]["transformer_options"]["cond_or_uncond"] == call["cond_or_uncond"]
        return apply_model(call["input"], call["timestep"], **call["c"])

    patched.set_model_unet_function_wrapper(wrapper)
    x = rig.runs.drawn(2, 4, 8, 8)
    found = rig.runs.gated(patched, branch, rig.runs.pair(), rig.runs.FOUR, x)
    unwrapped = rig.runs.gated(micro, branch, rig.runs.pair(), rig.runs.FOUR, x)
    assert seen
    assert all(torch.equal(one, other) for one, other in zip(found, unwrapped, strict=True))


def test_options_of_the_model_are_left_as_they_were(rig, micro, branch):
    options = micro.model_options
    before = rig.leaks.patcher_state(micro)
    rig.runs.gated(micro, branch, rig.runs.pair(), rig.runs.FOUR, rig.runs.drawn(1, 4, 8, 8))
    assert micro.model_options is options
    assert rig.leaks.patcher_state(micro) == before


def test_ordinary_calls_are_passed_on_untouched(rig):
    options = {"cond_or_uncond": [1, 0]}
    assert rig.rows.with_polarities(options) is options


def test_polarities_are_put_in_once(rig):
    runs, branches = rig.runs, rig.rows
    options = {"cond_or_uncond": [2, 0], branches.BRANCHES: (runs.STYLE, runs.BASE, runs.BASE_NEGATIVE)}
    shown = branches.with_polarities(options)
    assert options["cond_or_uncond"] == [2, 0]
    assert shown["cond_or_uncond"] == [1, 0]
    assert shown[branches.CHUNKS] == [runs.BASE_NEGATIVE, runs.STYLE]
    assert branches.with_polarities(shown) is shown


@pytest.mark.parametrize(
    ("names", "rows", "expected"),
    [
        (["style"], 3, [(0, 3)]),
        (["base"], 3, []),
        (["base", "style"], 2, [(1, 2)]),
        (["style", "style", "base"], 6, [(0, 4)]),
        (["style", "base", "style"], 9, [(0, 3), (6, 9)]),
    ],
)
def test_rows_of_a_branch(rig, names, rows, expected):
    chunks = [rig.rows.Branch(name, 0) for name in names]
    assert rig.rows.rows_of("style", chunks, rows) == [slice(*part) for part in expected]


@pytest.mark.parametrize(
    ("rows", "batch", "expected"),
    [
        (2, 1, [[(0, 1)], [(1, 2)]]),
        (4, 2, [[(0, 2)], [(2, 4)]]),
        (4, 1, [[(0, 1), (2, 3)], [(1, 2), (3, 4)]]),
        (12, 2, [[(0, 2), (4, 6), (8, 10)], [(2, 4), (6, 8), (10, 12)]]),
        (4, None, [[(0, 2)], [(2, 4)]]),
    ],
)
def test_tiles_come_before_chunks(rig, rows, batch, expected):
    found = rig.rows.chunk_rows(2, rows, batch)
    assert found == [[slice(*part) for part in parts] for parts in expected]


@pytest.mark.parametrize(
    ("names", "rows", "expected"),
    [
        (["style", "base"], 8, [(0, 2), (4, 6)]),
        (["base", "style"], 8, [(2, 4), (6, 8)]),
        (["style", "style"], 8, [(0, 8)]),
        (["base", "style", "style"], 12, [(2, 6), (8, 12)]),
    ],
)
def test_rows_of_a_branch_in_tiles(rig, names, rows, expected):
    chunks = [rig.rows.Branch(name, 0) for name in names]
    assert rig.rows.rows_of("style", chunks, rows, 2) == [slice(*part) for part in expected]


@pytest.mark.parametrize(
    ("rows", "batch", "message"),
    [
        (5, None, "5 rows for 2 predictions"),
        (1, None, "1 rows for 2 predictions"),
        (6, 2, "6 rows for 2 predictions of 2 pictures"),
        (2, 2, "2 rows for 2 predictions of 2 pictures"),
    ],
)
def test_rows_that_are_no_whole_tiles_are_refused_with_the_numbers(rig, rows, batch, message):
    with pytest.raises(rig.rows.StylizationError, match=message):
        rig.rows.chunk_rows(2, rows, batch)


@pytest.mark.parametrize("by_name", [True, False])
def test_options_are_found_and_replaced_wherever_they_stand(rig, by_name):
    args = ["x", "t", None, "context", None]
    kwargs = {"y": 1}
    if by_name:
        kwargs["transformer_options"] = {"old": True}
    else:
        args.append({"old": True})
    assert rig.rows.options_of(args, kwargs) == {"old": True}
    new_args, new_kwargs = rig.rows.replace_options(args, kwargs, {"new": True})
    assert rig.rows.options_of(new_args, new_kwargs) == {"new": True}
    assert rig.rows.options_of(args, kwargs) == {"old": True}
    assert new_kwargs["y"] == 1
