"""StylizeTrainClassAdaptive and StylizeLoadClassAdaptive in process."""

from __future__ import annotations

import importlib

import pytest
import torch
from stylization.stylization_core.class_adapter import ClassAdapter
from stylization.stylization_core.trained_injector import TrainedInjector
from stylization_host import training_kit as kit

TRAIN, LOAD, USE = (
    "Stylize Train Class-Adaptive Attention",
    "Stylize Load Class-Adaptive Attention",
    "Stylize Class-Adaptive Attention",
)


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.training.class_adapter")


@pytest.fixture
def training(rig):
    return importlib.import_module("stylization.stylization_core.hosts.comfyui.training.loop")


@pytest.fixture
def objective(rig):
    return importlib.import_module("stylization.stylization_core.hosts.comfyui.training.class_adapter").ClassObjective


@pytest.fixture
def folder(nodes, tmp_path, monkeypatch):
    return kit.folders(monkeypatch, tmp_path, nodes.FOLDER)


@pytest.fixture
def train(rig, nodes, folder):
    def run(model, **given):
        settings = {**kit.SETTINGS, "tokens": 4, "filename_prefix": f"{nodes.FOLDER}/mine", **given}
        settings.setdefault("vae", kit.PlainVAE())
        settings.setdefault("positive", rig.runs.conditioning(1))
        with torch.inference_mode():
            return nodes.StylizeTrainClassAdaptive.execute(model, **settings).result[0]

    return run


@pytest.fixture
def regional(rig):
    module = importlib.import_module("stylization.nodes.attention.regions")

    def run(model, adapter=None, **given):
        upper = torch.zeros(1, 96, 80)
        upper[:, :48] = 1
        references = rig.sharing.described(), rig.sharing.described(draw=33)
        pairs = zip((upper, 1 - upper), references, strict=True)
        settings = {
            "strength": 1.0,
            "mode": "attention",
            "adaptivity": 5.0,
            "tokens": 4,
            "feather": 0.0,
            "layers": "all",
            "custom_layers": "",
            "negative_ratio": 1.0,
            "start_percent": 0.0,
            "end_percent": 1.0,
            **given,
        }
        regions = tuple(rig.attention_settings.Region(mask, (one,)) for mask, one in pairs)
        return module.StylizeClassAdaptiveAttention.execute(model, regions, **settings, adapter=adapter).result[0]

    return run


def weights(adapter) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in adapter.parameters().items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def untrained(rig, model):
    places = rig.layers.self_attention_layers(model.model.diffusion_model)
    return ClassAdapter.untrained("SD15", {str(layer): place.width for layer, place in places.items()}, 7)


def test_training_writes_what_it_returns(rig, micro, train, folder):
    made = train(micro, steps=6)
    assert made.steps == 6 and made.family == "SD15"
    assert same(weights(ClassAdapter.load(folder / "mine_00001_.safetensors")), weights(made))
    start = weights(untrained(rig, micro))
    moved = {name for name, value in weights(made).items() if not torch.equal(value, start[name])}
    assert {name for name in start if name.endswith("_up.weight")} <= moved


def test_loss_of_a_fixed_batch_falls(micro, train, training, monkeypatch):
    losses = []
    monkeypatch.setattr(training, "stream", lambda seed, purpose: torch.Generator().manual_seed(5))
    monkeypatch.setattr(training.TrainingSampler, "_compared", lambda self, frozen: losses.extend(self.losses) or 0.0)
    train(micro, steps=6)
    assert len(losses) == 6 and all(later < earlier for earlier, later in zip(losses[:-1], losses[1:], strict=True))


def test_first_loss_is_that_of_the_attention_without_training(micro, train, objective, monkeypatch):
    """Idle stands for the adapter left out, the loss of logits apart."""
    seen, loss = [], objective.loss

    def both(self, frozen, draws, *, idle=False):
        if not seen:
            state = draws.get_state()
            for idle in (False, True):
                draws.set_state(state)
                with torch.no_grad():
                    seen.append(float(loss(self, frozen, draws, idle=idle)()))
            draws.set_state(state)
        return loss(self, frozen, draws, idle=idle)

    monkeypatch.setattr(objective, "loss", both)
    train(micro, steps=1, seed=1)
    assert seen[0] == seen[1]


def test_batch_without_any_tokens_changes_nothing(rig, micro, train, objective, monkeypatch):
    seen = objective._seen

    def dropped(self, frozen, noised, sigmas, areas, kept):
        return seen(self, frozen, noised, sigmas, areas, [[False] * len(row) for row in kept])

    monkeypatch.setattr(objective, "_seen", dropped)
    made = train(micro)
    assert made.steps == 4 and same(weights(made), weights(untrained(rig, micro)))


def test_dropped_classes_have_no_tokens(micro, train, objective, monkeypatch):
    """Over a few batches some are dropped and most are not."""
    found, seen = [], objective._seen

    def note(self, *args):
        found.append(seen(self, *args))
        return found[-1]

    monkeypatch.setattr(objective, "_seen", note)
    train(micro, steps=12, batch_size=4)
    flags = [one is not None for each in found for one in sum(next(iter(each.values())), [])]
    assert 0.2 < sum(flags) / len(flags) < 0.95


def test_interrupt_saves_and_resuming_gives_the_same_bits(rig, micro, train, training, folder, monkeypatch):
    whole = weights(train(micro, filename_prefix="style_class_adapters/whole"))
    with monkeypatch.context() as patch:
        kit.interrupted_at(patch, training, 2)
        with pytest.raises(rig.model_management.InterruptProcessingException):
            train(micro)
    reached = ClassAdapter.load(folder / "mine_00001_.safetensors")
    assert reached.steps == 2 and not same(weights(reached), whole)
    assert same(weights(train(micro, resume="mine_00001_.safetensors")), whole)


def test_loaded_model_is_left_alone(rig, micro, train):
    source = rig.runs.latent()
    plain, before = rig.ordinary.sample(micro, source), rig.leaks.state(micro)
    train(micro, steps=2)
    assert rig.leaks.state(micro) == before
    assert torch.equal(rig.ordinary.sample(micro, source), plain)


# use


def test_untrained_adapter_changes_nothing_and_a_trained_one_acts(rig, nodes, micro, train, regional):
    source = rig.runs.latent()
    without = rig.ordinary.sample(regional(micro), source)
    assert torch.equal(rig.ordinary.sample(regional(micro, untrained(rig, micro)), source), without)
    train(micro)
    kept = nodes.StylizeLoadClassAdaptive.execute("mine_00001_.safetensors").result[0]
    adapted = rig.ordinary.sample(regional(micro, kept), source)
    assert rig.runs.moved(adapted, without) > 1e-5
    assert torch.equal(
        rig.ordinary.sample(regional(micro, kept, strength=0.0), source), rig.ordinary.sample(micro, source)
    )


def test_rows_do_not_depend_on_the_layout(rig, micro, train, regional, monkeypatch):
    model, source = regional(micro, train(micro)), rig.runs.latent()
    allowed = 4 * rig.runs.layout_tolerance(micro, rig.runs.pair(), source) + 1e-5
    together = rig.ordinary.one_step(model, source)
    rig.runs.split_calls(monkeypatch, micro)
    assert rig.runs.moved(rig.ordinary.one_step(model, source), together) <= allowed


def test_bad_adapters_are_refused(rig, micro, regional, wiring_model, folder, nodes, refusal):
    made = untrained(rig, micro)
    with pytest.raises(ValueError, match=f"{USE}, adapter: it was trained with SD15, model is KOALA_700M"):
        regional(wiring_model("sdxl"), made)
    with pytest.raises(ValueError, match=f"{USE}, adapter: it was trained for the mode attention"):
        regional(micro, made, mode="holistic")
    with pytest.raises(ValueError, match=f"{USE}, adapter: it was trained for none of the layers"):
        regional(micro, ClassAdapter.untrained("SD15", {"output.9.0": 64}))
    assert "gone.safetensors" in refusal(LOAD, lambda: nodes.StylizeLoadClassAdaptive.execute("gone.safetensors"))
    folder.mkdir()
    TrainedInjector.untrained("SD15", {"output.1.0": 64}).save(folder / "other.safetensors")
    message = refusal(LOAD, lambda: nodes.StylizeLoadClassAdaptive.execute("other.safetensors"))
    assert "it is no file of Stylize Train Class-Adaptive Attention" in message


def test_bad_input_of_the_training_names_its_node(micro, train, refusal):
    assert "no folder 'nowhere'" in refusal(TRAIN, lambda: train(micro, folder="nowhere"))
