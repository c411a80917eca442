"""Limits in words, and the search for the strongest setting on curves whose answer is known."""

from __future__ import annotations

import dataclasses
import importlib
import math

import numpy as np
import pytest


@pytest.fixture(scope="module")
def budget(core):
    return importlib.import_module("stylization.stylization_core.budget.search")


@pytest.fixture(scope="module")
def report(core):
    return importlib.import_module("stylization.stylization_core.budget.report").report


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("structure >= 0.8", [("structure", 0.8, False, False)]),
        ("structure ≥ 0.8, shift < 0.5 px, mask region ΔE < 3", "the issue's"),
        ("Structure Similarity => .8", [("structure", 0.8, False, False)]),
        ("low band ≤ 0.4; low-band distance < .5", [("low_band", 0.4, False, False), ("low_band", 0.5, True, False)]),
        (
            "colour change < 12 ΔE\ncolor_change<1e1",
            [("color_change", 12, True, False), ("color_change", 10, True, False)],
        ),
        ("inside the mask edges > 0.5", [("edges", 0.5, True, True)]),
        (
            "region delta E <= 2 Delta E,\n\n masked shift < 1pixel",
            [("color_change", 2, False, True), ("shift", 1, True, True)],
        ),
        ("structure > -.5,", [("structure", -0.5, True, False)]),
    ],
)
def test_limits_are_read(budget, text, expected):
    if expected == "the issue's":
        expected = [("structure", 0.8, False, False), ("shift", 0.5, True, False), ("color_change", 3, True, True)]
    found = budget.parse_limits(text)
    assert [(one.ruler.key, one.bound, one.strict, one.inside) for one in found] == expected


def test_every_ruler_can_be_named_by_its_key_and_by_its_label(budget):
    for key, ruler in budget.CONTENT.items():
        sign, bound = (">=", 0.5) if ruler.higher else ("<=", 0.5)
        for name in (key, ruler.label, ruler.label.upper()):
            (found,) = budget.parse_limits(f"{name} {sign} {bound}")
            assert found.ruler is ruler
            assert budget.parse_limits(str(found)) == (found,)  # reports can be pasted back


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["there is none", "structure >= 0.8"]),
        (" ,;\n", ["there is none"]),
        ("structure >= 0.8, shift", ["'shift'", "a ruler, a sign and a number", "low_band"]),
        ("structure >= 0,8", ["'8'", "point in decimal"]),
        ("structure = 0.8", ["'structure = 0.8'"]),
        ("structre >= 0.8", ["names no ruler", "structure, edges, low_band, shift, color_change"]),
        (">= 0.8", ["lacks the name"]),
        ("mask >= 0.8", ["lacks the name"]),
        ("texture < 1", ["about style"]),
        ("structure < 0.8", ["less content", "higher keeps more", "'structure >= 0.8'"]),
        ("mask shift >= 2", ["less content", "lower keeps more", "'mask shift <= 2'"]),
        ("structure >= 80", ["cannot be kept", "from -1 to 1"]),
        ("shift < 0", ["cannot be kept", "from 0 up"]),
        ("structure > 1", ["cannot be kept"]),
        ("structure >= nan", ["is not a ruler"]),
        ("x" * 500, ["is not a ruler"]),
    ],
)
def test_limits_that_cannot_be_read_are_refused(core, budget, text, words):
    with pytest.raises(ValueError) as caught:
        budget.parse_limits(text)
    message = str(caught.value)
    assert message.startswith("limits: ") and len(message) < 400 and "\n" not in message
    assert [word for word in words if word not in message] == []


def test_bounds_and_nan(budget):
    at_least, below = (budget.parse_limits(text)[0] for text in ("edges >= 0.5", "shift < 0.5"))
    assert at_least.holds(0.5) and at_least.holds(0.6) and not at_least.holds(0.499)
    assert below.holds(0.4) and not below.holds(0.5) and not below.holds(0.6)
    assert not at_least.holds(math.nan) and not below.holds(math.nan)
    assert at_least.worst([0.9, 0.3, 0.5]) == 0.3 and below.worst([0.9, 0.3, 0.5]) == 0.9
    assert math.isnan(at_least.worst([0.9, math.nan])) and math.isnan(below.worst([math.nan, 0.1]))


def test_a_ruler_that_needs_a_mask_is_measured_inside_it(budget, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Masked(budget.Ruler):
        needs_mask: bool = True

    own = Masked("legibility", "legibility", "", True, (0.0, 1.0), None)
    monkeypatch.setitem(budget.CONTENT, "legibility", own)
    (limit,) = budget.parse_limits("legibility >= 0.9")
    assert limit.inside and limit.ruler is own


# -- measuring ------------------------------------------------------------------------------------------------------


def test_the_worst_picture_of_a_batch_counts_and_the_mask_is_used(budget):
    photo = np.random.default_rng(3).uniform(size=(1, 48, 40, 3))
    pictures, mask = np.repeat(photo, 2, 0), np.zeros((1, 48, 40))
    mask[:, 8:24, 8:24] = 1
    pictures[1, 30:] = 1 - pictures[1, 30:]  # only the second, only outside the mask
    limits = budget.parse_limits("structure >= 0.8, color_change < 3, mask color_change < 3")
    values = budget.read(limits, photo, pictures, mask).values
    assert values[0] == limits[0].ruler.measure(photo, pictures)[1] < 0.8
    assert values[1] == limits[1].ruler.measure(photo, pictures)[1] > 3
    assert values[2] == 0
    pictures[0, 2, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        budget.read(limits, photo, pictures, mask)


def test_style_is_the_mean_progress(budget):
    rng = np.random.default_rng(3)
    photo, style = rng.uniform(0, 0.4, size=(1, 48, 40, 3)), rng.uniform(0.5, 1, size=(2, 48, 40, 3))
    target = budget.StyleTarget.of(style)
    pictures = np.concatenate([photo, style[:1]])
    expected = target.progress(photo, style[:1]).combined[0] / 2  # the photo itself has 0
    assert budget.read((), photo, pictures, None, target).style == pytest.approx(expected)


# -- search ---------------------------------------------------------------------------------------------------------


class Analytic:
    """Readings by closed form; counts what is asked."""

    def __init__(self, budget, *curves, style=None):
        self.budget, self.curves, self.style, self.asked = budget, curves, style, []

    def __call__(self, factor):
        self.asked.append(factor)
        values = tuple(curve(factor) for curve in self.curves)
        return self.budget.Reading(values, None if self.style is None else self.style(factor))


def searched(budget, text, *curves, **settings):
    evaluate = Analytic(budget, *curves)
    return budget.strongest(evaluate, budget.parse_limits(text), **settings), evaluate


@pytest.mark.parametrize("optimum", [0.013, 0.26, 0.5, 0.77, 0.999])
@pytest.mark.parametrize(("grid", "bisections", "top"), [(5, 4, 1.0), (2, 8, 1.0), (5, 4, 2.5), (9, 0, 1.0)])
def test_bisecting_finds_the_known_optimum(budget, optimum, grid, bisections, top):
    crossing = optimum * top
    found, evaluate = searched(
        budget,
        "structure >= 0.7",
        lambda f: 1 - 0.3 * (f / crossing) ** 1.7,
        grid=grid,
        bisections=bisections,
        top=top,
    )
    width = top / (grid - 1) / 2**bisections
    assert 0 <= crossing - found.chosen.factor <= width + 1e-12
    assert found.chosen.factor in evaluate.asked and found.chosen.holds
    assert found.monotone and len(evaluate.asked) == len(set(evaluate.asked)) == grid + bisections


def test_of_two_limits_the_one_that_binds_decides_and_is_named(budget, report):
    curves = lambda f: 1 - 0.5 * f, lambda f: 8 * f  # noqa: E731
    for text, crossing, binding in (
        ("structure >= 0.8, color_change < 7", 0.4, "structure"),
        ("structure >= 0.6, color_change < 3", 0.375, "color_change"),
    ):
        found, _ = searched(budget, text, *curves, bisections=8)
        assert 0 <= crossing - found.chosen.factor <= 2**-10 + 1e-12
        assert [limit.name for limit, _ in found.broken_by(found.next)] == [binding]
        assert f"breaks {binding}" in report(found)


def test_all_settings_hold(budget, report):
    found, evaluate = searched(budget, "structure >= 0.2", lambda f: 1 - f / 2, top=1.5)
    assert found.chosen.factor == 1.5 and found.next is None and len(evaluate.asked) == 5
    assert "strongest that was tried" in report(found)


def test_no_setting_holds(budget, report):
    found, evaluate = searched(budget, "structure >= 0.9, shift < 2", lambda f: 0.8 - f / 2, lambda f: f)
    assert found.chosen is None and found.monotone and len(evaluate.asked) == 5
    assert "No setting holds" in report(found) and "structure >= 0.9: 0.800" in report(found)
    assert "shift" not in report(found).split("\n")[1]


def test_a_setting_nearer_to_the_style_than_the_strongest_is_named(budget, report):
    limits = budget.parse_limits("structure >= 0.5")
    for peak, named in ((0.25, True), (1.0, False)):
        evaluate = Analytic(budget, lambda f: 1 - 0.4 * f, style=lambda f, peak=peak: 0.3 - (f - peak) ** 2)
        found = budget.strongest(evaluate, limits)
        assert found.chosen.factor == 1.0  # the strongest is what is given, all the same
        assert ("Nearest to the style within the limits is 0.25: 0.30 against -0.26." in report(found)) == named
    found = budget.strongest(Analytic(budget, lambda f: 1 - f, style=lambda f: 0.3 - (f - 0.75) ** 2), limits)
    assert found.nearer is None  # 0.75 is nearer and breaks the limit


def test_only_the_exact_bound_of_nothing_holds(budget):
    found, _ = searched(budget, "shift <= 0", lambda f: f)
    assert found.chosen.factor == 0


def test_settings_that_fail_in_between_are_told_and_the_grid_is_made_finer(budget, report):
    """Holds below 0.2 and from 0.6 to 0.7: a plain bisection would end near 0.2."""
    curve = lambda f: 1.0 if f < 0.2 or 0.6 < f < 0.7 else 0.0  # noqa: E731
    plain, _ = searched(budget, "structure >= 0.5", curve, grid=3)
    assert plain.chosen.factor < 0.2 and plain.monotone  # nothing of it lies on the grid
    found, evaluate = searched(budget, "structure >= 0.5", curve, grid=4)  # 2/3 is on it
    assert found.gap and found.recovering == ("structure",) and not found.monotone
    assert 0 <= 0.7 - found.chosen.factor <= 1 / 6 / 2**4
    assert sorted(evaluate.asked[:7]) == pytest.approx([place / 6 for place in range(7)])
    assert len(evaluate.asked) == 7 + 4
    assert "not monotone" in report(found) and "twice as fine" in report(found)


def test_a_curve_that_recovers_without_breaking_the_limit_is_told(budget, report):
    found, evaluate = searched(budget, "structure >= 0.5", lambda f: 1 - f + 0.3 * math.sin(4 * math.pi * f))
    assert not found.gap and found.recovering == ("structure",) and len(evaluate.asked) == 9
    assert "structure recovers" in report(found)
    small, _ = searched(budget, "structure >= 0.5", lambda f: 1 - f + 0.002 * math.sin(40 * f))
    assert small.monotone and "is monotone" in report(small)


def test_plain_sampling_that_breaks_a_limit_alone_is_no_break_of_the_curve(budget, report):
    found, evaluate = searched(budget, "structure >= 0.5", lambda f: 1 - f if f > 0 else 0.3)
    assert found.monotone and found.off_is_worse and len(evaluate.asked) == 9
    assert 0 <= 0.5 - found.chosen.factor <= 1 / 64
    assert "Strength 0, which is plain sampling, breaks structure >= 0.5 (0.300)" in report(found)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_an_error_and_no_finding(budget, broken):
    with pytest.raises(ValueError, match=r"structure at strength 0\.75: it is"):
        searched(budget, "structure >= 0.5", lambda f: broken if f > 0.6 else 1.0)
    with pytest.raises(ValueError, match=r"shift at strength 0\.5: it is"):
        searched(budget, "edges > 0.1, shift < 1", lambda f: 1.0, lambda f: broken if f == 0.5 else 0.0)


def verified(budget, short, whole, **settings):
    evaluate, verify = Analytic(budget, short), Analytic(budget, whole)
    found = budget.strongest(evaluate, budget.parse_limits("edges >= 0.7"), verify=verify, **settings)
    assert found.chosen is None or (found.chosen.factor in verify.asked and found.chosen.holds)
    return found, verify


def test_a_short_answer_that_holds_is_checked_by_one_whole_run(budget):
    found, verify = verified(budget, lambda f: 1 - f, lambda f: 1 - 0.9 * f)
    assert verify.asked == [found.chosen.factor] and 0 <= 0.3 - found.chosen.factor <= 1 / 64
    assert found.chosen.reading.values[0] == 1 - 0.9 * found.chosen.factor


def test_a_short_answer_that_fails_is_bisected_downwards_by_whole_runs(budget, report):
    found, verify = verified(budget, lambda f: 1 - f / 2, lambda f: 1 - f, bisections=6)
    assert 0 <= 0.3 - found.chosen.factor <= 0.6 / 64 + 1e-12
    assert len(verify.asked) == 8 and "Whole runs:" in report(found)


def test_whole_runs_decide_that_none_holds(budget, report):
    found, verify = verified(budget, lambda f: 1 - f / 2, lambda f: 0.6 - f)
    assert found.chosen is None and set(verify.asked) == {0.0, max(verify.asked)}
    assert "0.600" in report(found)


def test_where_no_short_run_holds_whole_ones_are_asked(budget):
    found, _ = verified(budget, lambda f: 0.6 - f, lambda f: 1 - 3 * f, bisections=6)
    assert 0 <= 0.1 - found.chosen.factor <= 0.25 / 64
    none, verify = verified(budget, lambda f: 0.6 - f, lambda f: 0.6 - f)
    assert none.chosen is None and verify.asked == [0.0]


def test_report_lists_every_setting(budget, report):
    evaluate = Analytic(budget, lambda f: 1 - f, style=lambda f: f / 2)
    found = budget.strongest(evaluate, budget.parse_limits("edges >= 0.7"))
    text = report(found, "9 runs.", ["A note."])
    rows = [line.split() for line in text.split("\n") if line.strip().endswith((" yes", " no"))]
    assert len(rows) == 9 and [float(row[0]) for row in rows] == pytest.approx(sorted(evaluate.asked), abs=1e-4)
    for factor, value, style, holds in rows:
        assert float(value) == pytest.approx(1 - float(factor), abs=1e-3)
        assert float(style) == pytest.approx(float(factor) / 2, abs=0.0051)
        assert (holds == "yes") == (1 - float(factor) >= 0.7)
    assert "9 runs." in text and "A note." in text
