"""The curves that the evidence rests on, against sampling them densely."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def trade_off(benchmarks):
    return benchmarks.module("common.trade_off")


def dense(curve, count=20001):
    """Points along the line through a curve's points."""
    places = np.linspace(0, len(curve) - 1, count)
    return np.stack([np.interp(places, np.arange(len(curve)), axis) for axis in zip(*curve, strict=True)], 1)


@pytest.fixture(scope="module")
def curves():
    random = np.random.default_rng(4)
    return [[tuple(point) for point in random.uniform(0, 1, (size, 2))] for size in (1, 2, 3, 5, 8) for _ in range(6)]


def test_style_reached_within_a_budget_is_the_best_along_the_line(trade_off, curves):
    for curve in curves:
        points = dense(curve)
        for content in (0.05, 0.3, 0.6, 0.9):
            allowed = points[points[:, 0] >= content, 1]
            best = max(allowed.max(), 0.0) if len(allowed) else 0.0
            assert trade_off.style_within(curve, content) == pytest.approx(best, abs=2e-3)


def test_content_kept_at_a_style_is_the_best_along_the_line(trade_off, curves):
    for curve in curves:
        points = dense(curve)
        for style in (0.1, 0.5, 0.95):
            allowed = points[points[:, 1] >= style, 0]
            found = trade_off.content_at(curve, style)
            assert (found is None) == (len(allowed) == 0)
            assert found is None or found == pytest.approx(allowed.max(), abs=2e-3)


def test_a_straight_exchange_of_content_for_style_has_the_area_of_its_triangle(trade_off):
    # style 1 - content: over budgets c the most is 1 - c
    assert trade_off.area([(1.0, 0.0), (0.0, 1.0)]) == pytest.approx(np.mean(1 - trade_off.BUDGETS))


def test_style_further_away_than_the_photograph_counts_as_none(trade_off):
    assert trade_off.area([(1.0, 0.0), (0.5, -0.4)]) == 0
    assert trade_off.area([(0.2, 0.9)]) == 0  # nothing of it keeps the least budget
