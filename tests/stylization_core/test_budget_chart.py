"""The picture of a search: what must be seen on it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest


@pytest.fixture(scope="module")
def drawn(core):
    chart = importlib.import_module("stylization.stylization_core.budget.chart")
    budget = importlib.import_module("stylization.stylization_core.budget.search")

    def draw(text, *curves, theme="light", style=None, verify=None):
        def reading(f):
            return budget.Reading(tuple(curve(f) for curve in curves), None if style is None else style(f))

        given = None if verify is None else lambda f: budget.Reading((verify(f),), None)
        return chart.drawn(budget.strongest(reading, budget.parse_limits(text), verify=given), theme)

    return draw


def falling(f):
    return 1 - 0.6 * f


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_picture_of_the_width_of_a_node_with_a_panel_for_each_curve(drawn, theme):
    one = drawn("structure >= 0.7", falling, theme=theme)
    two = drawn("structure >= 0.7, shift < 2", falling, lambda f: f, theme=theme)
    three = drawn("structure >= 0.7, shift < 2", falling, lambda f: f, theme=theme, style=lambda f: f)
    assert one.dtype == np.float32 and one.shape[::2] == (1, 760) and one.shape[3] == 3
    assert one.shape[1] == two.shape[1] < three.shape[1]
    assert 0 <= one.min() and one.max() <= 1
    assert (one[0, 2, 2].mean() > 0.9) == (theme == "light")


def marked(picture: np.ndarray) -> int:
    """Column of the line of the setting that was chosen: nearly black from end to end of a panel."""
    dark = (picture[0].max(-1) < 0.3).sum(0)
    return int(dark.argmax()) if dark.max() > 100 else -1


def test_the_chosen_setting_is_marked_where_it_is(drawn):
    columns = [marked(drawn(f"structure >= {1 - 0.6 * f:.4f}", falling)) for f in (0.25, 0.5, 0.75)]
    steps = np.diff(columns)
    assert min(columns) > 100 and steps.min() > 100 and abs(steps[0] - steps[1]) < 15


def test_none_and_whole_runs_can_be_drawn(drawn):
    assert marked(drawn("structure >= 0.9", lambda f: 0.5)) == -1
    assert marked(drawn("structure >= 0.7", falling, verify=lambda f: falling(f) - 0.1)) > 0
    assert drawn("shift <= 0", lambda f: 0.0).shape[2] == 760  # a flat curve on its limit


def test_where_a_limit_fails_is_shaded(drawn):
    picture = drawn("structure >= 0.7", falling)[0]
    column = picture[150:380, 500]
    tint = column[:, 0] - column[:, 1]
    above, below = tint[:20], tint[-60:-40]
    assert np.median(above) < 0.02 < 0.05 < np.median(below)


def test_no_line_leads_to_a_strength_zero_that_alone_fails(drawn):
    """Between the first two settings, whose markers stand at the sides, nothing has the colour of the curve."""
    whole = drawn("structure >= 0.5", lambda f: 1 - 0.4 * f)[0]
    apart = drawn("structure >= 0.5", lambda f: 1 - 0.4 * f if f > 0 else 0.2)[0]

    def blue(picture):
        between = picture[100:450, 140:200]  # strengths of about 0.1 to 0.2
        return int(((between[..., 2] - between[..., 0]) > 0.5).sum())

    assert blue(whole) > 100 > 0 == blue(apart)
