"""The test host itself: the server boots with the pack, and stock graphs run on the wiring models."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from stylization_host import graphs
from stylization_host.comfy_client import PromptRefused
from stylization_host.comfy_host import known_flags


def test_the_pack_and_the_plugins_are_loaded(server, client):
    known = client.object_info()
    assert "StylizeStyleLoRA" in known
    assert "ProbeConditioning" in known
    assert "(IMPORT FAILED)" not in server.log.read_text(encoding="utf-8")


def test_comfyui_keeps_its_own_module_named_nodes(client):
    assert client.object_info("KSampler")["KSampler"]["python_module"] == "nodes"


def test_every_flag_given_is_known_to_this_comfyui(server):
    flags = known_flags(server.tree)
    assert "--cpu" in flags
    text = (server.tree / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    assert all(f'"{flag}"' in text for flag in flags if flag.startswith("--"))


@pytest.mark.parametrize("family", ["sd15", "sd15_two_levels", "sdxl"])
def test_a_stock_graph_makes_a_picture(client, saved_tensors, family):
    result = client.run(graphs.with_picture(graphs.sampling(family, save=family))).expect_success()
    (picture,) = client.images(result, "picture")
    assert picture.size == (96, 64)
    assert torch.isfinite(saved_tensors(family)["latent"]).all()
    assert result.progress[-1] == ("sampler", 2.0, 2.0)
    assert result.previews > 0
    assert "sampler" in result.executed


@pytest.mark.parametrize("family", ["sd3", "flux", "wan"])
def test_a_transformer_samples(client, saved_tensors, family):
    client.run(graphs.sampling(family, save=family)).expect_success()
    assert torch.isfinite(saved_tensors(family)["latent"]).all()


@pytest.mark.parametrize(("family", "stacked"), [("sd15", 1), ("sd15", 2), ("sdxl", 1)])
def test_a_controlnet_reaches_the_picture(client, saved_tensors, tmp_path, family, stacked):
    hint = tmp_path / "hint.png"
    Image.linear_gradient("L").resize((96, 64)).convert("RGB").save(hint)
    name = client.upload_image(hint)
    plain = graphs.sampling(family, save="plain")
    client.run(plain).expect_success()
    controlled = graphs.with_control(graphs.sampling(family, save="controlled"), family, name, stacked=stacked)
    client.run(controlled).expect_success()
    assert not torch.equal(saved_tensors("plain")["latent"], saved_tensors("controlled")["latent"])


def test_a_seeded_run_repeats_bit_for_bit(client, saved_tensors):
    client.run(graphs.sampling("sd15", save="first")).expect_success()
    client.free()
    client.run(graphs.sampling("sd15", save="second")).expect_success()
    assert torch.equal(saved_tensors("first")["latent"], saved_tensors("second")["latent"])


def test_a_refused_prompt_says_why(client):
    graph = graphs.sampling("sd15")
    graph["sampler"]["inputs"]["steps"] = 0
    with pytest.raises(PromptRefused, match="steps"):
        client.run(graph)


def test_an_error_names_node_and_exception(client):
    graph = graphs.through(graphs.sampling("sd15"), "raise", "ProbeRaise", call=2, message="on purpose")
    result = client.run(graph)
    assert result.status == "error"
    assert (result.error.node_id, result.error.exception_type) == ("sampler", "RuntimeError")
    assert "on purpose" in result.error.message


def test_a_run_can_be_interrupted(client):
    def at_first_step(kind, _data):
        if kind == "progress":
            client.interrupt()

    result = client.run(graphs.sampling("sd15", steps=200), on_message=at_first_step)
    assert result.status == "interrupted"
    assert len(result.progress) < 200
    client.run(graphs.sampling("sd15")).expect_success()


def test_the_settings_keep_the_tutorial_away(server):
    settings = json.loads((server.base / "user" / "default" / "comfy.settings.json").read_text(encoding="utf-8"))
    assert settings["Comfy.TutorialCompleted"] is True
