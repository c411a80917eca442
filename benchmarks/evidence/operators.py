"""Every operator and every baseline on the same photographs in the same styles, as curves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

from ..common.case import THINGS, Case, photograph, words_of
from ..common.cells import Cells, Record
from ..common.evidence import Comparison, Evidence
from ..common.host import DRAWINGS, PHOTOGRAPHS, exemplars, host_of, scores
from ..common.nodes import through
from . import operators_page as page
from .operators_compared import COMPARED
from .operators_methods import METHODS
from .sms import FORMS

# isort: split
# found by their paths, once the host has put them in place
import torch
from PIL import Image
from stylization.stylization_core.rulers.catalogue import CONTENT
from stylization.stylization_core.rulers.style import StyleTarget

STYLES_EACH = 2
"""Styles that each photograph is given, of three."""

CASES = STYLES_EACH * len(THINGS)
REFERENCE_SEED = 7
POCKETS = {"photographs": PHOTOGRAPHS, "drawings": DRAWINGS}


@dataclass(frozen=True)
class Judged(Case):
    """A photograph and a style: a LoRA of it, one picture of it as reference, and its other pictures to judge by.

    Attributes:
        name: of the photograph.
        exemplar: the reference, at its own size.
        target: what the others measure, at the scale of the results.
    """

    name: str = ""
    exemplar: Image.Image | None = None
    target: StyleTarget | None = None


@lru_cache(maxsize=64)
def judges(style: str, without: int, scale: float) -> StyleTarget:
    """What the pictures of a style measure, without the one that is given as reference."""
    shown = [picture for number, picture in enumerate(exemplars(style)) if number != without]
    sized = [
        exemplar.resize((round(exemplar.width * scale), round(exemplar.height * scale)), Image.LANCZOS)
        for exemplar in shown
    ]
    return StyleTarget.of(scores.as_batch(*sized))


class Operators(Comparison):
    """Photographs in styles by families of methods at their settings, on one of the two models."""

    def __init__(self, model: str):
        self.model, self.pocket = model, POCKETS[model]
        self.columns = {name: rest for name, *rest in COMPARED[model].columns()}
        methods = {
            name: partial(self._picture, family.name, setting, controlled)
            for name, (family, setting, controlled) in self.columns.items()
        }
        super().__init__(f"operators/{model}", methods, CASES)

    def _picture(self, family: str, setting: float, controlled: bool, case: Case) -> Image.Image:
        return METHODS[self.model][family](case, setting, controlled)

    def case(self, number: int) -> Case:
        photo, turn = divmod(number, STYLES_EACH)
        name, styles = sorted(THINGS)[photo], PHOTOGRAPHS.styles
        style = styles[(photo + turn) % len(styles)]
        pictures = exemplars(style)
        chosen, size = (REFERENCE_SEED * number) % len(pictures), self.pocket.size
        words = words_of(name, things=self.model == "drawings")
        return Judged(
            *(host_of(self.pocket), number, words, photograph(name, size), style),
            shown=scores.ImageOps.fit(pictures[chosen], size, Image.LANCZOS),
            shown_words=words,
            cfg=self.pocket.cfg,
            name=name,
            exemplar=pictures[chosen],
            target=judges(style, chosen, size[1] / PHOTOGRAPHS.size[1]),
        )

    def run(self, case: Judged, method: str) -> tuple[list[Image.Image], Record]:
        """A cell that the evidence of SMS makes in the same way is taken from there where it is kept."""
        family, setting, controlled = self.columns[method]
        same = family.same.format(setting) if family.same and not controlled else None
        number = FORMS.number_of(case.name, case.style)
        record = FORMS.cells.record_of(number, same) if same else None
        if record is None:
            return super().run(case, method)
        return FORMS.cells.pictures_of(number, same), {"model rows": record["model rows"]}

    def measured(self, case: Judged, method: str, pictures: list[Image.Image]) -> Record:
        """Content against the photograph; style against the style's other pictures, from the photo through the VAE."""
        before, plain, after = (scores.as_batch(*some) for some in ([case.photo], [case.plain], pictures))
        content = {key: float(CONTENT[key].measure(before, after)[0]) for key in page.RULERS if key in CONTENT}
        progress = case.target.progress(plain, after)
        parts = {"color": progress.color, "texture": progress.texture, "style": progress.combined}
        return content | {key: float(value[0]) for key, value in parts.items()}

    def score(self) -> None:
        """The Style Matching Score of what is kept, for the columns that the page shows it of."""
        shown = Cells(self.cells.folder, COMPARED[self.model].scored, CASES)
        missing = {key for key, row in shown.records().items() if "score" not in row}
        shown.measure(self._scored, missing)

    def _scored(self, number: int, method: str, pictures: list[Image.Image]) -> Record:
        case, pixels = self.case_of(number), torch.from_numpy(scores.as_batch(*pictures)).float()
        given = {"positive": case.conditionings(styled=True)[0], "negative": case.host.text(""), "cfg": 1.0}
        return {
            "score": float(through("StylizeStyleScore", case.with_style, images=pixels, vae=case.host.vae, **given))
        }


class Operating(Evidence):
    """With the Style Matching Score of some of its cells."""

    def more(self) -> None:
        for comparison in self.comparisons.values():
            comparison.score()


EVIDENCE = Operating(page, {model: Operators(model) for model in COMPARED})
