"""Reports: charts, and pictures of what was changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stylization.stylization_core import charts
from stylization.stylization_core.report import charts as report_charts
from stylization.stylization_core.report import pictures as report_pictures
from stylization.stylization_core.report.material import checked
from stylization.stylization_core.report.scores import CONTENT, Report, Row, Scores

# -- charts ---------------------------------------------------------------------------------------------------------

SIZE = 64, 80


def ink(picture: np.ndarray) -> np.ndarray:
    """bool (H, W): what differs from the paper in the upper left corner."""
    return np.abs(picture[0] - picture[0, 0, 0]).max(axis=-1) > 0.02


@pytest.mark.parametrize("theme", charts.THEMES)
@pytest.mark.parametrize("kind", report_charts.KINDS)
def test_charts_have_their_size_and_nothing_is_cut_off(regional, plain, kind, theme):
    for report in (regional, plain):
        picture = report_charts.drawn(report, kind, theme)
        assert picture.dtype == np.float32 and picture.shape[3] == 3 and picture.shape[2] == report_charts.WIDTH
        assert report_charts.HEIGHT <= picture.shape[1] <= 800
        marked = ink(picture)
        margin = np.concatenate(
            [marked[:8].ravel(), marked[-8:].ravel(), marked[:, :16].ravel(), marked[:, -16:].ravel()]
        )
        assert not margin.any() and 0.02 < marked.mean() < 0.5
        assert (picture[0, 0, 0].mean() > 0.5) == (theme == charts.LIGHT)


@pytest.mark.parametrize("kind", report_charts.KINDS)
def test_charts_show_the_values(plain, kind):
    before = report_charts.drawn(plain, kind, charts.LIGHT)
    assert np.array_equal(before, report_charts.drawn(plain, kind, charts.LIGHT))
    first = plain.rows[0]
    other = replace(first, whole=replace(first.whole, values=first.whole.values - 0.3))
    assert not np.array_equal(before, report_charts.drawn(replace(plain, rows=(other, *plain.rows[1:])), kind, "light"))


def blue(picture: np.ndarray) -> int:
    wanted = np.array([int(report_charts.RESULT[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(picture[0] - wanted).max(axis=-1) < 0.02).sum())


def test_bars_are_as_long_as_the_value_is_far():
    """One ruler, its value at shares of the way: the bar's area grows in proportion."""
    areas = []
    for value in (0.0, 0.25, 0.5, 1.0):
        one = Row("structure", "x", "", True, CONTENT, Scores(np.array([value]), identity=1.0, unrelated=0.0))
        areas.append(blue(report_charts.bars(Report((8, 8), 1, 1, 0, (one,)), charts.LIGHT)))
    grown = np.diff(areas) / (areas[3] - areas[0])
    assert grown == pytest.approx([0.25, 0.25, 0.5], abs=0.02)


@pytest.mark.parametrize("kind", report_charts.KINDS)
def test_charts_of_everything_at_once_are_still_whole(regional, kind):
    """As many rulers as there can be, with long numbers beyond both anchors."""
    wild = [
        replace(one, key=f"{one.key}{i}", whole=Scores(np.array([-250.25, 480.5]), 100.0, 0.0 if one.higher else 300.0))
        for i in range(2)
        for one in regional.rows
    ]
    marked = ink(report_charts.drawn(replace(regional, rows=tuple(wild[:14])), kind, charts.DARK))
    assert not (marked[:8].any() or marked[-8:].any() or marked[:, :8].any() or marked[:, -8:].any())


# -- pictures -------------------------------------------------------------------------------------------------------


def test_overlay_is_bright_where_a_patch_was_changed_and_dim_elsewhere(photo):
    changed = photo.copy()
    changed[:, 20:40, 30:56] = 1 - changed[:, 20:40, 30:56]
    heat = report_pictures.change_map(photo[0], changed[0])
    assert heat.shape == SIZE and heat[24:36, 34:52].mean() > 0.8 and heat[52:].max() < 1e-6
    shown = report_pictures.overlay(checked(photo, changed), charts.DARK)[0]
    factor = shown.shape[1] // SIZE[1]
    inside = shown[24 * factor : 36 * factor, 34 * factor : 52 * factor]
    outside = shown[52 * factor : 64 * factor]
    assert inside.mean() > 0.5 and inside.mean() > 1.4 * outside.mean()
    assert np.ptp(outside, axis=-1).max() < 1e-3  # grey: no heat at all
    assert outside.max() <= report_pictures.DIMMED + 1e-6


def test_overlay_of_nothing_changed_is_the_dim_picture(photo):
    shown = report_pictures.overlay(checked(photo, photo), charts.LIGHT)[0]
    factor = shown.shape[1] // SIZE[1]
    assert factor * SIZE[0] < shown.shape[0] <= factor * SIZE[0] + 64  # and a scale below
    grey = report_pictures.DIMMED * photo[0] @ np.array([0.2126, 0.7152, 0.0722])
    assert shown[: factor * SIZE[0] : factor, ::factor, 0] == pytest.approx(grey, abs=1e-3)
    scale = shown[factor * SIZE[0] :]
    assert np.ptp(scale, axis=-1).max() > 0.5  # colours of the heat
    assert scale[0].min() > 0.9  # paper


def test_overlay_outlines_the_region(photo, results, mask):
    given = checked(photo, results, mask=mask)
    with_region, without = (report_pictures.overlay(one, charts.DARK) for one in (given, given.whole()))
    factor = with_region.shape[2] // SIZE[1]
    white = (with_region[0] == 1).all(axis=-1) & ~(without[0] == 1).all(axis=-1)
    rows, columns = np.nonzero(white)
    bounds = [rows.min(), rows.max(), columns.min(), columns.max()]
    assert bounds == pytest.approx([8 * factor, 48 * factor, 16 * factor, 60 * factor], abs=2)


def test_before_after_shows_both_under_their_names(photo, results):
    shown = report_pictures.before_after(checked(photo, results), charts.DARK)
    factor = (shown.shape[2] - 6) // (2 * SIZE[1])
    height, width = SIZE[0] * factor, SIZE[1] * factor
    assert len(shown) == 2 and width >= 256
    for number in range(2):
        below = shown[number, -height:]
        assert np.array_equal(below[::factor, :width:factor], photo[0])
        assert np.array_equal(below[::factor, -width::factor], results[number])
        head = shown[number, :-height]
        assert (head[:, :width] > 0.7).any() and (head[:, -width:] > 0.7).any()
