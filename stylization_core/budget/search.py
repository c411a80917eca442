"""How strong a stylization may be: limits on the content, and the strongest setting at which all of them hold.

A setting is a factor on the strength of every operator; 0 is plain sampling. What runs at a setting is the caller's:
the search is given a function from a factor to what the rulers measure there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import StylizationError
from ..finite import check_finite_number
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
_RECOVERY_OF_RANGE, _RECOVERY_OF_BOUND = 0.05, 0.02
"""A ruler recovers where a stronger setting keeps more by over these shares of its range and of its bound."""

_NEARER = 0.01
"""How much more progress to the style is worth a remark in the report."""


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
        pictures: (B, H, W, 3) in [0, 1].
        mask: (B or 1, H, W) in [0, 1], for the limits inside it.
        target: the style.

    Raises:
        StylizationError: pictures that are not finite.
    """
    values = [
        limit.worst(limit.ruler.measure(content, pictures, mask=mask if limit.inside else None)) for limit in limits
    ]
    style = None if target is None else float(target.progress(content, pictures).combined.mean())
    return Reading(tuple(values), style)


@dataclass(frozen=True)
class Setting:
    """A setting that was tried."""

    factor: float
    reading: Reading
    holds: bool


@dataclass(frozen=True)
class Outcome:
    """What a search came to.

    Attributes:
        limits: all of them.
        tried: settings in the order of their factors; with short runs where ``checked`` has whole ones.
        chosen: the strongest setting that was tried and holds; None where none does.
        gap: some setting fails although a stronger one holds.
        recovering: names of limits whose rulers keep more again at a stronger setting.
        checked: the settings that were run in full after short runs, in the order of their factors.
    """

    limits: tuple[Limit, ...]
    tried: tuple[Setting, ...]
    chosen: Setting | None
    gap: bool
    recovering: tuple[str, ...]
    checked: tuple[Setting, ...] = ()

    @property
    def monotone(self) -> bool:
        """Whether a stronger setting never kept more than a weaker one."""
        return not (self.gap or self.recovering)

    @property
    def off_is_worse(self) -> bool:
        """Whether strength 0 breaks a limit that a stronger setting keeps."""
        return self.chosen is not None and not self.tried[0].holds

    @property
    def final(self) -> tuple[Setting, ...]:
        """The settings that decide: those run in full where there are any."""
        return self.checked or self.tried

    @property
    def next(self) -> Setting | None:
        """The weakest setting tried that is stronger than the chosen one."""
        if self.chosen is None:
            return None
        # Where a setting was run in full that counts; elsewhere its short run is all that is known of it.
        known = {setting.factor: setting for setting in (*self.tried, *self.checked)}
        return next((known[factor] for factor in sorted(known) if factor > self.chosen.factor), None)

    @property
    def nearer(self) -> Setting | None:
        """The setting nearest to the style among those that hold, where that is not the chosen one."""
        if self.chosen is None or self.chosen.reading.style is None:
            return None
        holding = (setting for setting in self.final if setting.holds)
        best = max(holding, key=lambda setting: setting.reading.style)
        return best if best.reading.style > self.chosen.reading.style + _NEARER else None

    def broken_by(self, setting: Setting) -> list[tuple[Limit, float]]:
        """The limits that do not hold there, and what was measured."""
        pairs = zip(self.limits, setting.reading.values, strict=True)
        return [(limit, value) for limit, value in pairs if not limit.holds(value)]


class _Trials:
    """Measures settings, each factor once."""

    def __init__(self, evaluate: Callable[[float], Reading], limits: Sequence[Limit]):
        self.evaluate, self.limits = evaluate, limits
        self.settings: dict[float, Setting] = {}

    def __call__(self, factor: float) -> Setting:
        factor = float(factor)
        if factor not in self.settings:
            reading = self.evaluate(factor)
            measured = list(zip(self.limits, reading.values, strict=True))
            for limit, value in measured:
                check_finite_number(value, f"{limit.name} at strength {factor:.4g}")
            holds = all(limit.holds(value) for limit, value in measured)
            self.settings[factor] = Setting(factor, reading, holds)
        return self.settings[factor]

    @property
    def ordered(self) -> tuple[Setting, ...]:
        return tuple(self.settings[factor] for factor in sorted(self.settings))


def strongest(
    evaluate: Callable[[float], Reading],
    limits: Sequence[Limit],
    *,
    top: float = 1.0,
    grid: int = 5,
    bisections: int = 4,
    verify: Callable[[float], Reading] | None = None,
) -> Outcome:
    """The strongest setting in [0, ``top``] at which all limits hold, among those that were tried.

    An even grid is measured first. If some setting on it fails although a stronger one holds, the grid is made twice as
    fine; strength 0 is left out of that question, since plain sampling may change more than the operators do.
    Then the interval between the strongest setting that holds and the next one is bisected. On a curve that crosses its
    limit once, the answer lies below the crossing by at most ``top / (grid - 1) / 2**bisections``.

    Args:
        evaluate: what is measured at a factor; asked once for each.
        grid: settings to begin with, both ends among them; at least 2.
        verify: what a run in full measures, where ``evaluate`` makes short ones. The answer of the short runs is then
            run in full, and bisected downwards by runs in full until one holds.

    Raises:
        StylizationError: a ruler that measures NaN or infinity.
    """
    limits, trials = tuple(limits), _Trials(evaluate, limits)
    factors = np.linspace(0.0, top, grid)
    for factor in factors:
        trials(factor)
    if _has_gap(trials.ordered):
        for factor in (factors[1:] + factors[:-1]) / 2:
            trials(factor)
    chosen = _bisected(trials, bisections)
    gap, recovering = _has_gap(trials.ordered), _recovering(limits, trials.ordered)
    if verify is None:
        return Outcome(limits, trials.ordered, chosen, gap, recovering)
    whole = _Trials(verify, limits)
    if chosen is None:  # no short run holds; a run in full may, near strength 0
        chosen = _below(whole, float(factors[1]), bisections)
    else:
        chosen = whole(chosen.factor) if whole(chosen.factor).holds else _below(whole, chosen.factor, bisections)
    return Outcome(limits, trials.ordered, chosen, gap, recovering, whole.ordered)


def _without_plain(settings: Sequence[Setting]) -> Sequence[Setting]:
    """All but strength 0 where that one alone fails."""
    return settings[1:] if not settings[0].holds and settings[1].holds else settings


def _has_gap(settings: Sequence[Setting]) -> bool:
    """Whether some setting fails although a stronger one holds."""
    holding = [setting.holds for setting in _without_plain(settings)]
    return holding != sorted(holding, reverse=True)


def _recovering(limits: Sequence[Limit], settings: Sequence[Setting]) -> tuple[str, ...]:
    """Names of limits whose rulers keep clearly more at some setting than at a weaker one."""
    names = []
    for place, limit in enumerate(limits):
        values = np.array([setting.reading.values[place] for setting in _without_plain(settings)])
        lost = -values if limit.ruler.higher else values
        recovery = (np.maximum.accumulate(lost) - lost).max()
        least = max(_RECOVERY_OF_RANGE * np.ptp(lost), _RECOVERY_OF_BOUND * abs(limit.bound))
        if recovery > least and limit.name not in names:
            names.append(limit.name)
    return tuple(names)


def _bisected(trials: _Trials, bisections: int) -> Setting | None:
    """The strongest setting that holds, after bisecting the interval above it; None where none holds."""
    settings = trials.ordered
    holding = [place for place, setting in enumerate(settings) if setting.holds]
    if not holding:
        return None
    strongest_held = holding[-1]
    if strongest_held == len(settings) - 1:
        return settings[-1]
    return _between(trials, settings[strongest_held], settings[strongest_held + 1].factor, bisections)


def _between(trials: _Trials, holding: Setting, failing: float, bisections: int) -> Setting:
    """The strongest that holds after so many bisections between a setting that holds and a factor that fails."""
    for _ in range(bisections):
        middle = trials((holding.factor + failing) / 2)
        if middle.holds:
            holding = middle
        else:
            failing = middle.factor
    return holding


def _below(trials: _Trials, failing: float, bisections: int) -> Setting | None:
    """The strongest that holds between strength 0 and a factor that fails; None where strength 0 fails too."""
    plain = trials(0.0)
    return _between(trials, plain, failing, bisections) if plain.holds else None
