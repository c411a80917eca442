"""The search of the content budget over runs of a guider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import Tensor

from ....budget.search import Outcome, Reading, strongest
from .budget import Runs, thinned
from .content import ContentRulers


@dataclass(frozen=True)
class Search:
    """How the strongest setting is looked for.

    Attributes:
        strongest: the strongest factor tried.
        grid: settings run first, from 0 to the strongest.
        bisections: runs that then close in on the limit.
        proxy_steps: steps of the runs that search; 0 runs all of them.
    """

    strongest: float = 1.0
    grid: int = 5
    bisections: int = 4
    proxy_steps: int = 0


@dataclass(frozen=True, eq=False)
class Budgeted:
    """What a search came to.

    Attributes:
        outcome: every setting tried, and the strongest that holds.
        strength: its factor; 0 where none holds.
        samples: (B, C, h, w) at that strength.
        pictures: (B, H, W, 3) of them.
        cost: what the runs took, as a sentence.
    """

    outcome: Outcome
    strength: float
    samples: Tensor
    pictures: Tensor
    cost: str


def within_budget(runs: Runs, rulers: ContentRulers, sigmas: Tensor, search: Search) -> Budgeted:
    """The strongest setting that keeps the limits in whole runs, and the run at that setting."""
    short = thinned(sigmas, search.proxy_steps)
    runs.expect(_steps(sigmas, short, search))

    def measured(levels: Tensor) -> Callable[[float], Reading]:
        off = cache(lambda: runs(0.0, levels)[1])  # decoded once, and only where it is asked for
        return lambda factor: rulers(runs(factor, levels)[1], off)

    whole = measured(sigmas) if len(short) != len(sigmas) else None
    given = {"top": search.strongest, "grid": search.grid, "bisections": search.bisections}
    outcome = strongest(measured(short), rulers.limits, **given, verify=whole)
    strength = 0.0 if outcome.chosen is None else outcome.chosen.factor
    return Budgeted(outcome, strength, *runs(strength, sigmas), _cost(runs, outcome, sigmas, short))


def _steps(sigmas: Tensor, short: Tensor, search: Search) -> int:
    """Of all runs together, as many as may come."""
    whole = (len(sigmas) - 1) if len(short) != len(sigmas) else 0
    return (search.grid + search.bisections) * (len(short) - 1) + whole


def _cost(runs: Runs, outcome: Outcome, sigmas: Tensor, short: Tensor) -> str:
    made = f"{len(outcome.tried)} runs of {len(short) - 1} steps"
    if outcome.checked:
        made += f" and {len(outcome.checked)} of {len(sigmas) - 1}"
    return f"{made}: {runs.calls} model calls, {runs.seconds:.1f} s of sampling."
