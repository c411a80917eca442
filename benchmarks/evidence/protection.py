"""Protected regions: a label in a photograph while the picture takes a style."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..common.case import Case, photograph, words_of
from ..common.cells import Record
from ..common.evidence import Comparison, Evidence, Method
from ..common.host import PHOTOGRAPHS, exemplars, host_of, photos, scores
from ..common.nodes import through
from . import protection_page as page

# isort: split
# found by their paths, once the host has put them in place
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage.color import rgb2lab
from stylization.stylization_core.rulers import content
from stylization.stylization_core.rulers.seam import seam
from stylization.stylization_core.rulers.style import StyleTarget
from torch.nn.functional import max_pool2d


@dataclass(frozen=True)
class Label:
    """A sign that is drawn into a photograph; places and sizes in pixels, off the latent's cells of eight."""

    text: str
    size: int
    center: tuple[int, int]
    ink: str
    ground: str
    rim: int = 0
    margin: int = 12

    @cached_property
    def font(self):
        return ImageFont.load_default(self.size)

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, the last two exclusive."""
        left, top, right, bottom = self.font.getbbox(self.text, anchor="mm")
        reach = [int(max(-left, right)) + self.margin, int(max(-top, bottom)) + self.margin]
        x, y = self.center
        return x - reach[0], y - reach[1], x + reach[0], y + reach[1]

    def on(self, photo: Image.Image) -> Image.Image:
        """The photograph with this sign."""
        picture, (left, top, right, bottom) = photo.copy(), self.box
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left, top, right - 1, bottom - 1), fill=self.ground, outline=self.ink, width=self.rim)
        draw.text(self.center, self.text, fill=self.ink, font=self.font, anchor="mm")
        return picture


LABELS = (
    Label("BERLIN", 34, (121, 195), "#1e286e", "#f0e8d2", rim=4),
    Label("Exit 24", 26, (275, 211), "#ffffff", "#1b6b3a", rim=3),
    Label("Tickets", 30, (205, 118), "#8c1616", "#f5f5ee"),
    Label("OPEN", 42, (93, 77), "#f7d74a", "#2b2b33"),
    Label("Palace Cafe", 22, (262, 62), "#332014", "#d9b48a", rim=2),
    Label("No. 7", 38, (187, 203), "#f4f0ff", "#5a2a82", rim=3),
)


@dataclass(frozen=True)
class Labelled(Case):
    """A photograph with a sign, in one style.

    Attributes:
        label: the sign.
    """

    label: Label | None = None

    @cached_property
    def mask(self) -> torch.Tensor:
        left, top, right, bottom = self.label.box
        mask = torch.zeros(1, self.photo.height, self.photo.width)
        mask[:, top:bottom, left:right] = 1
        return mask

    @cached_property
    def wider(self) -> torch.Tensor:
        """The mask drawn larger than the sign."""
        return max_pool2d(self.mask, 2 * page.WIDER + 1, 1, page.WIDER)

    @cached_property
    def far(self) -> torch.Tensor:
        """What lies far from the sign."""
        return 1 - max_pool2d(self.mask, 2 * page.FAR + 1, 1, page.FAR)

    def made(self, method: str) -> Image.Image:
        """The picture of a sampled method, as it is kept or new."""
        if SIGNS.cells.path_of(self.number, method).is_file():
            return SIGNS.cells.pictures_of(self.number, method)[0]
        return SAMPLED[method](self)


def protected(case: Labelled, model, band: float | None, wider: bool = False):
    """A MODEL that holds the sign, or the one given where there is no band."""
    if band is None:
        return model
    return through("StylizeProtectRegion", model, case.wider if wider else case.mask, band=band)


def image_to_image(band: float | None = None, wider: bool = False) -> Method:
    """The stock way with the LoRA in the weights."""

    def run(case: Labelled) -> Image.Image:
        model = protected(case, case.host.with_lora(case.style), band, wider)
        return case.sampled(model, styled=True, **page.SAMPLING)

    return run


def guided(band: float | None = None) -> Method:
    """SMS Guidance."""

    def run(case: Labelled) -> Image.Image:
        model = through("StylizeSMSGuidance", case.with_style, page.GUIDANCE)
        return case.sampled(protected(case, model, band), styled=True, **page.GUIDED)

    return run


def noise_masked(wider: bool = False) -> Method:
    """The stock Set Latent Noise Mask: all but the sign is sampled."""

    def run(case: Labelled) -> Image.Image:
        held = case.wider if wider else case.mask
        with torch.inference_mode():
            (latent,) = case.host.stock["SetLatentNoiseMask"]().set_mask(case.latent, 1 - held)
        return case.sampled(case.host.with_lora(case.style), styled=True, latent=latent, **page.SAMPLING)

    return run


def composited(base: str, feather: float) -> Method:
    """The sign of the photograph put back by the node."""

    def run(case: Labelled) -> Image.Image:
        pictures = [torch.from_numpy(scores.as_batch(picture)).float() for picture in (case.photo, case.made(base))]
        result = through("StylizeProtectComposite", *pictures, case.mask, feather)
        return Image.fromarray((result[0].numpy() * 255).round().astype(np.uint8))

    return run


SAMPLED: dict[str, Method] = {
    "photo itself": lambda case: case.photo,
    "VAE only": lambda case: case.plain,
    "without protection": image_to_image(),
    **{f"band {band:g}": image_to_image(band) for band in page.BANDS},
    **{f"band {band:g}, wider": image_to_image(band, wider=True) for band in page.BANDS[:2]},
    "noise mask": noise_masked(),
    "noise mask, wider": noise_masked(wider=True),
    "SMS guidance": guided(),
    "SMS guidance, band 0.1": guided(0.1),
}
COMPOSITES = {
    **{f"{base} + composite": (base, 0.0) for base in list(SAMPLED)[2:]},
    **{f"{base} + composite, feather 4": (base, 4.0) for base in ("without protection", "band 0.1", "noise mask")},
}
METHODS: dict[str, Method] = {**SAMPLED, **{name: composited(*given) for name, given in COMPOSITES.items()}}


@lru_cache(maxsize=len(PHOTOGRAPHS.styles))
def target(style: str) -> StyleTarget:
    """What a style's exemplars measure."""
    return StyleTarget.of(scores.as_batch(*exemplars(style)))


def tone_distance(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Distance of the mean colours inside a mask, in CIELAB units."""
    means = [rgb2lab(pictures[0])[mask[0] > 0].mean(0) for pictures in (first, second)]
    return float(np.linalg.norm(means[0] - means[1]))


class Signs(Comparison):
    """Photographs with signs by methods; each photograph meets some of the styles."""

    def case(self, number: int) -> Labelled:
        place, turn = divmod(number, page.STYLES_EACH)
        name, styles, label = sorted(photos())[2 * place], PHOTOGRAPHS.styles, LABELS[place]
        return Labelled(
            host=host_of(PHOTOGRAPHS),
            number=number,
            words=words_of(name, things=False),
            photo=label.on(photograph(name, page.SIZE)),
            style=styles[(place + turn) % len(styles)],
            label=label,
        )

    def measured(self, case: Labelled, method: str, pictures: list[Image.Image]) -> Record:
        """The sign against the photograph's, the rest against the style and the run without protection, the seam."""
        base = "SMS guidance" if method.startswith("SMS") else "without protection"
        given = (case.photo, case.plain, case.made(base), *pictures)
        photo, plain, free, result = (scores.as_batch(picture) for picture in given)
        mask = case.mask.numpy()
        far = target(case.style).progress(plain, result, case.far)
        record = {
            "structure": content.structure_similarity(photo, result, mask)[0],
            "edges": content.edge_agreement(photo, result, mask)[0],
            "legibility": content.legibility(photo, result, mask)[0],
            "color change": content.color_change(photo, result, mask)[0],
            "tone": tone_distance(free, result, mask),
            "color far": far.color[0],
            "texture far": far.texture[0],
            "style far": far.combined[0],
            "change outside": content.color_change(free, result, 1 - mask)[0],
        }
        if method in COMPOSITES:
            record["seam"] = seam(result, mask, photo, scores.as_batch(case.made(COMPOSITES[method][0])))[0]
        return {name: float(value) for name, value in record.items()}


SIGNS = Signs("protection", METHODS, page.CASES)
EVIDENCE = Evidence(page, {"protection": SIGNS})
