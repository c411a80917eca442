"""StylizeTrainHolisticInjector and StylizeLoadHolisticInjector in process."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from safetensors.torch import load_file
from stylization.stylization_core.trained_injector import TrainedInjector, knot_shares
from stylization_host import training_kit as kit

TRAIN, LOAD, INJECT = "Stylize Train Holistic Injector", "Stylize Load Holistic Injector", "Stylize Holistic Injector"


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.training.injector")


@pytest.fixture
def training(rig):
    return importlib.import_module("stylization.stylization_core.hosts.comfyui.training.loop")


@pytest.fixture
def folder(nodes, tmp_path, monkeypatch):
    return kit.folders(monkeypatch, tmp_path, nodes.FOLDER)


@pytest.fixture
def train(rig, nodes, folder):
    def run(model, **given):
        settings = {**kit.SETTINGS, "filename_prefix": f"{nodes.FOLDER}/mine", **given}
        settings.setdefault("vae", kit.PlainVAE())
        settings.setdefault("positive", rig.runs.conditioning(1))
        with torch.inference_mode():
            return nodes.StylizeTrainHolisticInjector.execute(model, **settings).result[0]

    return run


def weights(injector) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in injector.parameters().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def untrained(rig, nodes, model):
    places = rig.layers.self_attention_layers(model.model.diffusion_model)
    widths = {str(layer): place.width for layer, place in places.items()}
    return TrainedInjector.untrained("SD15", widths, seed=7)


# learning


def test_training_writes_what_it_returns(micro, train, folder):
    made = train(micro)
    assert made.steps == 4 and made.family == "SD15" and "4 steps" in made.summary
    assert sorted(one.name for one in folder.iterdir()) == [
        "mine_00001_.resume.safetensors",
        "mine_00001_.safetensors",
    ]
    kept = TrainedInjector.load(folder / "mine_00001_.safetensors")
    assert same(weights(kept), weights(made)) and kept.steps == 4
    assert not any(value.requires_grad or value.is_inference() for value in made.parameters().values())


def test_loss_of_a_fixed_batch_falls(rig, micro, train, training, monkeypatch):
    """The same draws at every step."""
    losses = []
    monkeypatch.setattr(training, "stream", lambda seed, purpose: torch.Generator().manual_seed(5))
    monkeypatch.setattr(training.TrainingSampler, "_compared", lambda self, frozen: losses.extend(self.losses) or 0.0)
    train(micro, steps=8)
    assert len(losses) == 8 and all(later < earlier for earlier, later in zip(losses[:-1], losses[1:], strict=True))


@pytest.mark.parametrize("cross", [0.0, 1.0])
def test_gain_is_that_of_denoising_own_pairs(micro, train, monkeypatch, cross):
    """Whatever the steps ask for: an injector that has hardly learned takes hardly any of that loss."""
    teaching = importlib.import_module("stylization.stylization_core.hosts.comfyui.training.injector")
    monkeypatch.setattr(teaching, "CROSS", cross)
    made = train(micro, steps=1, learning_rate=1e-6)
    assert "takes 0.00 % of the loss" in made.summary or "takes -0.00 % of the loss" in made.summary


def test_every_layer_learns_and_the_first_loss_is_the_models_own(rig, nodes, micro, train, training, monkeypatch):
    seen = []
    objective = importlib.import_module(
        "stylization.stylization_core.hosts.comfyui.training.injector"
    ).InjectorObjective
    loss = objective.loss

    def both(self, frozen, draws, *, idle=False):
        state = draws.get_state()
        if not seen:
            with torch.no_grad():
                with_it = float(loss(self, frozen, draws)())
                draws.set_state(state)
                alone = float(loss(self, frozen, draws, idle=True)())
                draws.set_state(state)
            seen.append((with_it, alone))
        return loss(self, frozen, draws, idle=idle)

    monkeypatch.setattr(objective, "loss", both)
    start, made = weights(untrained(rig, nodes, micro)), weights(train(micro))
    assert seen[0][0] == seen[0][1]
    moved = {name.rsplit(".", 2)[0] for name in start if not torch.equal(start[name], made[name])}
    assert moved == {f"hsi.{layer}" for layer in untrained(rig, nodes, micro).layers}
    outputs = [name for name in start if name.endswith(("gate.weight", "o_up.weight"))]
    assert outputs and not any(torch.equal(start[name], made[name]) for name in outputs)


def test_same_seed_same_injector_and_another_another(micro, train):
    one = weights(train(micro, steps=2))
    torch.randn(3)
    assert same(one, weights(train(micro, steps=2)))
    assert not same(one, weights(train(micro, steps=2, seed=8)))


def test_real_vae_and_sdxl(rig, wiring_model, train):
    from stylization_host.wiring import FAMILIES

    known = FAMILIES["sdxl"]
    prompt = rig.runs.conditioning(1, known.width, known.pooled)
    made = train(wiring_model("sdxl"), vae=wiring_model.vae("sdxl"), positive=prompt, steps=1, layers="style block")
    assert made.family == "KOALA_700M" and made.steps == 1  # the wiring model passes for this smaller relative


# stopping and going on


def test_interrupt_saves_and_resuming_gives_the_same_bits(rig, micro, train, training, folder, monkeypatch):
    whole = weights(train(micro, steps=5, filename_prefix="style_injectors/whole"))
    with monkeypatch.context() as patch:
        kit.interrupted_at(patch, training, 2)
        with pytest.raises(rig.model_management.InterruptProcessingException):
            train(micro, steps=5)
    reached = TrainedInjector.load(folder / "mine_00001_.safetensors")
    assert reached.steps == 2 and not same(weights(reached), whole)
    went_on = train(micro, steps=5, resume="mine_00001_.safetensors")
    assert went_on.steps == 5 and same(weights(went_on), whole)
    assert (
        load_file(folder / "mine_00002_.resume.safetensors").keys()
        == load_file(folder / "whole_00001_.resume.safetensors").keys()
    )


def test_failure_keeps_what_was_reached(micro, train, training, folder, monkeypatch):
    original = training._descended

    def descended(*args):
        descended.steps += 1
        if descended.steps == 3:
            raise ZeroDivisionError
        return original(*args)

    descended.steps = 0
    monkeypatch.setattr(training, "_descended", descended)
    with pytest.raises(ZeroDivisionError):
        train(micro)
    assert TrainedInjector.load(folder / "mine_00001_.safetensors").steps == 2


def test_full_disk_does_not_take_the_result(micro, train, folder, monkeypatch):
    def refused(self, path):
        raise OSError("no space left")

    monkeypatch.setattr(TrainedInjector, "save", refused)
    with pytest.raises(ValueError, match=f"^{TRAIN}, filename_prefix: 1 steps of training could not be saved, here or"):
        train(micro, steps=1)


def test_a_disk_that_refuses_the_name_gets_the_training_under_another(micro, train, folder, monkeypatch):
    save = TrainedInjector.save

    def refused(self, path):
        if path.name.startswith("mine"):
            raise OSError("no space left")
        save(self, path)

    monkeypatch.setattr(TrainedInjector, "save", refused)
    with pytest.raises(
        ValueError, match=f"^{TRAIN}, filename_prefix: 1 steps .*no space left.* kept in .*rescued_00001_"
    ):
        train(micro, steps=1)
    assert TrainedInjector.load(folder.parent / "stylization" / "rescued_00001_.safetensors").steps == 1


def test_an_interrupt_stays_one_though_the_disk_refuses(rig, micro, train, training, folder, monkeypatch):
    def refused(self, path):
        raise OSError("no space left")

    monkeypatch.setattr(TrainedInjector, "save", refused)
    kit.interrupted_at(monkeypatch, training, 1)
    with pytest.raises(rig.model_management.InterruptProcessingException):
        train(micro, steps=3)


@pytest.mark.parametrize("prefix", ["../out", "/etc/out", "", ".", "style_injectors/" + "x" * 300, "file/inside"])
def test_a_prefix_that_cannot_be_saved_to_is_refused_before_anything_is_trained(
    micro, train, refusal, training, folder, monkeypatch, prefix
):
    (folder.parent / "file").write_bytes(b"no folder")
    monkeypatch.setattr(training.TrainingSampler, "sample", lambda *_a, **_n: pytest.fail("it was trained"))
    assert ", filename_prefix: " in refusal(TRAIN, lambda: train(micro, filename_prefix=prefix))


def test_without_its_state_a_file_is_trained_on_from_its_weights(micro, train, folder):
    train(micro, steps=2)
    (folder / "mine_00001_.resume.safetensors").unlink()
    assert train(micro, steps=3, resume="mine_00001_.safetensors").steps == 3


def test_finished_file_asks_for_more_steps(micro, train):
    train(micro, steps=2)
    with pytest.raises(ValueError, match=f"{TRAIN}, steps: the file has 2 already"):
        train(micro, steps=2, resume="mine_00001_.safetensors")


# what is left alone


@pytest.mark.parametrize("ending", ["success", "interrupt"])
def test_loaded_model_is_left_alone(rig, micro, train, training, monkeypatch, ending):
    source = rig.runs.latent()
    plain, before = rig.ordinary.sample(micro, source), rig.leaks.state(micro)
    if ending == "interrupt":
        kit.interrupted_at(monkeypatch, training, 1)
        with pytest.raises(rig.model_management.InterruptProcessingException):
            train(micro)
    else:
        train(micro)
    assert rig.leaks.state(micro) == before
    assert all(p.grad is None for p in micro.model.parameters())
    assert torch.equal(rig.ordinary.sample(micro, source), plain)


def test_training_leaves_no_tensors(rig, micro, train):
    train(micro, steps=1)
    before = rig.leaks.tensors()
    train(micro, steps=1)
    assert rig.leaks.tensors() <= before


def test_gradients_reach_the_injector_alone(micro, train, training, monkeypatch):
    original, seen = training.Gradients.of, []

    def of(self, loss, factors, scale):
        found = original(self, loss, factors, scale)
        seen.extend(factors)
        return found

    monkeypatch.setattr(training.Gradients, "of", of)
    twins = []
    make = training.twin_of
    monkeypatch.setattr(training, "twin_of", lambda *args: twins.append(make(*args)) or twins[-1])
    made = train(micro, steps=1)
    assert {id(one) for one in seen} == {id(one) for one in made.parameters().values()}
    loaded = dict(micro.model.diffusion_model.named_parameters())
    assert all(torch.equal(value, loaded[name]) for name, value in twins[0].diffusion_model.named_parameters())


# refusals


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"folder": "nowhere"}, "folder: there is no folder 'nowhere'"),
        ({"folder": "../elsewhere"}, "folder: .*not below"),
        ({"folder": ""}, "folder: .*not below"),
        ({"resolution": 256}, "folder: all its 3 pictures are smaller than 256"),
        ({"layers": "custom", "custom_layers": "output.99"}, "custom_layers.*output.99"),
        ({"resume": "none.safetensors"}, "resume: 'none.safetensors' is not among its choices"),
    ],
)
def test_bad_input_is_refused(micro, train, refusal, given, words):
    import re

    assert re.search(words, refusal(TRAIN, lambda: train(micro, **given)))


def test_folder_without_pictures_and_broken_pictures_are_refused(micro, train, refusal, folder):
    empty = folder.parent / "input" / "empty"
    empty.mkdir()
    assert "holds no picture" in refusal(TRAIN, lambda: train(micro, folder="empty"))
    (empty / "one.png").write_bytes(b"no picture")
    assert "one.png: it cannot be read" in refusal(TRAIN, lambda: train(micro, folder="empty"))


def test_model_without_a_unet_and_a_vae_of_another_kind_are_refused(train, micro, wiring_model, refusal):
    assert "SD3" in refusal(TRAIN, lambda: train(wiring_model("sd3")))

    class Wide(kit.PlainVAE):
        def encode(self, pixels):
            return super().encode(pixels).repeat(1, 4, 1, 1)

    assert "16 channels" in refusal(TRAIN, lambda: train(micro, vae=Wide()))


def test_loss_that_is_not_a_number_ends_it(micro, train, refusal, folder):
    class Loud(kit.PlainVAE):
        def encode(self, pixels):
            return super().encode(pixels) * 1e30

    assert "learning_rate: the loss is" in refusal(TRAIN, lambda: train(micro, vae=Loud()))
    assert list(folder.iterdir()) == []


def test_lora_hook_on_the_prompt_is_refused(rig, micro, train, refusal):
    import comfy.hooks

    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.WeightHook())
    prompt = rig.runs.conditioning(1, hooks=group)
    assert "LoRA hook" in refusal(TRAIN, lambda: train(micro, positive=prompt))


# use


def inject(rig, model, injector, **given):
    module = importlib.import_module("stylization.nodes.attention.holistic")
    if "card" not in given:
        given.setdefault("reference", (rig.sharing.described(),))
    settings = {
        "strength": 1.0,
        "balance": "slider",
        "tone": 0.0,
        "mode": "moments",
        "layers": "all",
        "custom_layers": "",
        "negative_ratio": 1.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        **given,
    }
    return module.StylizeHolisticInjector.execute(model, **settings, injector=injector).result[0]


def test_trained_injector_acts_and_an_untrained_one_is_off(rig, nodes, micro, train):
    source = rig.runs.latent()
    plain = rig.ordinary.sample(micro, source)
    assert torch.equal(rig.ordinary.sample(inject(rig, micro, untrained(rig, nodes, micro)), source), plain)
    train(micro)
    kept = nodes.StylizeLoadHolisticInjector.execute("mine_00001_.safetensors").result[0]
    assert rig.runs.moved(rig.ordinary.sample(inject(rig, micro, kept), source), plain) > 1e-4


def test_injector_of_another_family_or_without_the_layers_is_refused(rig, nodes, micro, wiring_model, train):
    made = untrained(rig, nodes, micro)
    with pytest.raises(ValueError, match=f"{INJECT}, injector: it was trained with SD15, model is KOALA_700M"):
        inject(rig, wiring_model("sdxl"), made)
    with pytest.raises(ValueError, match=f"{INJECT}, injector: output.1.0 has 32 channels in it"):
        inject(rig, micro, TrainedInjector.untrained("SD15", {"output.1.0": 32}))
    with pytest.raises(ValueError, match=f"{INJECT}, injector: it was trained for none of the layers asked for"):
        inject(rig, micro, TrainedInjector.untrained("SD15", {"output.9.0": 64}))


def test_card_and_injector_are_refused_together(rig, nodes, micro):
    with pytest.raises(ValueError, match=f"{INJECT}, injector: a card is connected"):
        inject(rig, micro, untrained(rig, nodes, micro), card=((None, 1.0),))


def test_resumed_file_of_another_family_is_refused(micro, train, folder, refusal):
    folder.mkdir()
    made = TrainedInjector.untrained("SDXL", {"output.1.0": 64})
    made.save(folder / "other.safetensors")
    assert "trained with SDXL" in refusal(TRAIN, lambda: train(micro, resume="other.safetensors"))


def test_missing_file_is_refused(nodes, folder, refusal):
    assert "gone.safetensors" in refusal(LOAD, lambda: nodes.StylizeLoadHolisticInjector.execute("gone.safetensors"))


def test_list_leaves_out_what_only_a_training_needs(micro, train, nodes):
    import folder_paths

    train(micro, steps=1)
    folder_paths.filename_list_cache.pop(nodes.FOLDER, None)
    files = importlib.import_module("stylization.nodes.files")
    assert files.listed(nodes.FOLDER) == ["mine_00001_.safetensors"]


def test_infinite_ratio_is_the_highest_level():
    share = knot_shares(torch.tensor([math.inf]))
    assert share[0, -1] == 1
