"""What the catalogue says of each ruler is so."""

import inspect

import numpy as np
import pytest
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.rulers.catalogue import (
    CONTENT,
    CONTENT_FEATURES,
    SEQUENCE,
    STYLE,
    STYLE_FEATURES,
    Ruler,
    named,
)

FAMILIES = {
    "content": CONTENT,
    "style": STYLE,
    "content_features": CONTENT_FEATURES,
    "style_features": STYLE_FEATURES,
    "sequence": SEQUENCE,
}
ALL = [pytest.param(family, key, id=f"{family}-{key}") for family, rulers in FAMILIES.items() for key in rulers]
every = pytest.mark.parametrize(("family", "key"), ALL)


def cases(family: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two unrelated inputs, in the order that ``measure`` takes them."""
    random = np.random.default_rng(seed)
    if family.endswith("features"):
        return random.normal(size=(1, 16, 5)), random.normal(size=(1, 16, 5))
    if family == "sequence":
        return random.uniform(size=(3, 48, 48, 3)), random.uniform(size=(3, 48, 48, 3))
    # grain over a slope, at a contrast and mean tone of its own
    return tuple(
        (random.uniform(0, 0.5) * random.uniform(size=(1, 48, 48, 3)) + random.uniform(0, 0.5)) for _ in range(2)
    )


def measured(ruler: Ruler, *inputs) -> np.ndarray:
    return ruler.measure(*inputs, **({"mask": np.ones((1, 48, 48))} if ruler.needs_mask else {}))


@every
def test_each_says_its_range_direction_source_and_what_fools_it(family, key):
    ruler = FAMILIES[family][key]
    assert ruler.key == key and ruler.label
    for said in ("Range and direction: [", "Source: ", "What fools it: "):
        assert said in ruler.about, f"{key} does not say its {said}"
    words = ("higher",) if ruler.higher else ("lower",)
    assert any(word in ruler.about.split("Source:")[0] for word in words)


@every
def test_keys_are_unique_and_functions_take_a_mask_or_weights(family, key):
    ruler = FAMILIES[family][key]
    assert sum(key in rulers for rulers in FAMILIES.values()) == 1
    taken = inspect.signature(ruler.measure).parameters
    wanted = "weights" if family.endswith("features") else "mask"
    assert wanted in taken
    assert (taken[wanted].default is inspect.Parameter.empty) == ruler.needs_mask


@every
@pytest.mark.parametrize("seed", range(4))
def test_values_stay_in_their_span(family, key, seed):
    ruler = FAMILIES[family][key]
    first, second = cases(family, seed)
    # flicker on an unrelated source finds nothing again, so without
    values = measured(ruler, first) if family == "sequence" else measured(ruler, first, second)
    low, high = ruler.span
    assert values.dtype == np.float64 and values.ndim == 1
    assert ((values >= low) & (values <= high)).all()


@every
def test_the_same_again_is_the_best_there_is(family, key):
    ruler = FAMILIES[family][key]
    first, second = cases(family, 5)
    if family == "sequence":
        same, other = measured(ruler, first[:1].repeat(3, axis=0)), measured(ruler, first)
    else:
        same, other = measured(ruler, first, first), measured(ruler, first, second)
    assert same == pytest.approx(ruler.span[1] if ruler.higher else ruler.span[0], abs=1e-9)
    assert (other < same).all() if ruler.higher else (other > same).all()


def test_a_ruler_is_found_by_its_key_or_refused_with_the_keys_there_are():
    assert named("edges", CONTENT) is CONTENT["edges"]
    with pytest.raises(StylizationError, match="there is none called 'sharpness'.*structure, edges, low_band"):
        named("sharpness", CONTENT)


def test_only_legibility_needs_a_mask():
    assert [key for rulers in FAMILIES.values() for key, ruler in rulers.items() if ruler.needs_mask] == ["legibility"]
