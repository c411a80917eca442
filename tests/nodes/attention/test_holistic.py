"""StylizeHolisticInjector and the style card nodes in process."""

from __future__ import annotations

import importlib

import pytest
import torch

INJECTOR, SAVE, LOAD = "Stylize Holistic Injector", "Stylize Save Style Card", "Stylize Load Style Card"


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.attention.holistic")


@pytest.fixture(scope="module")
def cards(pack_nodes):
    return importlib.import_module("stylization.nodes.attention.style_cards")


@pytest.fixture
def inject(rig, nodes):
    def run(model, **given):
        if not {"reference", "card"} & set(given):
            given["reference"] = (rig.sharing.described(),)
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
        return nodes.StylizeHolisticInjector.execute(model, **settings).result[0]

    return run


@pytest.fixture
def folder(cards, tmp_path, monkeypatch):
    """Output and card folders of one test."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, cards.FOLDER, ([str(tmp_path / cards.FOLDER)], {".safetensors"})
    )
    folder_paths.filename_list_cache.pop(cards.FOLDER, None)
    return tmp_path / cards.FOLDER


@pytest.fixture
def saved(rig, cards, folder):
    """A card of a model, saved."""

    def run(model, **given):
        settings = {
            "reference": (rig.sharing.described(),),
            "positive": rig.runs.conditioning(1),
            "negative": rig.runs.conditioning(2),
            "filename_prefix": f"{cards.FOLDER}/mine",
            "mode": "moments",
            "levels": 6,
            "layers": "all",
            "custom_layers": "",
            **given,
        }
        with torch.inference_mode():
            return cards.StylizeSaveStyleCard.execute(model, **settings).result[0]

    return run


def loaded(cards, name="mine_00001_.safetensors", weight=1.0, previous=None):
    return cards.StylizeLoadStyleCard.execute(name, weight, previous).result[0]


# the injector


def test_strength_zero_is_the_model_itself(micro, inject):
    assert inject(micro, strength=0.0) is micro


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reference": None, "card": None}, "reference: neither"),
        ({"layers": "custom", "custom_layers": "output.99"}, "custom_layers.*output.99"),
    ],
)
def test_bad_input_is_refused(micro, inject, given, words):
    with pytest.raises(ValueError, match=f"{INJECTOR}, {words}"):
        inject(micro, **given)


def test_reference_of_other_channels_is_refused(rig, micro, inject):
    with pytest.raises(ValueError, match=f"{INJECTOR}, reference: it has 16 channels"):
        inject(micro, reference=(rig.sharing.reference(1, 16, 8, 8),))


def test_model_without_a_unet_is_refused(inject, wiring_model):
    with pytest.raises(ValueError, match=f"{INJECTOR}, model.*SD3"):
        inject(wiring_model("sd3"))


# cards


@pytest.mark.parametrize("mode", ["moments", "quantiles"])
def test_card_does_what_its_reference_does(rig, micro, inject, cards, saved, mode):
    """At a level of the card itself; half precision is the difference."""
    reference = (rig.sharing.described(),)
    made = saved(micro, reference=reference, mode=mode)
    (card, _), *_ = kept = loaded(cards)
    assert made[0][0].names() == card.names()
    source, positive = rig.runs.latent(), rig.runs.pair()["positive"]
    level = card.levels[2]
    results = [
        rig.runs.plain(inject(micro, mode=mode, **given), {"positive": positive}, source, level)["positive"]
        for given in ({"reference": reference}, {"card": made}, {"card": kept})
    ]
    plain = rig.runs.plain(micro, {"positive": positive}, source, level)["positive"]
    whole = rig.runs.moved(results[0], plain)
    assert rig.runs.moved(results[1], results[0]) < 1e-4 < 0.05 < whole
    assert rig.runs.moved(results[2], results[0]) < 0.05 * whole


def test_levels_are_the_schedules(micro, saved):
    (card, _), *_ = saved(micro, levels=4)
    sampling = micro.get_model_object("model_sampling")
    wanted = sorted(float(sampling.percent_to_sigma(p)) for p in (0.125, 0.375, 0.625, 0.875))
    assert card.levels == pytest.approx(wanted)


def test_file_is_never_overwritten(micro, saved, folder):
    saved(micro)
    saved(micro)
    assert len(list(folder.glob("mine_*.safetensors"))) == 2


def test_layers_of_the_card_are_those_injected(micro, inject, saved):
    made = saved(micro, layers="style block")
    (layers,) = {one.layers for one in inject(micro, card=made).get_attachment("stylization.holistic")}
    assert {str(layer) for layer in layers} == set(made[0][0].names())
    with pytest.raises(ValueError, match=f"{INJECTOR}, card: it holds none of the layers"):
        inject(micro, card=made, layers="custom", custom_layers="input.1")


def test_card_of_another_family_is_refused(micro, inject, saved, wiring_model):
    made = saved(micro)
    with pytest.raises(ValueError, match=f"{INJECTOR}, card: it was made with SD15, model is (?!SD15)"):
        inject(wiring_model("sdxl"), card=made)


def test_quantiles_need_a_card_with_quantiles(micro, inject, saved):
    with pytest.raises(ValueError, match=f"{INJECTOR}, mode: the card was saved with moments"):
        inject(micro, card=saved(micro), mode="quantiles")


def test_chained_cards_are_mixed_by_their_weights(rig, micro, inject, cards, saved):
    saved(micro)
    saved(micro, reference=(rig.sharing.described(draw=33),))
    both = loaded(cards, "mine_00002_.safetensors", 1.0, loaded(cards, weight=3.0))
    (settings,) = inject(micro, card=both).get_attachment("stylization.holistic")
    one, other = (loaded(cards, f"mine_0000{k}_.safetensors")[0][0] for k in (1, 2))
    key = next(iter(one.layers))
    torch.testing.assert_close(
        settings.card.layers[key].mean, 0.75 * one.layers[key].mean + 0.25 * other.layers[key].mean
    )
    with pytest.raises(ValueError, match="sum is 0"):
        inject(micro, card=loaded(cards, "mine_00002_.safetensors", -3.0, loaded(cards, weight=3.0)))


def test_missing_file_and_weights_of_zero_are_refused(rig, micro, cards, saved, folder):
    with pytest.raises(ValueError, match=f"{LOAD}, card_name: 'none.safetensors' is not among its choices"):
        loaded(cards, "none.safetensors")
    with pytest.raises(ValueError, match=f"{SAVE}, reference: all weights are 0"):
        saved(micro, reference=(rig.sharing.described(weight=0.0),))


def test_card_is_of_the_plain_model(rig, micro, inject, saved):
    """What our nodes do on the MODEL is for the pictures."""
    plain, loud = saved(micro)[0][0], saved(inject(micro))[0][0]
    key = next(iter(plain.layers))
    assert torch.equal(plain.layers[key].mean, loud.layers[key].mean)
