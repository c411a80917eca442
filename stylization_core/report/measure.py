"""Measuring for a report: every ruler on every result, in the region too, and the anchors beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from ..errors import StylizationError
from ..rulers import catalogue, style
from ..rulers.catalogue import Ruler
from .material import Material
from .scores import CONTENT, STYLE, Report, Row, Scores, mean_of

PROBES = 4
"""Anchors of content rulers are means over at most so many pictures, spread evenly."""
SET = 24
"""A set's consistency is measured on at most so many of its pictures, spread evenly."""
_CHUNK = 8
_PROGRESS = {"color": "style progress, colour", "texture": "style progress, texture", "combined": "style progress"}

Tick = Callable[[], None]


def report(
    given: Material, *, sequence: bool = False, tokens: Material | None = None, tick: Tick = lambda: None
) -> Report:
    """Measure results against their photos, with every ruler there is material for.

    Args:
        given: the pictures; see :func:`.material.checked`.
        sequence: results are frames of a sequence, and contents those of its source.
        tokens: patch tokens of the same pictures, from a network that looks at pictures.
        tick: called after each measurement; see :func:`measurements`.

    Raises:
        StylizationError: a sequence of one picture.
    """
    if sequence and len(given.result) < 2:
        raise StylizationError(
            "sequence", "it is on, and result is one picture", "Connect all frames as one batch, or switch it off"
        )
    run = _Scoring(given, tokens, tick)
    rows = (*run.content_rows(), *run.style_rows())
    calm = run.flicker() if sequence else None
    height, width = given.result.shape[1:3]
    return Report(
        size=(width, height),
        results=len(given.result),
        contents=len(given.content),
        exemplars=0 if given.exemplars is None else len(given.exemplars),
        rows=rows,
        region=None if given.mask is None else float(given.mask.mean()),
        sets=run.sets(),
        flicker=calm,
        notes=tuple(run.notes),
    )


def measurements(given: Material, sequence: bool = False, tokens: bool = False) -> int:
    """How often :func:`report` calls ``tick``, at most: for a progress bar."""
    cases, copies = given.cases(), 1 if given.copies is None else len(given.copies)
    regions = int(given.mask is not None)

    def asked(rulers: dict[str, Ruler], features: dict[str, Ruler]) -> int:
        both = (*rulers.values(), *(features.values() if tokens else ()))
        return sum((not ruler.needs_mask) + regions for ruler in both)

    content = asked(catalogue.CONTENT, catalogue.CONTENT_FEATURES)
    styles = asked(catalogue.STYLE, catalogue.STYLE_FEATURES) * (given.exemplars is not None)
    sets = sum(one is not None and len(one) > 1 for one in (given.result, given.content, given.exemplars))
    pairs = min(PROBES, max(len(set(cases)), copies))
    return content * (len(cases) + 1 + pairs) + styles * -(-2 * len(cases) // _CHUNK) + sequence + sets


class _Scoring:
    """One report's measurements; ``notes`` collects what could not be measured."""

    def __init__(self, given: Material, tokens: Material | None, tick: Tick):
        self.given, self.tokens, self.tick = given, tokens, tick
        self.notes: list[str] = []

    def content_rows(self) -> Iterator[Row]:
        for ruler, part in self._jobs(catalogue.CONTENT, catalogue.CONTENT_FEATURES):
            yield from self._row(ruler, CONTENT, part, self.content_scores)

    def style_rows(self) -> Iterator[Row]:
        if self.given.exemplars is None:
            return
        if len(self.given.exemplars) < 2:
            self.notes.append("style has one picture: how far true pictures of the style are from it needs two or more")
        distances: dict[bool, dict[str, tuple]] = {True: {}, False: {}}

        def scores(ruler: Ruler, part: Material) -> Scores:
            values, photos = self.style_distances(ruler, part)
            if ruler.key in catalogue.STYLE:
                distances[part.mask is None][ruler.key] = values, photos
            return Scores(values, float(photos.mean()), self._copy_distance(ruler, part))

        for ruler, part in self._jobs(catalogue.STYLE, {}):
            yield from self._row(ruler, STYLE, part, scores)
        yield from self._progress(distances)
        for ruler, part in self._jobs({}, catalogue.STYLE_FEATURES):
            yield from self._row(ruler, STYLE, part, scores)

    def _jobs(self, rulers: dict[str, Ruler], features: dict[str, Ruler]) -> list[tuple[Ruler, Material]]:
        of_tokens = [] if self.tokens is None else [(ruler, self.tokens) for ruler in features.values()]
        return [(ruler, self.given) for ruler in rulers.values()] + of_tokens

    def _row(self, ruler: Ruler, group: str, given: Material, scored: Callable[..., Scores]) -> Iterator[Row]:
        """A ruler on the whole and inside the region; none where it asks for a region and there is none."""
        whole = None if ruler.needs_mask else self._tried(ruler, given.whole(), scored)
        region = None if given.mask is None else self._tried(ruler, given, scored)
        if whole is not None or region is not None:
            yield Row(ruler.key, ruler.label, ruler.unit, ruler.higher, group, whole, region)

    def _tried(self, ruler: Ruler, part: Material, scored: Callable[..., Scores]) -> Scores | None:
        """Scores, or a note why there are none: what one ruler cannot measure costs the others nothing."""
        try:
            return scored(ruler, part)
        except StylizationError as error:
            where = "" if part.mask is None else " inside the region"
            self.notes.append(f"{ruler.label}{where} was left out: {error}")
            return None

    def content_scores(self, ruler: Ruler, part: Material) -> Scores:
        """On each result, beside the photo itself and what keeps nothing of it as results."""
        cases, styled = part.cases(), part.copies is not None
        pairs = [(photo, part.result[number], area) for number, (photo, area) in enumerate(cases)]
        values = self._measured(ruler, part, pairs)
        probes = _spread(sorted(set(cases)), PROBES)
        identity = [_one(ruler, part, photo, part.content[photo], area) for photo, area in probes]
        self.tick()
        if styled:
            copies, count = _spread(list(part.copies), PROBES), max(len(probes), min(len(part.copies), PROBES))
            lost = [(*probes[i % len(probes)], copies[i % len(copies)]) for i in range(count)]
        else:
            turned = part.turned()
            lost = [(photo, area, turned[photo]) for photo, area in probes]
        far = self._measured(ruler, part, [(photo, other, area) for photo, area, other in lost]).mean()
        return Scores(values, float(np.mean(identity)), **{"style_copy" if styled else "unrelated": float(far)})

    def _measured(self, ruler: Ruler, part: Material, pairs: list[tuple[int, np.ndarray, int]]) -> np.ndarray:
        """Each content, by its place, against a picture, inside a mask, by its place."""
        values = []
        for pair in pairs:
            values.append(_one(ruler, part, *pair))
            self.tick()
        return np.array(values)

    def style_distances(self, ruler: Ruler, part: Material) -> tuple[np.ndarray, np.ndarray]:
        """Of the results and of the photo behind each, (B,) both."""
        cases = part.cases()
        distinct = sorted(set(cases))
        jobs = [(part.result[number], area) for number, (_, area) in enumerate(cases)]
        jobs += [(part.content[photo], area) for photo, area in distinct]
        found = []
        for start in range(0, len(jobs), _CHUNK):
            some = jobs[start : start + _CHUNK]
            marked = part.marked(*(area for _, area in some))
            found.append(ruler.measure(np.stack([one for one, _ in some]), part.exemplars, **marked))
            self.tick()
        values, photos = np.split(np.concatenate(found), [len(cases)])
        return values, photos[[distinct.index(case) for case in cases]]

    def _copy_distance(self, ruler: Ruler, part: Material) -> float | None:
        """Of each exemplar to the others, the mean; None for a single one."""
        exemplars = part.exemplars
        if len(exemplars) < 2:
            return None
        if ruler.key in catalogue.STYLE:
            return getattr(self._copies, ruler.key)
        others = (np.delete(exemplars, i, axis=0) for i in range(len(exemplars)))
        return float(np.mean([ruler.measure(exemplars[i : i + 1], rest)[0] for i, rest in enumerate(others)]))

    @cached_property
    def _copies(self) -> style.SetDistance:
        return style.style_copy_distance(self.given.exemplars)

    def _progress(self, distances: dict[bool, dict[str, tuple]]) -> Iterator[Row]:
        """Share of the way from photo to style, from the two distances; as :func:`style.style_progress` has it."""
        found = {}
        for whole, measured in distances.items():
            if len(measured) < len(catalogue.STYLE):
                continue
            if any((photos <= 0).any() for _, photos in measured.values()):
                self.notes.append("style progress was left out: content has no distance to style, so there is no way")
                continue
            shares = style.StyleProgress(**{key: 1 - values / photos for key, (values, photos) in measured.items()})
            found[whole] = shares, self._copy_progress(self.given.whole() if whole else self.given)
        for name, label in _PROGRESS.items():
            key = "progress" if name == "combined" else f"progress_{name}"
            scores = {whole: Scores(getattr(one, name), 0.0, copy.get(name)) for whole, (one, copy) in found.items()}
            if scores:
                yield Row(key, label, "", True, STYLE, scores.get(True), scores.get(False))

    def _copy_progress(self, part: Material) -> dict[str, float]:
        if len(part.exemplars) < 2:
            return {}
        reached = [
            style.style_copy_progress(part.content[photo : photo + 1], part.exemplars, **part.marked(area))
            for photo, area in _spread(sorted(set(part.cases())), PROBES)
        ]
        return {name: float(np.mean([getattr(one, name) for one in reached])) for name in _PROGRESS}

    def flicker(self) -> Scores:
        """Between results, beside that of the source's own frames; one photo for all stands still."""
        measure, content = catalogue.SEQUENCE["flicker"].measure, self.given.content
        if len(content) == 1:
            found = Scores(measure(self.given.result), 0.0)
        else:
            found = Scores(measure(self.given.result, content), mean_of(measure(content, content)))
        self.tick()
        return found

    def sets(self) -> dict[str, style.SetDistance]:
        """How unlike the pictures of each set are, where there are two or more."""
        sets = {"results": self.given.result, "contents": self.given.content, "exemplars": self.given.exemplars}
        several = {name: one for name, one in sets.items() if one is not None and len(one) > 1}
        found = {}
        for name, one in several.items():
            found[name] = style.set_distance(np.stack(_spread(list(one), SET)))
            self.tick()
        return found


def _one(ruler: Ruler, part: Material, photo: int, other: np.ndarray, area: int) -> float:
    return float(ruler.measure(part.content[photo][None], other[None], **part.marked(area))[0])


def _spread(found: list, most: int) -> list:
    """At most so many entries, evenly."""
    places = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return [found[i] for i in places]
