"""Pictures to train on, whatever they were saved as."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(rig):
    return importlib.import_module("stylization.stylization_core.hosts.comfyui.training.picture_folders")


@pytest.fixture
def place(monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    (tmp_path / "style").mkdir()
    return tmp_path / "style"


RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = (RAMP * 255).round().astype(np.uint8)


def close(picture: Image.Image, wanted: np.ndarray, within: int = 1) -> bool:
    assert picture.mode == "RGB"
    return int(np.abs(np.asarray(picture).astype(int) - wanted.astype(int)).max()) <= within


DEPTHS = {
    "8 bits": ("png", Image.fromarray(GREY)),
    "16 bits": ("png", Image.fromarray((RAMP * 65535).round().astype(np.uint16))),
    "16 bits, TIFF": ("tiff", Image.fromarray((RAMP * 65535).round().astype(np.uint16))),
    "32 bits": ("tiff", Image.fromarray((RAMP * 2**31 - 1).clip(0).astype(np.int32))),
    "32 bits with the values of 16": ("tiff", Image.fromarray((RAMP * 65535).round().astype(np.int32))),
    "floats to 1": ("tiff", Image.fromarray(RAMP.astype(np.float32))),
    "floats to 255": ("tiff", Image.fromarray((RAMP * 255).astype(np.float32))),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_greys_of_every_depth_keep_their_scale(folders, place, depth):
    ending, picture = DEPTHS[depth]
    picture.save(place / f"grey.{ending}")
    wanted = GREY // 2 if depth == "32 bits" else GREY  # a signed file reaches half of what an unsigned one would
    assert close(folders._read(place / f"grey.{ending}"), np.repeat(wanted[..., None], 3, -1), 1)


def test_one_bit_and_cmyk_and_palettes_are_what_they_show(folders, place):
    black_and_white = Image.fromarray(GREY).point(lambda v: 255 * (v > 127)).convert("1")
    black_and_white.save(place / "bits.png")
    assert close(folders._read(place / "bits.png"), np.repeat((255 * (GREY > 127))[..., None], 3, -1))
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(place / "ink.tiff")
    assert close(folders._read(place / "ink.tiff"), np.full((8, 8, 3), (255, 0, 0)))
    Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4).save(place / "palette.png")
    assert close(folders._read(place / "palette.png"), np.full((8, 8, 3), (10, 200, 30)))


def transparent(mode: str) -> Image.Image:
    """Left half opaque red, right half a hidden green."""
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    picture.paste((0, 255, 0, 0), (4, 0, 8, 8))
    if mode == "LA":
        return picture.convert("LA")
    if mode == "P":
        return picture.quantize(8)
    return picture


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_colour_under_transparency_is_not_trained_on(folders, place, mode):
    transparent(mode).save(place / "clear.png")
    pixels = np.asarray(folders._read(place / "clear.png"))
    assert (pixels[:, 4:] == 255).all()
    assert (pixels[:, :4] < 255).any()


def test_a_colour_that_stands_for_transparency_counts_as_such(folders, place):
    Image.new("RGB", (8, 8), (0, 255, 0)).save(place / "key.png", transparency=(0, 255, 0))
    assert close(folders._read(place / "key.png"), np.full((8, 8, 3), 255))


def test_a_turned_photo_stands_upright(folders, place):
    picture = Image.new("RGB", (16, 8), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(place / "turned.jpg", exif=exif)
    assert folders._read(place / "turned.jpg").size == (8, 16)


def test_of_several_frames_the_first_is_taken_and_the_log_says_so(folders, place, caplog):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(place / "film.png", save_all=True, append_images=frames[1:])
    assert close(folders._read(place / "film.png"), np.full((8, 8, 3), (255, 0, 0)))
    assert "film.png has several frames" in caplog.text


def test_companions_of_macos_and_hidden_files_are_no_pictures(folders, place):
    Image.new("RGB", (8, 8)).save(place / "one.png")
    for name in ("._one.png", ".hidden.png"):
        (place / name).write_bytes(b"\x00\x05\x16\x07")
    assert [file.name for file in folders.picture_files("style")] == ["one.png"]


def damaged(kind: str, good: bytes) -> bytes:
    return {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "text": b"no picture at all",
        "zeros": good[:40] + bytes(len(good) - 40),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *itertools.product(["truncated", "empty", "text"], ["png", "jpg", "webp", "bmp", "tiff"]),
        ("zeros", "png"),
        ("zeros", "jpg"),
        ("zeros", "tiff"),
    ],
)
def test_a_damaged_picture_is_one_error_that_names_it(folders, place, kind, ending):
    draws = np.random.default_rng(0)
    path = place / f"bad.{ending}"
    Image.fromarray(draws.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(damaged(kind, path.read_bytes()))
    with pytest.raises(ValueError, match=rf"^bad\.{ending}: it cannot be read: .*\. Take it out of the folder\.$"):
        folders._read(path)


@pytest.mark.parametrize("value", [float("nan"), -1.0, 1e9])
def test_floats_without_a_scale_are_refused(folders, place, value):
    pixels = RAMP.astype(np.float32)
    pixels[0, 0] = value
    Image.fromarray(pixels).save(place / "odd.tiff")
    with pytest.raises(ValueError, match=r"^odd\.tiff: it cannot be read: its values"):
        folders._read(place / "odd.tiff")


def test_a_vae_that_gives_nan_is_named(folders, place):
    class Broken:
        def encode(self, pixels):
            return pixels.movedim(-1, 1) * float("nan")

    Image.new("RGB", (64, 64)).save(place / "one.png")
    with pytest.raises(ValueError, match=r"^vae, latents: .* NaN or infinite\. Start ComfyUI with --fp32-vae\.$"):
        folders.encoded_pictures(folders.picture_files("style"), Broken(), 64)
