"""Reports: numbers against the rulers called directly, anchors, JSON, text and refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.report import measure
from stylization.stylization_core.report.material import Material, checked, fitted
from stylization.stylization_core.report.scores import CONTENT, STYLE, Report, Row, Scores
from stylization.stylization_core.rulers import catalogue, style

SIZE = 64, 80
WHOLE = [key for key, ruler in catalogue.CONTENT.items() if not ruler.needs_mask]


def row(report: Report, key: str) -> Row:
    (found,) = [one for one in report.rows if one.key == key]
    return found


# -- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", WHOLE)
def test_content_numbers_are_the_rulers_own(styled, photo, results, key):
    assert row(styled, key).whole.values == pytest.approx(catalogue.CONTENT[key].measure(photo, results))


@pytest.mark.parametrize("key", list(catalogue.CONTENT))
def test_numbers_inside_the_region_are_those_with_the_mask(regional, photo, results, mask, key):
    found = row(regional, key)
    assert found.region.values == pytest.approx(catalogue.CONTENT[key].measure(photo, results, mask=mask))
    assert (found.whole is None) == catalogue.CONTENT[key].needs_mask


@pytest.mark.parametrize("key", list(catalogue.STYLE))
def test_style_numbers_are_the_rulers_own(regional, photo, results, exemplars, mask, key):
    measure, found = catalogue.STYLE[key].measure, row(regional, key)
    assert found.whole.values == pytest.approx(measure(results, exemplars))
    assert found.region.values == pytest.approx(measure(results, exemplars, mask=mask))
    assert found.whole.identity == pytest.approx(measure(photo, exemplars)[0])
    assert found.region.identity == pytest.approx(measure(photo, exemplars, mask=mask)[0])


@pytest.mark.parametrize("part", ["color", "texture", "combined"])
def test_style_progress_is_that_of_the_ruler(regional, photo, results, exemplars, mask, part):
    found = row(regional, "progress" if part == "combined" else f"progress_{part}")
    for scores, area in ((found.whole, None), (found.region, mask)):
        assert scores.values == pytest.approx(getattr(style.style_progress(photo, results, exemplars, area), part))
        wanted = getattr(style.style_copy_progress(photo, exemplars, area), part)[0]
        assert (scores.identity, scores.style_copy) == (0.0, pytest.approx(wanted))


def test_photos_in_pairs_are_measured_in_pairs(photo, results):
    photos = np.concatenate([photo, photo[:, :, ::-1]])
    found = measure.report(checked(photos, results))
    for key in WHOLE:
        ruler = catalogue.CONTENT[key].measure
        wanted = [ruler(photos[i : i + 1], results[i : i + 1])[0] for i in range(2)]
        assert row(found, key).whole.values == pytest.approx(wanted)


def test_masks_in_pairs_are_measured_in_pairs(photo, results, exemplars, mask):
    masks = np.concatenate([mask, 1 - mask])
    found = measure.report(checked(photo, results, exemplars, masks))
    for key in ("structure", "color_change"):
        wanted = [catalogue.CONTENT[key].measure(photo, results[i : i + 1], mask=masks[i : i + 1])[0] for i in range(2)]
        assert row(found, key).region.values == pytest.approx(wanted)
    wanted = style.style_progress(photo, results, exemplars, masks)
    assert row(found, "progress").region.values == pytest.approx(wanted.combined)


def test_anchor_of_identity_is_the_photo_itself(regional):
    closed = {"structure": 1.0, "edges": 1.0, "low_band": 0.0, "shift": 0.0, "color_change": 0.0, "legibility": 1.0}
    for key, value in closed.items():
        found = row(regional, key)
        for scores in filter(None, (found.whole, found.region)):
            assert scores.identity == pytest.approx(value, abs=1e-9), key


@pytest.mark.parametrize("key", WHOLE)
def test_anchor_of_style_copies_is_the_exemplars_as_results(styled, photo, exemplars, key):
    copies = fitted(exemplars, SIZE)
    assert row(styled, key).whole.style_copy == pytest.approx(catalogue.CONTENT[key].measure(photo, copies).mean())


def test_anchor_of_style_is_each_exemplar_against_the_others(styled, exemplars):
    for key, ruler in catalogue.STYLE.items():
        wanted = [ruler.measure(exemplars[i : i + 1], np.delete(exemplars, i, axis=0))[0] for i in range(3)]
        assert row(styled, key).whole.style_copy == pytest.approx(np.mean(wanted))


def test_without_style_the_photo_upside_down_is_the_other_anchor(plain, photo):
    assert not plain.group(STYLE)
    for key in WHOLE:
        scores = row(plain, key).whole
        wanted = catalogue.CONTENT[key].measure(photo, photo[:, ::-1, ::-1])[0]
        assert (scores.style_copy, scores.unrelated) == (None, pytest.approx(wanted))


def test_one_exemplar_has_no_others(photo, results, exemplars):
    found = measure.report(checked(photo, results, exemplars[:1]))
    assert [row(found, key).whole.style_copy for key in ("color", "texture", "progress")] == [None] * 3
    assert any("needs two or more" in note for note in found.notes)
    assert "needs two or more" in found.as_text()


def test_sets_are_measured_where_there_are_two(styled, results, exemplars):
    assert styled.sets == {"results": style.set_distance(results), "exemplars": style.set_distance(exemplars)}


def test_flicker_is_that_of_the_ruler_and_of_the_source(photo):
    moving = np.concatenate([np.roll(photo, 2 * i, axis=2) for i in range(3)])
    frames = np.clip(moving + np.array([0, 0.1, 0])[:, None, None, None], 0, 1).astype(np.float32)
    ruler = catalogue.SEQUENCE["flicker"].measure
    found = measure.report(checked(moving, frames), sequence=True).flicker
    assert found.values == pytest.approx(ruler(frames, moving))
    assert found.identity == pytest.approx(ruler(moving, moving).mean())
    still = measure.report(checked(photo, frames), sequence=True).flicker
    assert still.values == pytest.approx(ruler(frames)) and still.identity == 0.0


def test_a_result_that_is_its_photo_stands_on_the_anchor(photo, exemplars):
    found = measure.report(checked(photo, photo, exemplars))
    for one in found.rows:
        assert one.whole.values == pytest.approx([one.whole.identity], abs=1e-9), one.key


def test_content_that_is_the_style_leaves_progress_out(photo, results):
    found = measure.report(checked(photo, results, photo))
    assert not [one for one in found.rows if one.key.startswith("progress")]
    assert row(found, "color").whole.identity == 0 and "style progress was left out" in found.as_text()


def test_what_one_ruler_cannot_measure_costs_the_others_nothing(results, mask):
    even = np.full((1, *SIZE, 3), 0.5, np.float32)
    found = measure.report(checked(even, results, mask=mask))
    assert "legibility" not in [one.key for one in found.rows]
    assert {one.key for one in found.rows} == set(WHOLE)
    assert any("legibility" in note and "inside the region" in note for note in found.notes)


def tokens(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16, 6)) + np.arange(6)


def test_a_note_names_the_inputs_of_the_report(photo, results, exemplars):
    """Rulers call them otherwise."""
    silent = np.zeros((3, 16, 6))
    given = Material(tokens(1, 0), tokens(2, 1), silent, silent)
    found = measure.report(checked(photo, results, exemplars), tokens=given)
    (note,) = [note for note in found.notes if "all features are 0" in note]
    assert "was left out: style: all features" in note


def test_tokens_add_rulers_of_features(photo, results, exemplars, mask):
    content, result, styles = tokens(1, 0), tokens(2, 1), tokens(3, 2)
    weights = np.linspace(0, 1, 16)[None]
    given = Material(content, result, styles, styles, weights)
    found = measure.report(checked(photo, results, exemplars, mask), tokens=given)
    for key, ruler in catalogue.CONTENT_FEATURES.items():
        scores = row(found, key)
        assert scores.whole.values == pytest.approx(ruler.measure(content, result))
        assert scores.region.values == pytest.approx(ruler.measure(content, result, weights=weights))
        assert scores.whole.style_copy == pytest.approx(ruler.measure(content, styles).mean())
    for key, ruler in catalogue.STYLE_FEATURES.items():
        scores = row(found, key)
        assert scores.whole.values == pytest.approx(ruler.measure(result, styles))
        assert scores.region.values == pytest.approx(ruler.measure(result, styles, weights=weights))
        others = [ruler.measure(styles[i : i + 1], np.delete(styles, i, axis=0))[0] for i in range(3)]
        assert scores.whole.style_copy == pytest.approx(np.mean(others))


@pytest.mark.parametrize("given", [{}, {"exemplars": True}, {"exemplars": True, "mask": True}])
def test_ticks_are_counted_beforehand(photo, results, exemplars, mask, given):
    found = {"exemplars": exemplars, "mask": mask}
    material, ticks = checked(photo, results, **{key: found[key] for key in given}), []
    measure.report(material, tick=lambda: ticks.append(1))
    wanted = measure.measurements(material)
    assert len(ticks) == wanted


# -- JSON and text --------------------------------------------------------------------------------------------------


def test_json_says_all_in_plain_numbers(regional):
    found = json.loads(regional.as_json(), parse_constant=lambda name: pytest.fail(name))
    assert (found["version"], found["size"], found["results"]) == (1, [80, 64], 2)
    assert found["region"] == pytest.approx(40 * 44 / (64 * 80))
    assert list(found["rulers"]) == [one.key for one in regional.rows]
    one = found["rulers"]["color_change"]
    assert (one["label"], one["unit"], one["higher"], one["group"]) == ("colour change", "Delta E", False, CONTENT)
    assert one["values"] == pytest.approx(row(regional, "color_change").whole.values, rel=1e-6)
    assert one["mean"] == pytest.approx(np.mean(one["values"]), rel=1e-6)
    assert set(one["region"]) == {"mean", "values", "identity", "style_copy", "unrelated"}
    assert found["rulers"]["legibility"]["mean"] is None
    assert found["set"]["results"]["color"] == pytest.approx(regional.sets["results"].color, rel=1e-6)


def test_json_has_no_nan(plain):
    broken = replace(plain, flicker=Scores(np.array([np.nan, 0.25]), 0.1))
    found = json.loads(broken.as_json(), parse_constant=lambda name: pytest.fail(name))
    assert found["flicker"]["values"] == [None, 0.25] and found["flicker"]["mean"] == 0.25


def test_text_is_aligned_and_says_how_to_read_it(regional):
    text = regional.as_text()
    table = text.split("\n\n")[1].splitlines()
    assert len({len(line) for line in table}) == 1
    line = next(line for line in table if line.startswith("colour change (Delta E)"))
    assert "↓" in line and f"{row(regional, 'color_change').whole.mean:.2f}" in line.split()
    for words in ("Content kept, region", "Style reached", "Each result", "How unlike each other", "How to read it"):
        assert words in text
    assert "Texture and contrast that a style adds lower structure similarity" in text


def test_text_says_when_anchors_are_no_scale(styled):
    scores = Scores(np.array([1.0, 1.2]), identity=0.2, style_copy=0.4)
    near = replace(styled, rows=(Row("texture", "texture distance", "octaves", False, STYLE, scores),))
    assert "texture distance: the photo is as near to the style" in near.as_text()
    assert near.rows[0].scale(scores) is None


@pytest.mark.parametrize(
    ("group", "higher", "scores", "value", "place"),
    [
        (CONTENT, True, {"identity": 1.0, "style_copy": 0.2}, 0.6, 0.5),
        (CONTENT, False, {"identity": 0.0, "style_copy": 40.0}, 10.0, 0.75),
        (CONTENT, False, {"identity": 0.0, "unrelated": 2.0}, 3.0, -0.5),
        (STYLE, False, {"identity": 30.0, "style_copy": 10.0}, 20.0, 0.5),
        (STYLE, False, {"identity": 30.0}, 3.0, 0.9),
        (STYLE, True, {"identity": 0.0}, 0.4, 0.4),
    ],
)
def test_scales_lead_from_the_worst_anchor_to_the_best(group, higher, scores, value, place):
    found = Scores(np.array([value]), **scores)
    assert Row("x", "x", "", higher, group, found).scale(found).place(value) == pytest.approx(place)


# -- errors ---------------------------------------------------------------------------------------------------------

NAN = np.full((1, *SIZE, 3), np.nan, np.float32)
GIVEN = np.full((2, *SIZE, 3), 0.5, np.float32)
BAD_INPUT = {
    "size": ((GIVEN[:, :-3], GIVEN), "content and result: content is 80x61 pixels, result 80x64. Bring the photo"),
    "count": ((GIVEN[[0, 0, 0]], GIVEN), "content and result: content has 3 pictures, result 2."),
    "NaN": ((GIVEN, NAN.repeat(2, 0)), "result: some values are NaN"),
    "NaN in content": ((NAN, GIVEN), "content: some values are NaN"),
    "NaN in style": ((GIVEN, GIVEN, NAN), "style: some values are NaN"),
    "nothing": ((GIVEN, GIVEN[:0]), "result: there is no picture in it."),
    "small": ((GIVEN[:, :20], GIVEN[:, :20]), "result: it is 80x20 pixels."),
    "small style": ((GIVEN, GIVEN, GIVEN[:, :, :16]), "style: it is 16x64 pixels."),
    "transparent": ((GIVEN[..., [0, 1, 2, 0]], GIVEN), "content: the shape is (1, 64, 80, 4)"),
    "empty mask": ((GIVEN, GIVEN, None, np.zeros((1, *SIZE))), "mask: nothing is marked"),
    "mask of another size": ((GIVEN, GIVEN, None, np.ones((1, 64, 64))), "mask: it is 64x64 pixels"),
    "three masks": ((GIVEN, GIVEN, None, np.ones((3, *SIZE))), "mask: it has 3 entries for 2 pictures"),
    "NaN mask": ((GIVEN, GIVEN, None, np.full((1, *SIZE), np.nan)), "mask: some values are NaN"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_what_does_not_fit_is_refused_by_name(case):
    given, message = BAD_INPUT[case]
    with pytest.raises(StylizationError) as caught:
        checked(*(None if one is None else torch.as_tensor(one) for one in given))
    assert str(caught.value).startswith(message)


def test_photo_and_mask_are_cut_as_a_vae_has_cut_the_result(photo, results):
    height, width = photo.shape[1:3]
    larger = np.pad(photo, ((0, 0), (1, 2), (3, 4), (0, 0)))
    mask = np.zeros((height, width))
    mask[10:40, 20:60] = 1
    given = checked(larger, results, mask=torch.from_numpy(np.pad(mask, ((1, 2), (3, 4)))))
    assert np.array_equal(given.content, photo.astype(np.float32)) and np.array_equal(given.mask[0], mask)
    with pytest.raises(StylizationError, match="content is .* pixels, result"):
        checked(np.pad(photo, ((0, 0), (0, 8), (0, 0), (0, 0))), results)


def test_a_sequence_of_one_picture_is_refused(photo):
    with pytest.raises(StylizationError, match="sequence: it is on, and result is one picture"):
        measure.report(checked(photo, photo), sequence=True)
