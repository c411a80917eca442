"""StylizeReport in process."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from skimage.transform import resize
from stylization_host import vision_networks

NODE = "Stylize Report"
PREFIX = "stylize/report"


@pytest.fixture(scope="module")
def module(pack_nodes):
    return importlib.import_module("stylization.nodes.measure.report")


@pytest.fixture
def folders(tmp_path):
    """ComfyUI's output and temporary folders, new ones."""
    import folder_paths

    before = folder_paths.get_output_directory(), folder_paths.get_temp_directory()
    folder_paths.set_output_directory(str(tmp_path / "output"))
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    yield tmp_path
    folder_paths.set_output_directory(before[0])
    folder_paths.set_temp_directory(before[1])


@pytest.fixture
def execute(module, folders, monkeypatch):
    """Runs the node as ComfyUI does, with the hidden inputs."""
    hidden = SimpleNamespace(prompt={"1": {"class_type": "X"}}, extra_pnginfo={"workflow": {"nodes": []}})

    def run(content=None, result=None, **given):
        arguments = {"chart": "bars", "theme": "dark", "sequence": False, "filename_prefix": PREFIX, "save": True}
        monkeypatch.setattr(module.StylizeReport, "hidden", hidden)
        first = photo() if content is None else content
        second = results() if result is None else result
        with torch.inference_mode():
            return module.StylizeReport.execute(first, second, **{**arguments, **given})

    return run


def photo() -> torch.Tensor:
    return torch.from_numpy(resize(data.astronaut(), (64, 80), anti_aliasing=True).astype(np.float32))[None]


def results(count: int = 2) -> torch.Tensor:
    return torch.cat([photo() ** (1.5 + i) for i in range(count)])


def exemplars() -> torch.Tensor:
    image = resize(data.immunohistochemistry(), (100, 160), anti_aliasing=True).astype(np.float32)
    return torch.from_numpy(np.stack([image[:, :80], image[:, 80:]]))


def region() -> torch.Tensor:
    mask = torch.zeros(1, 64, 80)
    mask[:, 10:50, 20:60] = 1.0
    return mask


def test_outputs_are_scores_text_and_pictures(execute):
    scores, text, chart, overlay, beside = execute(style=exemplars(), mask=region()).args
    found = json.loads(scores)
    assert found["results"] == 2 and found["exemplars"] == 2 and found["region"] is not None
    assert "edge agreement" in text and "region" in text
    assert chart.shape[0] == 1 and chart.shape[2] == 760
    assert len(overlay) == len(beside) == 2
    for picture in (chart, overlay, beside):
        assert picture.dtype == torch.float32 and picture.shape[-1] == 3
        assert 0 <= picture.min() < picture.max() <= 1


def test_numbers_are_those_of_the_rulers(execute, core):
    catalogue = importlib.import_module("stylization.stylization_core.rulers.catalogue")
    found = json.loads(execute(style=exemplars())[0])["rulers"]
    for key in ("structure", "edges", "color_change"):
        wanted = catalogue.CONTENT[key].measure(photo(), results())
        assert found[key]["values"] == pytest.approx(wanted, rel=1e-5)
    wanted = catalogue.STYLE["texture"].measure(results(), exemplars())
    assert found["texture"]["values"] == pytest.approx(wanted, rel=1e-5)


def test_saved_pictures_hold_prompt_workflow_and_scores(execute, folders):
    output = execute(style=exemplars())
    files = sorted((folders / "output" / "stylize").iterdir())
    assert [file.name for file in files] == ["report_00001_.png", "report_00002_.png"]
    assert output.ui["saved"] == [{"filename": file.name, "subfolder": "stylize", "type": "output"} for file in files]
    for number, file in enumerate(files):
        with Image.open(file) as image:
            texts, pixels = dict(image.text), np.asarray(image)
        assert json.loads(texts["prompt"]) == {"1": {"class_type": "X"}}
        assert json.loads(texts["workflow"]) == {"nodes": []}
        held = json.loads(texts["stylization.report"])
        assert held.pop("image") == number and held == json.loads(output[0])
        assert np.abs(pixels / 255 - results()[number].numpy()).max() <= 1 / 255


def test_names_are_counted_on_and_nothing_is_overwritten(execute, folders):
    execute()
    first = {file: file.read_bytes() for file in (folders / "output" / "stylize").iterdir()}
    execute(result=results(1))
    after = {file: file.read_bytes() for file in (folders / "output" / "stylize").iterdir()}
    assert len(after) == 3 and first.items() <= after.items()
    assert (folders / "output" / "stylize" / "report_00003_.png").is_file()


def test_without_save_nothing_is_written_but_the_preview(execute, folders):
    output = execute(save=False, filename_prefix="../outside")
    assert output.ui["saved"] == [] and not (folders / "output").exists()
    (shown,) = output.ui["images"]
    assert shown["type"] == "temp"
    with Image.open(folders / "temp" / shown["subfolder"] / shown["filename"]) as image:
        assert np.abs(np.asarray(image) / 255 - output[2][0].numpy()).max() <= 1 / 255
    assert output.ui["text"] == (output[1],)


def test_metadata_is_left_out_where_comfyui_is_told_so(execute, folders, module, monkeypatch):
    monkeypatch.setattr(module.args, "disable_metadata", True)
    execute(result=results(1))
    with Image.open(folders / "output" / "stylize" / "report_00001_.png") as image:
        assert not image.text


def test_inputs_act(execute):
    first = execute(save=False)
    radar, light = execute(save=False, chart="radar"), execute(save=False, theme="light")
    assert not torch.equal(first[2], radar[2]) and torch.equal(first[3], radar[3])
    for place in (2, 3, 4):
        assert not torch.equal(first[place], light[place])
    frames = execute(save=False, sequence=True)
    assert json.loads(first[0])["flicker"] is None and json.loads(frames[0])["flicker"]["mean"] > 0


def test_clip_vision_adds_rulers(execute, rig, tmp_path):
    network = vision_networks.tiny("clip", tmp_path)
    plain = json.loads(execute(save=False, clip_vision=network)[0])["rulers"]
    assert plain["self_similarity"]["identity"] == 0 and "gram" not in plain
    styled = json.loads(execute(save=False, clip_vision=network, style=exemplars(), mask=region())[0])["rulers"]
    for key in ("self_similarity", "gram", "moments"):
        assert len(styled[key]["values"]) == 2 and styled[key]["mean"] > 0
        assert styled[key]["region"]["mean"] != styled[key]["mean"]


def test_progress_reaches_its_end_and_an_interrupt_ends_the_run(execute, module, monkeypatch):
    import comfy.model_management

    steps = []
    monkeypatch.setattr(
        module.comfy.utils, "ProgressBar", lambda total: SimpleNamespace(update=lambda n: steps.append((n, total)))
    )
    execute(save=False, style=exemplars())
    assert 0.7 * steps[0][1] <= sum(n for n, _ in steps) <= steps[0][1]
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        execute(save=False)


@pytest.mark.parametrize("prefix", ["../outside", "/etc/report", "stylize/../../outside", ""])
def test_names_outside_the_output_folder_are_refused(execute, refusal, folders, prefix):
    message = refusal(NODE, lambda: execute(filename_prefix=prefix))
    assert message.startswith(f"{NODE}, filename_prefix: '{prefix}' is no name inside the output folder")
    assert not [file for file in folders.rglob("*.png")]


def broken() -> torch.Tensor:
    found = results()
    found[1, 3, 4, 0] = float("nan")
    return found


BAD_INPUT = {
    "size": (lambda: {"result": results()[:, :56]}, "content and result: content is 80x64 pixels, result 80x56"),
    "count": (lambda: {"content": results(3)}, "content and result: content has 3 pictures, result 2"),
    "NaN": (lambda: {"result": broken()}, "result: 1 of its 30720 values are NaN or infinite"),
    "empty mask": (lambda: {"mask": torch.zeros(1, 64, 80)}, "mask: it is empty, nothing is marked"),
    "mask of LoadImage": (lambda: {"mask": torch.zeros(1, 64, 64)}, "mask: it is empty, 64x64 zeros, as Load Image"),
    "one frame": (lambda: {"result": results(1), "sequence": True}, "sequence: it is on, and result is one picture"),
    "style": (lambda: {"style": exemplars()[:, :20]}, "style: it is 80x20 pixels"),
    "network": (
        lambda: {"clip_vision": SimpleNamespace(encode_image=lambda image, crop: SimpleNamespace())},
        "clip_vision: its hidden states are none, so there are no patches",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_names_node_input_finding_and_remedy(execute, refusal, folders, case):
    given, expected = BAD_INPUT[case]
    message = refusal(NODE, lambda: execute(**given()))
    assert message.startswith(f"{NODE}, {expected}")
    assert [path for path in (folders / "output").rglob("*") if path.is_file()] == []
