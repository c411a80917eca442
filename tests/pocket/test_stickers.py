"""The sticker model's data: what it is told apart by, what is kept from it, and that truths are exact.

Drawings are made here, so that no npm package is needed. `stickers` is imported as a package without its folder being
put on the path, where it could hide other modules.
"""

import importlib
import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "pocket" / "stickers"
NAME = "pocket_stickers_under_test"


def part(name):
    """A module of the package `pocket/stickers`."""
    if NAME not in sys.modules:
        where = {"submodule_search_locations": [str(FOLDER)]}
        spec = importlib.util.spec_from_file_location(NAME, FOLDER / "__init__.py", **where)
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return importlib.import_module(f"{NAME}.{name}")


settings, splits, scenes, prompts = part("settings"), part("splits"), part("scenes"), part("prompts")
renderings, layers = part("renderings"), part("layers")


def a_drawing(side=200):
    """A face: a yellow disc with two dark eyes and a red mouth, RGBA."""
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    drawing = np.zeros((side, side, 4), np.uint8)

    def disc(x, y, radius, colour):
        drawing[np.hypot(rows - y, columns - x) < radius] = (*colour, 255)

    disc(0, 0, 0.5, (250, 200, 40))
    disc(-0.17, -0.12, 0.08, (40, 30, 30))
    disc(0.17, -0.12, 0.08, (40, 30, 30))
    disc(0, 0.2, 0.13, (220, 50, 60))
    return drawing


class OneDrawing:
    def __getitem__(self, key):
        return a_drawing()


ALL = sorted({*renderings.DERIVED, *renderings.OF_THE_MAKER})


def scene_of(rendering, x=60, y=66, size=96, ground="blue"):
    return scenes.Scene((scenes.Sticker("cat", "fluent", rendering, size, x, y),), (ground,))


# splits


def test_the_file_of_splits_is_what_the_script_makes():
    assert json.loads(splits.FILE.read_text(encoding="utf-8")) == splits.make()


def test_nothing_held_out_is_trained():
    trained = splits.base_cells()
    assert not set(trained) & splits.held_out_cells()
    assert not {thing for thing, _ in trained} & set(settings.HELD_OUT_THINGS)
    assert not {rendering for _, rendering in trained} & set(settings.HELD_OUT_RENDERINGS)


def test_each_half_of_a_held_out_cell_is_seen_in_other_cells():
    trained = splits.base_cells()
    things, seen = {thing for thing, _ in trained}, {rendering for _, rendering in trained}
    assert all(thing in things and rendering in seen for thing, rendering in splits.held_out_cells())


def test_flat_drawings_are_never_held_out():
    assert "flat" not in {rendering for _, rendering in splits.held_out_cells()}


# renderings


def test_every_rendering_has_a_function():
    assert {*settings.RENDERINGS, *settings.HELD_OUT_RENDERINGS} <= set(ALL)


@pytest.mark.parametrize("rendering", ALL)
def test_a_rendering_is_a_function_of_the_scene_alone(rendering):
    first = scenes.Painter(OneDrawing()).paint(scene_of(rendering))
    painter = scenes.Painter(OneDrawing())
    painter.paint(scene_of("flat", 40, 50))
    assert np.array_equal(first, painter.paint(scene_of(rendering)))


@pytest.mark.parametrize("rendering", ALL)
def test_all_renderings_share_place_and_ground(rendering):
    painter = scenes.Painter(OneDrawing())
    cover = painter.sticker(scene_of(rendering).stickers[0])[1] > 0.5
    flat = painter.sticker(scene_of("flat").stickers[0])[1] > 0.5
    assert (cover & flat).sum() / (cover | flat).sum() > 0.84
    far = np.hypot(*(np.mgrid[:128, :128] - np.array([66, 60])[:, None, None])) > 48 + 9
    assert (painter.paint(scene_of(rendering))[far] == settings.GROUNDS["blue"]).all()


def test_renderings_differ_from_one_another():
    painter = scenes.Painter(OneDrawing())
    names = [r for r in ALL if r not in renderings.OF_THE_MAKER]
    made = [painter.paint(scene_of(r)).astype(float) for r in names]
    for k, one in enumerate(made):
        assert all(np.abs(one - other).mean() > 3 for other in made[k + 1 :]), names[k]


def test_strokes_do_not_grow_with_the_sticker():
    painter = scenes.Painter(OneDrawing())
    widths = []
    for size in (48, 96):
        canvas = painter.paint(scene_of("ink", 64, 64, size, "green"))
        row = canvas[64, :64].mean(-1) < 60
        widths.append(row.sum())
    assert abs(widths[0] - widths[1]) <= 1


@pytest.mark.parametrize("rendering", [r for r in ALL if r != "mosaic"])
def test_screens_repeat_with_the_noise_period(rendering):
    """A sticker moved by the period is drawn the same: nothing but the canvas fixes the screen."""
    painter = scenes.Painter(OneDrawing())
    first = painter.paint(scene_of(rendering, 40, 40, 48))
    moved = painter.paint(scene_of(rendering, 72, 72, 48))
    assert np.abs(first[8:72, 8:72].astype(int) - moved[40:104, 40:104]).mean() < 1.5


def test_a_sticker_may_leave_the_canvas():
    assert scenes.Painter(OneDrawing()).paint(scene_of("outline", 5, 120)).shape == (128, 128, 3)


# scenes and prompts


def test_scenes_use_only_the_given_cells():
    rng, cells = random.Random(1), splits.base_cells()
    for _ in range(300):
        scene = scenes.random_scene(rng, cells)
        assert all((s.thing, s.rendering) in cells for s in scene.stickers)
        assert len({s.thing for s in scene.stickers}) == len(scene.stickers)


def test_stickers_of_a_scene_do_not_overlap():
    rng = random.Random(2)
    for _ in range(100):
        scene = scenes.random_scene(rng, splits.base_cells(), count=rng.choice((2, 3)))
        for a, b in zip(scene.stickers, scene.stickers[1:], strict=False):
            assert b.x - a.x >= (a.size + b.size) / 2 - 4


def test_exact_prompts():
    one = scene_of("ink")
    assert prompts.exact(one) == "cat, ink style, on blue"
    assert prompts.exact(one, makers=True) == "fluent cat, ink style, on blue"
    rocket = scenes.Sticker("rocket", "twemoji", "neon", 56, 95, 64)
    two = scenes.Scene((one.stickers[0], rocket), ("white", "green"))
    assert prompts.exact(two) == "cat left, ink style, rocket right, neon style, on white over green"
    same = scenes.Scene((one.stickers[0], scenes.Sticker("rocket", "twemoji", "ink", 56, 95, 64)), ("white",))
    assert prompts.exact(same) == "cat left, rocket right, ink style, on white"


def test_words_of_exact_prompts_are_known_and_held_out_ones_are_not():
    known, rng = set(prompts.vocabulary()), random.Random(3)
    for _ in range(200):
        text = prompts.exact(scenes.random_scene(rng, splits.base_cells()), makers=True)
        assert set(text.replace(",", "").split()) <= known
    assert not known & {*settings.HELD_OUT_RENDERINGS, *settings.HELD_OUT_THINGS}


def test_prompts_are_dropped_and_strange_words_occur():
    rng = random.Random(4)
    texts = [prompts.varied(scenes.random_scene(rng, splits.base_cells()), rng) for _ in range(2000)]
    assert 0.07 < sum(not text for text in texts) / len(texts) < 0.13
    assert any("zq" in text for text in texts)


def test_prompts_fit_into_the_text_tower():
    rng = random.Random(5)
    for _ in range(2000):
        text = prompts.varied(scenes.random_scene(rng, splits.base_cells()), rng)
        assert len(text.replace(",", "").split()) + 2 <= settings.TEXT_LENGTH + 1


# pools


def test_scenes_survive_packing():
    pytest.importorskip("torch")
    pool, rng = part("pool"), random.Random(6)
    for _ in range(200):
        scene = scenes.random_scene(rng, splits.base_cells())
        row = pool.pack(scene)
        assert row.dtype == np.uint8 and row.shape == (24,)
        assert pool.unpack(row) == scene


def test_the_autoencoder_keeps_shapes_and_one_scale():
    torch = pytest.importorskip("torch")
    net = part("autoencoder").StickerAutoencoder()
    z = net.encode(torch.zeros(2, 3, 64, 96))
    assert z.shape == (2, 8, 8, 12) and net.scale.numel() == 1
    assert net.decode(z).shape == (2, 3, 64, 96)
