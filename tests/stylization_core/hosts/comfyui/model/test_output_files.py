"""Names in the output folder, looked at before and kept after."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def files(rig):
    return importlib.import_module("stylization.stylization_core.hosts.comfyui.model.output_files")


@pytest.fixture
def output(monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.mark.parametrize("prefix", ["style", "cards/style", "cards/%year%/style", "Ölbild 絵", "a" * 200])
def test_a_good_prefix_leaves_no_file(files, output, prefix):
    files.check_prefix(prefix)
    assert [path for path in output.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "prefix", ["", ".", "..", "../style", "/style", "a/../../style", "b" * 256, "taken/style", "nul\0"]
)
def test_a_prefix_without_a_place_is_refused(files, output, prefix):
    (output / "taken").write_bytes(b"a file, no folder")
    with pytest.raises(ValueError, match="^filename_prefix: ") as caught:
        files.check_prefix(prefix)
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


def test_files_get_numbers_of_their_own(files, output):
    for number in (1, 2):
        path = files.saved_in_any_case("cards/style", "it", lambda path: path.write_bytes(b"x"))
        assert path == output / "cards" / f"style_{number:05}_.safetensors"


def refusing(*words: str):
    def write(path):
        if any(word in str(path) for word in words):
            raise OSError("No space left on device")
        path.write_bytes(b"kept")

    return write


@pytest.mark.parametrize(
    ("prefix", "refused", "kept"),
    [
        ("style", ("style_",), "output/stylization/rescued_00001_.safetensors"),
        ("../style", (), "output/stylization/rescued_00001_.safetensors"),
        ("style", ("output",), "temp/rescued_00001_.safetensors"),
    ],
)
def test_what_a_disk_refuses_is_kept_elsewhere_and_the_error_says_where(files, output, prefix, refused, kept):
    with pytest.raises(
        ValueError, match=r"^filename_prefix: 5 steps could not be saved there .*it is kept in .*rescued"
    ):
        files.saved_in_any_case(prefix, "5 steps", refusing(*refused))
    assert (output.parent / kept).read_bytes() == b"kept"


def test_what_no_disk_takes_is_said(files, output, caplog):
    with pytest.raises(ValueError, match=r"^filename_prefix: 5 steps could not be saved, here or anywhere: No space"):
        files.saved_in_any_case("style", "5 steps", refusing("output", "temp"))
    assert "could not be saved" in caplog.text


def test_an_error_of_what_is_saved_is_not_one_of_the_disk(files, output):
    def write(path):
        raise ValueError("it holds NaN")

    with pytest.raises(ValueError, match="^it holds NaN$"):
        files.saved_in_any_case("style", "the card", write)
