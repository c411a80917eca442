"""How strong a stylization may be: limits on the content, and the strongest setting at which all of them hold.

A setting is a factor on the strength of every operator; 0 is off. Nothing here knows what runs at a setting: the
search asks a function for what the rulers say there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import StylizationError
from ..rulers.catalogue import CONTENT, STYLE, Ruler
from ..rulers.style import StyleTarget

EXAMPLE = "structure >= 0.8, shift < 0.5 px, mask color_change < 3"
FORM = f"Write limits as '{EXAMPLE}'"

_ALSO = {
    "structure": ("ssim", "similarity"),
    "edges": ("edge",),
    "low_band": ("layout",),
    "shift": ("displacement",),
    "color_change": ("delta e", "deltae", "color shift"),
}
"""More names that people write, in the form of :func:`_plain`."""

_LIMIT = re.compile(
    r"(?P<where>(?:(?:in|inside)\s+)?(?:the\s+)?(?:mask(?:ed)?\s+region|masked|mask|region)\b)?\s*"
    r"(?P<name>[^<>=]*?)\s*(?P<sign><=|>=|<|>)\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
    r"\s*(?P<unit>px|pixels?|delta e|deltae)?"
)
_SIGNS = {"≥": ">=", "≤": "<=", "=>": ">=", "=<": "<="}
_SHOWN = 40
_TURN, _TURN_OF_LIMIT = 0.05, 0.02
"""A curve turns where it comes back by more than these shares of its range and of its limit."""

_NEARER = 0.01
"""Progress to the style that is worth a remark."""


@dataclass(frozen=True)
class Limit:
    """What one ruler must say.

    Attributes:
        ruler: of content.
        bound: in its unit.
        strict: the bound itself does not hold.
        inside: only what the mask marks is measured.
    """

    ruler: Ruler
    bound: float
    strict: bool = False
    inside: bool = False

    def holds(self, value: float) -> bool:
        """Whether a measured value keeps it; NaN does not."""
        if value == self.bound:
            return not self.strict
        return bool(value > self.bound if self.ruler.higher else value < self.bound)

    def worst(self, values: Iterable[float]) -> float:
        """Of several pictures; NaN is worse than anything."""
        values = np.asarray(list(values), dtype=np.float64)
        return float(values.min() if self.ruler.higher else values.max())

    @property
    def sign(self) -> str:
        """As it is written."""
        return (">" if self.ruler.higher else "<") + ("" if self.strict else "=")

    @property
    def name(self) -> str:
        """Ruler and place."""
        return f"mask {self.ruler.key}" if self.inside else self.ruler.key

    def __str__(self) -> str:
        return f"{self.name} {self.sign} {self.bound:g}" + (f" {self.ruler.unit}" if self.ruler.unit else "")


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Limits from a text such as :data:`EXAMPLE`; commas, semicolons and new lines separate them.

    Raises:
        StylizationError: none, or one that cannot be read: names it, the form, and the rulers there are.
    """
    parts = [part.strip() for part in re.split(r"[,;\n]", text) if part.strip()]
    if not parts:
        raise StylizationError("limits", "there is none", FORM)
    return tuple(_limit(part) for part in parts)


def _limit(part: str) -> Limit:
    shown = part if len(part) <= _SHOWN else f"{part[:_SHOWN]}…"
    match = _LIMIT.fullmatch(_plain(part))
    if match is None:
        remedy = f"{FORM}, with a point in decimal numbers; rulers are {_rulers()}"
        raise StylizationError("limits", f"'{shown}' is not a ruler, a sign and a number", remedy)
    ruler = _named(match["name"], shown)
    inside = match["where"] is not None or getattr(ruler, "needs_mask", False)
    limit = Limit(ruler, float(match["number"]), strict="=" not in match["sign"], inside=inside)
    _check(limit, shown, wanted=match["sign"][0])
    return limit


def _plain(text: str) -> str:
    """Lower case, one spelling of signs, of colour and of Delta, single spaces in the place of _ and -."""
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    text = re.sub(r"[Δδ∆]\s*", "delta ", text).lower().replace("colour", "color").replace("_", " ")
    return " ".join(re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text).split())


def _named(name: str, part: str) -> Ruler:
    for ruler in CONTENT.values():
        known = {_plain(ruler.key), _plain(ruler.label), *_ALSO.get(ruler.key, ())}
        if name in known:
            return ruler
    if name in STYLE:
        found = f"'{part}' is about style, and limits are on content"
    else:
        found = f"'{part}' names no ruler" if name else f"'{part}' lacks the name of a ruler"
    raise StylizationError("limits", found, f"Rulers are {_rulers()}. {FORM}")


def _rulers() -> str:
    return ", ".join(CONTENT)


def _check(limit: Limit, part: str, wanted: str) -> None:
    """Refuse a limit that nothing, or every picture, would keep."""
    ruler, useful = limit.ruler, ">" if limit.ruler.higher else "<"
    if wanted != useful:
        meaning = "higher keeps more" if ruler.higher else "lower keeps more"
        better = f"'{limit.name} {useful}= {limit.bound:g}'"
        found = f"'{part}' would ask for less content: of {ruler.key}, {meaning}"
        raise StylizationError("limits", found, f"Write {better}")
    low, high = ruler.span
    best = high if ruler.higher else low
    if not low <= limit.bound <= high or (limit.strict and limit.bound == best):
        span = f"from {low:g} to {high:g}" if np.isfinite(high) else f"from {low:g} up"
        raise StylizationError("limits", f"'{part}' cannot be kept: {ruler.key} goes {span}", "Choose a bound inside")


@dataclass(frozen=True)
class Reading:
    """What was measured at one setting.

    Attributes:
        values: of the rulers of the limits, in their order, of the worst picture.
        style: mean progress to the style, where there are exemplars.
    """

    values: tuple[float, ...]
    style: float | None = None


def read(limits: Sequence[Limit], content, pictures, mask=None, target: StyleTarget | None = None) -> Reading:
    """Measure pictures against the content they were made from.

    Args:
        content: (B or 1, H, W, 3) in [0, 1].
        pictures: (B, H, W, 3) in [0, 1]; where one is broken (NaN), no limit holds.
        mask: (B or 1, H, W) in [0, 1], for the limits inside it.
        target: the style.
    """
    pixels = pictures.detach().cpu().numpy() if hasattr(pictures, "detach") else np.asarray(pictures)
    if not np.isfinite(pixels).all():
        return Reading((float("nan"),) * len(limits), None if target is None else float("nan"))
    values = [one.worst(one.ruler.measure(content, pictures, mask=mask if one.inside else None)) for one in limits]
    style = None if target is None else float(target.progress(content, pictures).combined.mean())
    return Reading(tuple(values), style)


@dataclass(frozen=True)
class Setting:
    """A setting that was tried."""

    factor: float
    reading: Reading
    holds: bool


@dataclass(frozen=True)
class Found:
    """What the search came to.

    Attributes:
        limits: all of them.
        tried: settings in the order of their factors; short runs where ``checked`` has whole ones.
        chosen: the strongest one that was tried and holds; None where there is none.
        broken: settings that hold do not end where the first one fails.
        turning: names of limits whose rulers come back at a stronger setting.
        checked: whole runs after short ones, in the order of their factors.
    """

    limits: tuple[Limit, ...]
    tried: tuple[Setting, ...]
    chosen: Setting | None
    broken: bool
    turning: tuple[str, ...]
    checked: tuple[Setting, ...] = ()

    @property
    def monotone(self) -> bool:
        """Whether stronger always was worse."""
        return not (self.broken or self.turning)

    @property
    def off_is_worse(self) -> bool:
        """Whether strength 0 breaks a limit that a stronger setting keeps."""
        return self.chosen is not None and not self.tried[0].holds

    @property
    def final(self) -> tuple[Setting, ...]:
        """The runs that decide."""
        return self.checked or self.tried

    @property
    def next(self) -> Setting | None:
        """The weakest setting tried that is stronger than the chosen one."""
        if self.chosen is None:
            return None
        # a short run says something about a whole one where no whole one was made
        known = {**{one.factor: one for one in self.tried}, **{one.factor: one for one in self.checked}}
        return next((known[factor] for factor in sorted(known) if factor > self.chosen.factor), None)

    @property
    def nearer(self) -> Setting | None:
        """The setting nearest to the style among those that hold, where that is not the chosen one."""
        if self.chosen is None or self.chosen.reading.style is None:
            return None
        best = max((one for one in self.final if one.holds), key=lambda one: one.reading.style)
        return best if best.reading.style > self.chosen.reading.style + _NEARER else None

    def broken_by(self, setting: Setting) -> list[tuple[Limit, float]]:
        """The limits that do not hold there, and what was measured."""
        pairs = zip(self.limits, setting.reading.values, strict=True)
        return [(limit, value) for limit, value in pairs if not limit.holds(value)]


class _Trials:
    """Settings tried, each once."""

    def __init__(self, evaluate: Callable[[float], Reading], limits: Sequence[Limit]):
        self.evaluate, self.limits = evaluate, limits
        self.kept: dict[float, Setting] = {}

    def __call__(self, factor: float) -> Setting:
        factor = float(factor)
        if factor not in self.kept:
            reading = self.evaluate(factor)
            holds = all(limit.holds(value) for limit, value in zip(self.limits, reading.values, strict=True))
            self.kept[factor] = Setting(factor, reading, holds)
        return self.kept[factor]

    @property
    def ordered(self) -> tuple[Setting, ...]:
        return tuple(self.kept[factor] for factor in sorted(self.kept))


def strongest(
    evaluate: Callable[[float], Reading],
    limits: Sequence[Limit],
    *,
    top: float = 1.0,
    grid: int = 5,
    bisections: int = 4,
    verify: Callable[[float], Reading] | None = None,
) -> Found:
    """The strongest setting in [0, ``top``] at which all limits hold, among those that were tried.

    A grid first. Where the settings that hold are not simply those below some factor (0, which is plain sampling, may
    fail by itself), the grid is made twice as fine.
    Then bisection between the strongest one that holds and the next: on a curve that crosses its limit once, the answer
    is below the crossing by at most ``top / (grid - 1) / 2**bisections``.

    Args:
        evaluate: what is measured at a factor; asked once for each.
        grid: settings to begin with, both ends among them; at least 2.
        verify: what a whole run measures, where ``evaluate`` makes short ones. Their answer is then checked, and
            bisected downwards by whole runs until one holds.
    """
    limits, trials = tuple(limits), _Trials(evaluate, limits)
    factors = np.linspace(0.0, top, grid)
    for factor in factors:
        trials(factor)
    if _broken(trials.ordered):
        for factor in (factors[1:] + factors[:-1]) / 2:
            trials(factor)
    chosen = _bisected(trials, bisections)
    broken, turning = _broken(trials.ordered), _turning(limits, trials.ordered)
    if verify is None:
        return Found(limits, trials.ordered, chosen, broken, turning)
    whole = _Trials(verify, limits)
    start = float(factors[1]) if chosen is None else chosen.factor
    chosen = _verified(whole, start, chosen is None, bisections)
    return Found(limits, trials.ordered, chosen, broken, turning, whole.ordered)


def _acting(settings: Sequence[Setting]) -> Sequence[Setting]:
    """All but strength 0 where only that fails: plain sampling, which can change more than the operators do."""
    return settings[1:] if not settings[0].holds and settings[1].holds else settings


def _broken(settings: Sequence[Setting]) -> bool:
    held = [one.holds for one in _acting(settings)]
    return held != sorted(held, reverse=True)


def _turning(limits: Sequence[Limit], settings: Sequence[Setting]) -> tuple[str, ...]:
    names = []
    for place, limit in enumerate(limits):
        harm = np.array([one.reading.values[place] for one in _acting(settings)]) * (-1 if limit.ruler.higher else 1)
        harm = harm[np.isfinite(harm)]
        if not len(harm):
            continue
        back = (np.maximum.accumulate(harm) - harm).max()
        if back > max(_TURN * np.ptp(harm), _TURN_OF_LIMIT * abs(limit.bound)) and limit.name not in names:
            names.append(limit.name)
    return tuple(names)


def _bisected(trials: _Trials, bisections: int) -> Setting | None:
    """The strongest that holds, once the interval above it has been halved so often."""
    settings = trials.ordered
    place = max((number for number, one in enumerate(settings) if one.holds), default=None)
    if place is None or place == len(settings) - 1:
        return None if place is None else settings[place]
    return _between(trials, settings[place], settings[place + 1].factor, bisections)


def _between(trials: _Trials, holding: Setting, failing: float, bisections: int) -> Setting:
    for _ in range(bisections):
        middle = trials((holding.factor + failing) / 2)
        if middle.holds:
            holding = middle
        else:
            failing = middle.factor
    return holding


def _verified(whole: _Trials, start: float, doubtful: bool, bisections: int) -> Setting | None:
    """The strongest whole run that holds, from ``start`` down; ``doubtful`` where no short run held at all."""
    if not doubtful and whole(start).holds:
        return whole(start)
    off = whole(0.0)
    return _between(whole, off, start, bisections) if off.holds else None
