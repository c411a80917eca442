"""How SMS runs end: nothing left behind, interrupts, and going on from what was reached."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch
from safetensors import safe_open

# nothing left


@pytest.mark.parametrize("ending", ["success", "exception", "interrupt"])
def test_nothing_is_left_on_the_model(rig, styled, outputs, ending):
    source = rig.runs.latent()
    rig.runs.sms(styled, source, steps=1)  # ComfyUI itself marks a module that it has loaded once
    before, kept = rig.leaks.state(styled), source.clone()
    rig.endings.run_to(ending, styled, source)
    assert rig.leaks.state(styled) == before
    assert before["hooks"] == [] and before["forwards"] == []
    assert torch.equal(source, kept)


@pytest.mark.parametrize("ending", ["success", "exception"])
def test_nothing_is_left_on_two_models(rig, micro, path, outputs, ending):
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    source = rig.runs.latent()
    rig.runs.sms(micro, source, second, steps=1)
    before = rig.leaks.state(micro), rig.leaks.patcher_state(second)
    rig.endings.run_to(ending, micro, source, second)
    assert (rig.leaks.state(micro), rig.leaks.patcher_state(second)) == before
    assert rig.leaks.network(second)["hooks"] == []
    assert second.model.current_patcher is None  # ComfyUI's sign of a run in progress


def test_after_a_failed_run_the_next_one_is_as_if_nothing_had_happened(rig, styled, outputs):
    source = rig.runs.latent()
    before = rig.runs.sms(styled, source)
    rig.endings.run_to("exception", styled, source)
    rig.endings.interrupt(styled, source)
    assert torch.equal(rig.runs.sms(styled, source), before)


def test_clones_never_see_each_others_style(rig, micro, tmp_path):
    files = [rig.loras.kohya(micro), rig.loras.full(micro)]
    styles = []
    for number, weights in enumerate(files):
        path = rig.loras.saved(weights, tmp_path / f"{number}.safetensors")
        styles.append(rig.style_branch.attach(micro, rig.lora_files.load_style(path, micro, 0.8)))
    source = rig.runs.latent()
    alone = [rig.runs.sms(style, source) for style in styles]
    again = [rig.runs.sms(style, source) for style in styles[::-1]][::-1]
    assert all(torch.equal(one, two) for one, two in zip(alone, again, strict=True))
    assert not torch.equal(*alone)


def test_ten_runs_leave_no_more_than_one(rig, styled):
    source = rig.runs.latent(1, 4, 8, 8)
    rig.runs.sms(styled, source, steps=2)
    rig.runs.sms(styled, source, steps=2)
    before, state = rig.leaks.tensors(), rig.leaks.patcher_state(styled)
    for _ in range(10):
        rig.runs.sms(styled, source, steps=2, relevance_floor=0.1)
    assert rig.leaks.tensors() <= before
    assert rig.leaks.patcher_state(styled) == state
    assert rig.leaks.network(styled)["hooks"] == []


def test_row_gate_of_a_run_is_freed_with_it(rig, styled):
    guider = rig.runs.guider(styled)
    source = rig.runs.latent()
    with torch.inference_mode():
        guider.sample(source, source, rig.sms_sampler.StyleMatchingSampler(), torch.tensor([1.6, 0.8, 0.1]), seed=0)
    assert guider._gate is None and guider.windows is None and guider._second is None


# interrupts and going on


def saved_latent(outputs: pathlib.Path) -> pathlib.Path:
    (path,) = outputs.glob("*.latent")
    return path


def test_interrupt_leaves_what_was_reached(rig, styled, outputs):
    source, seen = rig.runs.latent(), {}
    interrupting = rig.endings.interrupting_at(4)

    def callback(step, x0, x, total):
        seen[step] = x.clone()
        interrupting(step, x0, x, total)

    with pytest.raises(rig.model_management.InterruptProcessingException):
        rig.runs.sms(styled, source, steps=9, callback=callback)
    path = saved_latent(outputs)
    assert path.name.startswith("sms_stopped_at_5_of_9")
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["stylization"]) == {"version": 1, "what": "sms", "step": 5, "steps": 9}
        reached = file.get_tensor("latent_tensor")
    assert torch.equal(reached, styled.model.process_latent_out(seen[4]))


def test_comfyuis_load_latent_reads_it_and_the_run_goes_on(rig, comfy, styled, outputs, monkeypatch):
    import folder_paths

    source = rig.runs.latent()
    rig.endings.interrupt(styled, source, last=4)
    path = saved_latent(outputs)
    monkeypatch.setattr(folder_paths, "get_annotated_filepath", lambda name: str(path))
    reached = comfy.stock_nodes().LoadLatent().load(path.name)[0]["samples"]
    assert reached.shape == source.shape
    assert 0 < rig.runs.moved(reached, source) < 5
    steps: list[int] = []
    result = rig.runs.sms(
        styled, source, steps=9, start=5, resume=reached, callback=lambda step, *_: steps.append(step)
    )
    assert steps == [5, 6, 7, 8]
    assert rig.runs.moved(result, reached) > 0.01
    assert rig.runs.moved(result, rig.runs.sms(styled, source, steps=9)) < rig.runs.moved(result, source)


def test_exception_in_the_model_keeps_what_was_reached_too(rig, styled, outputs):
    rig.endings.run_to("exception", styled, rig.runs.latent())
    assert saved_latent(outputs).name.startswith("sms_stopped_at_")


def test_finished_run_and_early_failure_leave_no_file(rig, styled, outputs):
    rig.runs.sms(styled, rig.runs.latent())
    with pytest.raises(ZeroDivisionError):
        rig.runs.sms(rig.endings.failing_after(styled, 0), rig.runs.latent())
    assert not outputs.exists()


def test_full_disk_does_not_hide_the_interrupt(rig, styled, outputs, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(rig.stopped_runs, "write_tensors", refuse)
    rig.endings.interrupt(styled, rig.runs.latent())
    assert "could not be saved" in caplog.text
