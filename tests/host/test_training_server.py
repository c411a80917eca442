"""The training nodes through a real server: on the SD1.5 wiring model with its own VAE."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file
from stylization_host import graphs, training_kit
from stylization_host.graphs import node

KINDS = {
    "StylizeTrainHolisticInjector": ("style_injectors", "StylizeLoadHolisticInjector", "injector_name"),
    "StylizeTrainClassAdaptive": ("style_class_adapters", "StylizeLoadClassAdaptive", "adapter_name"),
}
both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module", autouse=True)
def pictures(server):
    training_kit.pictures(server.base / "input" / "paintings")


def training(kind: str, name: str, **given) -> graphs.Graph:
    settings = {**training_kit.SETTINGS, "layers": "style block", "steps": 2, **given}
    if kind == "StylizeTrainClassAdaptive":
        settings["tokens"] = 4
    inputs = {"model": ["model", 0], "vae": ["model", 2], "positive": ["positive", 0]}
    prefix = f"{KINDS[kind][0]}/{name}"
    return {**graphs.loaded("sd15"), "train": node(kind, **inputs, **settings, filename_prefix=prefix)}


@both
def test_training_in_one_prompt_and_its_file_in_the_next(client, server, saved_tensors, kind):
    folder, loader, key = KINDS[kind]
    messages = []
    result = client.run(training(kind, "first"), on_message=lambda name, data: messages.append((name, data)))
    result.expect_success()
    assert [data["value"] for name, data in messages if name == "progress" and data["max"] == 2][-1] == 2
    assert (server.output / folder / "first_00001_.safetensors").is_file()
    shown = client.object_info(loader)[loader]["input"]["required"][key]
    options = shown[0] if isinstance(shown[0], list) else shown[1]["options"]
    assert "first_00001_.safetensors" in options and not any("resume" in option for option in options)

    graph = graphs.sampling("sd15", save=f"{folder}_plain")
    client.run(graph).expect_success()
    graph = graphs.sampling("sd15", save=f"{folder}_used")
    graph["trained"] = node(loader, **{key: "first_00001_.safetensors"})
    graph["reference"] = node("StylizeReference", weight=1.0, seed=0, latent=["latent", 0])
    graph = using(graph, kind)
    client.run(graph).expect_success()
    plain, used = (saved_tensors(f"{folder}_{name}")["latent"] for name in ("plain", "used"))
    assert used.isfinite().all() and (used - plain).abs().max() > 1e-5


def using(graph: graphs.Graph, kind: str) -> graphs.Graph:
    common = {
        "strength": 1.0,
        "layers": "all",
        "custom_layers": "",
        "negative_ratio": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    if kind == "StylizeTrainHolisticInjector":
        own = {"balance": "slider", "tone": 0.0, "mode": "moments", "reference": ["reference", 0]}
        return graphs.through(graph, "inject", "StylizeHolisticInjector", **common, **own, injector=["trained", 0])
    graph["mask"] = node("SolidMask", value=1.0, width=96, height=64)
    graph["region"] = node("StylizeRegion", mask=["mask", 0], weight=1.0, reference=["reference", 0])
    own = {"mode": "attention", "adaptivity": 5.0, "tokens": 4, "feather": 0.0, "regions": ["region", 0]}
    return graphs.through(graph, "regions", "StylizeClassAdaptiveAttention", **common, **own, adapter=["trained", 0])


@both
def test_interrupted_training_goes_on_from_its_file(client, server, kind):
    folder, *_ = KINDS[kind]

    def at_second_step(name, data):
        if name == "progress" and data["max"] == 400 and data["value"] >= 2:
            client.interrupt()

    result = client.run(training(kind, "stopped", steps=400, seed=1), on_message=at_second_step)
    assert result.status == "interrupted"
    kept = server.output / folder / "stopped_00001_.safetensors"
    assert kept.is_file()
    steps = int(steps_of(kept))
    assert 2 <= steps < 400
    client.run(training(kind, "whole", steps=steps + 1, seed=1)).expect_success()
    client.run(training(kind, "went_on", steps=steps + 1, seed=1, resume=kept.name)).expect_success()
    whole, went_on = (load_file(server.output / folder / f"{name}_00001_.safetensors") for name in ("whole", "went_on"))
    assert whole.keys() == went_on.keys() and all((whole[name] == went_on[name]).all() for name in whole)


def steps_of(path) -> str:
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        return file.metadata()["steps"]


@both
def test_folder_that_is_not_there_is_one_clear_error(client, kind):
    result = client.run(training(kind, "none", folder="nowhere"))
    assert result.status == "error"
    assert "folder: there is no folder 'nowhere' in the input folder. Put your pictures there." in str(result.error)
