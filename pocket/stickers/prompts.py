"""Prompts of scenes, such as `cat, ink style, on blue` or `cat left, ink style, rocket right, neon style, on white`."""

from .scenes import PLACES
from .settings import BASE_MAKERS, GROUNDS, RENDERINGS, TRAINED_THINGS

EMPTY = 0.10  # share of empty prompts
NO_THING, NO_RENDERING, NO_GROUND = 0.05, 0.08, 0.15
MAKER_NAMED = 0.5
STRANGE_WORD = 0.03  # share of words replaced by one that means nothing
STRANGE = [f"zq{k}" for k in range(400)]  # these fill the ids that unknown words share: the model learns to ignore them


def vocabulary():
    """The known words: of trained things, makers, renderings, grounds and places; all others share a few ids."""
    places = [place for names in PLACES.values() for place in names if place]
    text = " ".join(("style on over and a", *TRAINED_THINGS, *BASE_MAKERS, *RENDERINGS, *GROUNDS, *places))
    return sorted(set(text.split()))


def exact(scene, makers=False):
    """The full prompt of a scene, its stickers from left to right."""
    names = [f"{s.maker} {s.thing}" if makers else s.thing for s in scene.stickers]
    return assemble(scene, names, [s.rendering for s in scene.stickers], scene.grounds)


def assemble(scene, names, renderings, grounds):
    places = PLACES[len(scene.stickers)]
    named = [f"{name} {place}".strip() for name, place in zip(names, places, strict=True)]
    if len(set(renderings)) > 1:
        parts = [f"{name}, {rendering} style" for name, rendering in zip(named, renderings, strict=True)]
    else:
        parts = [*named, f"{renderings[0]} style" if renderings[0] else ""]
    return ", ".join(part for part in (*parts, "on " + " over ".join(grounds) if grounds else "") if part)


def varied(scene, rng):
    """A prompt as in training: parts can be missing, makers are named now and then, some words mean nothing."""
    if rng.random() < EMPTY:
        return ""
    names = []
    for s in scene.stickers:
        name = s.thing if rng.random() > NO_THING else "a"
        names.append(f"{s.maker} {name}" if rng.random() < MAKER_NAMED else name)
    renderings = [s.rendering for s in scene.stickers]
    if rng.random() < NO_RENDERING:
        renderings = [""] * len(renderings)
    text = assemble(scene, names, renderings, () if rng.random() < NO_GROUND else scene.grounds)
    words = [rng.choice(STRANGE) if rng.random() < STRANGE_WORD else word for word in text.split()]
    return " ".join(words)
