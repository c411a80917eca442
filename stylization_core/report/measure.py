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
"""Pictures that a style ruler is given at once."""

_INPUTS = {
    "photo": "content",
    "exemplars": "style",
    "photo and result": "content and result",
    "token weights": "mask",
    "photo tokens": "content",
    "result tokens": "result",
    "exemplar tokens": "style",
    "photo and result tokens": "content and result",
    "result and exemplar tokens": "result and style",
}
"""Inputs of the report, by what the rulers call them."""

_PROGRESS = {"color": "style progress, colour", "texture": "style progress, texture", "combined": "style progress"}

Tick = Callable[[], None]
Distances = dict[str, tuple[np.ndarray, np.ndarray]]
"""By the key of a style ruler: of the results, and of the photo behind each."""


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
    scoring = _Scoring(given, tokens, tick)
    rows = (*scoring.content_rows(), *scoring.style_rows())
    flicker = scoring.flicker() if sequence else None
    height, width = given.result.shape[1:3]
    return Report(
        size=(width, height),
        results=len(given.result),
        contents=len(given.content),
        exemplars=0 if given.exemplars is None else len(given.exemplars),
        rows=rows,
        region=None if given.mask is None else float(given.mask.mean()),
        sets=scoring.sets(),
        flicker=flicker,
        notes=tuple(scoring.notes),
    )


def measurements(given: Material, sequence: bool = False, tokens: bool = False) -> int:
    """How often :func:`report` calls ``tick``, at most: for a progress bar."""
    cases, copies = given.cases(), 1 if given.copies is None else len(given.copies)
    region = int(given.mask is not None)

    def areas(rulers: dict[str, Ruler], features: dict[str, Ruler]) -> int:
        """On how many areas, the whole or the region, all of these rulers measure."""
        used = (*rulers.values(), *(features.values() if tokens else ()))
        return sum((not ruler.needs_mask) + region for ruler in used)

    content = areas(catalogue.CONTENT, catalogue.CONTENT_FEATURES)
    styles = areas(catalogue.STYLE, catalogue.STYLE_FEATURES) if given.exemplars is not None else 0
    sets = sum(pictures is not None and len(pictures) > 1 for pictures in _sets(given).values())
    anchors = 1 + min(PROBES, max(len(set(cases)), copies))
    chunks = -(-2 * len(cases) // _CHUNK)
    return content * (len(cases) + anchors) + styles * chunks + sequence + sets


def _sets(given: Material) -> dict[str, np.ndarray | None]:
    """Pictures whose likeness among themselves is measured, by what the report calls them."""
    return {"results": given.result, "contents": given.content, "exemplars": given.exemplars}


class _Scoring:
    """One report's measurements; ``notes`` collects what could not be measured.

    A *case* is the place of a content and of a mask, as a result has them: several results can share one.
    """

    def __init__(self, given: Material, tokens: Material | None, tick: Tick):
        self.given, self.tokens, self.tick = given, tokens, tick
        self.notes: list[str] = []

    def content_rows(self) -> Iterator[Row]:
        for ruler, material in self._with_material(catalogue.CONTENT, catalogue.CONTENT_FEATURES):
            yield from self._row(ruler, CONTENT, material, self.content_scores)

    def style_rows(self) -> Iterator[Row]:
        if self.given.exemplars is None:
            return
        if len(self.given.exemplars) < 2:
            self.notes.append("style has one picture: how far true pictures of the style are from it needs two or more")
        distances: dict[bool, Distances] = {True: {}, False: {}}

        def scores(ruler: Ruler, material: Material) -> Scores:
            of_results, of_photos = self.style_distances(ruler, material)
            if ruler.key in catalogue.STYLE:
                distances[material.mask is None][ruler.key] = of_results, of_photos
            return Scores(of_results, float(of_photos.mean()), self._copy_distance(ruler, material))

        for ruler, material in self._with_material(catalogue.STYLE, {}):
            yield from self._row(ruler, STYLE, material, scores)
        yield from self._progress(distances)
        for ruler, material in self._with_material({}, catalogue.STYLE_FEATURES):
            yield from self._row(ruler, STYLE, material, scores)

    def _with_material(self, rulers: dict[str, Ruler], features: dict[str, Ruler]) -> list[tuple[Ruler, Material]]:
        """Rulers with the pictures, and rulers of features with the tokens, where there are tokens."""
        of_pictures = [(ruler, self.given) for ruler in rulers.values()]
        of_tokens = [] if self.tokens is None else [(ruler, self.tokens) for ruler in features.values()]
        return of_pictures + of_tokens

    def _row(self, ruler: Ruler, group: str, material: Material, scores: Callable[..., Scores]) -> Iterator[Row]:
        """A ruler on the whole and inside the region; no row where neither can be measured."""
        whole = None if ruler.needs_mask else self._scores_or_note(ruler, material.whole(), scores)
        region = None if material.mask is None else self._scores_or_note(ruler, material, scores)
        if whole is not None or region is not None:
            yield Row(ruler.key, ruler.label, ruler.unit, ruler.higher, group, whole, region)

    def _scores_or_note(self, ruler: Ruler, material: Material, scores: Callable[..., Scores]) -> Scores | None:
        """Scores, or a note why there are none: what one ruler cannot measure costs the others nothing."""
        try:
            return scores(ruler, material)
        except StylizationError as error:
            where = "" if material.mask is None else " inside the region"
            error.subject = _INPUTS.get(error.subject, error.subject)
            self.notes.append(f"{ruler.label}{where} was left out: {error}")
            return None

    def content_scores(self, ruler: Ruler, material: Material) -> Scores:
        """Of each result, with two anchors: the photo itself as result, and a picture that keeps nothing of it.

        That picture is an exemplar of the style where there are any, else the photo turned upside down.
        """
        cases = material.cases()
        results = [(photo, material.result[number], area) for number, (photo, area) in enumerate(cases)]
        values = self._measured(ruler, material, results)
        probes = _spread(sorted(set(cases)), PROBES)
        identity = [_measured_pair(ruler, material, photo, material.content[photo], area) for photo, area in probes]
        self.tick()
        lost = float(self._measured(ruler, material, self._lost(material, probes)).mean())
        anchor = "unrelated" if material.copies is None else "style_copy"
        return Scores(values, float(np.mean(identity)), **{anchor: lost})

    @staticmethod
    def _lost(material: Material, probes: list[tuple[int, int]]) -> list[tuple[int, np.ndarray, int]]:
        """Pictures that keep nothing of the content, each with the place of a content and of a mask."""
        if material.copies is None:
            turned = material.turned()
            return [(photo, turned[photo], area) for photo, area in probes]
        copies = _spread(list(material.copies), PROBES)
        pairs = []
        for number in range(max(len(probes), len(copies))):
            photo, area = probes[number % len(probes)]
            pairs.append((photo, copies[number % len(copies)], area))
        return pairs

    def _measured(self, ruler: Ruler, material: Material, pairs: list[tuple[int, np.ndarray, int]]) -> np.ndarray:
        """Values of (place of a content, picture, place of a mask)."""
        values = []
        for photo, picture, area in pairs:
            values.append(_measured_pair(ruler, material, photo, picture, area))
            self.tick()
        return np.array(values)

    def style_distances(self, ruler: Ruler, material: Material) -> tuple[np.ndarray, np.ndarray]:
        """To the style, (B,) each: of the results, and of the photo behind each result."""
        cases = material.cases()
        distinct = sorted(set(cases))  # results that share a photo and a mask share its distance
        pictures = [material.result[number] for number in range(len(cases))]
        pictures += [material.content[photo] for photo, _ in distinct]
        areas = [area for _, area in (*cases, *distinct)]
        values = []
        for start in range(0, len(pictures), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            values.append(
                ruler.measure(np.stack(pictures[chunk]), material.exemplars, **material.marked(*areas[chunk]))
            )
            self.tick()
        of_results, of_distinct = np.split(np.concatenate(values), [len(cases)])
        return of_results, of_distinct[[distinct.index(case) for case in cases]]

    def _copy_distance(self, ruler: Ruler, material: Material) -> float | None:
        """Of each exemplar to the others, the mean; None for a single one."""
        exemplars = material.exemplars
        if len(exemplars) < 2:
            return None
        if ruler.key in catalogue.STYLE:
            return getattr(self._copies, ruler.key)
        others = (np.delete(exemplars, i, axis=0) for i in range(len(exemplars)))
        return float(np.mean([ruler.measure(exemplars[i : i + 1], rest)[0] for i, rest in enumerate(others)]))

    @cached_property
    def _copies(self) -> style.SetDistance:
        return style.style_copy_distance(self.given.exemplars)

    def _progress(self, distances: dict[bool, Distances]) -> Iterator[Row]:
        """Share of the way from photo to style, as :func:`style.style_progress` has it, from measured distances.

        Args:
            distances: on the whole picture (True) and inside the region (False), by the key of the ruler.
        """
        progress: dict[bool, style.StyleProgress] = {}
        copies: dict[bool, dict[str, float]] = {}
        for whole, by_ruler in distances.items():
            if len(by_ruler) < len(catalogue.STYLE):
                continue
            if any((of_photos <= 0).any() for _, of_photos in by_ruler.values()):
                self.notes.append("style progress was left out: content has no distance to style, so there is no way")
                continue
            shares = {key: 1 - of_results / of_photos for key, (of_results, of_photos) in by_ruler.items()}
            progress[whole] = style.StyleProgress(**shares)
            copies[whole] = self._copy_progress(self.given.whole() if whole else self.given)
        for name, label in _PROGRESS.items() if progress else ():
            key = "progress" if name == "combined" else f"progress_{name}"
            scores = {area: Scores(getattr(of, name), 0.0, copies[area].get(name)) for area, of in progress.items()}
            yield Row(key, label, "", True, STYLE, scores.get(True), scores.get(False))

    def _copy_progress(self, material: Material) -> dict[str, float]:
        """What true pictures of the style reach, over a few contents; empty for a single exemplar."""
        if len(material.exemplars) < 2:
            return {}
        reached = [
            style.style_copy_progress(material.content[photo : photo + 1], material.exemplars, **material.marked(area))
            for photo, area in _spread(sorted(set(material.cases())), PROBES)
        ]
        return {name: float(np.mean([getattr(progress, name) for progress in reached])) for name in _PROGRESS}

    def flicker(self) -> Scores:
        """Of the results as frames, with that of the source's own frames as anchor; one photo for all has none."""
        measure, content = catalogue.SEQUENCE["flicker"].measure, self.given.content
        if len(content) == 1:
            scores = Scores(measure(self.given.result), 0.0)
        else:
            scores = Scores(measure(self.given.result, content), mean_of(measure(content, content)))
        self.tick()
        return scores

    def sets(self) -> dict[str, style.SetDistance]:
        """How unlike the pictures of each set are, where it has two or more."""
        distances = {}
        for name, pictures in _sets(self.given).items():
            if pictures is not None and len(pictures) > 1:
                distances[name] = style.set_distance(np.stack(_spread(list(pictures), SET)))
                self.tick()
        return distances


def _measured_pair(ruler: Ruler, material: Material, photo: int, picture: np.ndarray, area: int) -> float:
    """One picture against the content at a place, inside the mask at a place."""
    return float(ruler.measure(material.content[photo][None], picture[None], **material.marked(area))[0])


def _spread(entries: list, most: int) -> list:
    """At most so many entries, evenly."""
    places = np.linspace(0, len(entries) - 1, min(most, len(entries))).round().astype(int)
    return [entries[i] for i in places]
