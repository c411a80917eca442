"""StylizeRelevanceMap in process."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from PIL import Image

NODE = "Stylize Relevance Map"


@pytest.fixture(scope="module")
def relevance(pack_nodes):
    return importlib.import_module("stylization.nodes.sms.relevance_map")


@pytest.fixture
def execute(rig, relevance, temp):
    """Runs the node as ComfyUI does; returns its NodeOutput."""

    def run(model, samples=None, **given):
        arguments = {
            "latent_image": {"samples": picture(rig) if samples is None else samples},
            "edit": rig.runs.pair()["positive"],
            "empty": rig.runs.pair()["negative"],
            "seed": 3,
            "noises": 1,
            "floor": 0.0,
            "clip": 2.0,
            "blur": 0.7,
            **given,
        }
        with torch.inference_mode():
            return relevance.StylizeRelevanceMap.execute(model, **arguments)

    return run


@pytest.fixture
def mapped(execute):
    """The MASK."""
    return lambda *args, **given: execute(*args, **given)[0]


def picture(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (1, 4, 12, 10)), seed=11)


@pytest.mark.parametrize("shape", [(1, 4, 12, 10), (2, 4, 13, 9)])
def test_mask_has_the_size_of_the_picture(rig, mapped, micro, shape):
    found = mapped(micro, picture(rig, *shape))
    assert found.shape == (shape[0], 8 * shape[2], 8 * shape[3]) and found.dtype == torch.float32


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_mask_lies_between_its_floor_and_one(mapped, micro, floor):
    found = mapped(micro, floor=floor)
    assert floor - 1e-6 <= found.min() < floor + 0.1 and 0.9 < found.max() <= 1 + 1e-6


def test_same_seed_same_mask(rig, mapped, micro):
    state = torch.get_rng_state()
    first = mapped(micro)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, mapped(micro))
    assert not torch.equal(first, mapped(micro, seed=4))
    # the map of StylizeSMS, whose inputs it shares, at the size of the latent
    edit, levels = rig.runs.pair(), rig.noise_levels.Levels(micro.get_model_object("model_sampling"))

    def ask(guider, options):
        source = guider.inner_model.process_latent_in(picture(rig))
        conds = guider.conds["positive"], guider.conds["negative"]
        pair = lambda x, sigma: rig.relevance_map.ask_pair(guider.inner_model, *conds, x, sigma, options)  # noqa: E731
        return rig.relevance_map.precomputed(source, 3, levels, pair, floor=0.0)

    own = rig.runs.inside(micro, edit, picture(rig), ask)[:, 0]
    assert torch.equal(first, torch.nn.functional.interpolate(own[None], scale_factor=8.0, mode="bilinear")[0])


@pytest.mark.parametrize("given", [{"noises": 3}, {"clip": 20.0}, {"blur": 3.0}, {"blur": 0.0}])
def test_inputs_change_the_mask(mapped, micro, given):
    assert (mapped(micro) - mapped(micro, **given)).abs().max() > 0.02


@pytest.mark.parametrize("noises", [1, 3])
def test_cost_is_eight_rows_for_each_noise(rig, mapped, micro, noises):
    recorded, calls = rig.runs.recording(micro)
    mapped(recorded, noises=noises)
    assert [rows for _, _, rows in calls] == [2] * 4 * noises


def test_mask_is_bright_where_the_prompts_differ(rig, mapped, micro):
    def left_half(apply_model, call):
        result = apply_model(call["input"], call["timestep"], **call["c"])
        for chunk, polarity in zip(result.chunk(len(call["cond_or_uncond"])), call["cond_or_uncond"], strict=True):
            if polarity == 0:
                chunk[..., :5] += 3.0
        return result

    changed = micro.clone()
    changed.set_model_unet_function_wrapper(left_half)
    found = mapped(changed)
    assert found[..., :32].min() > 0.5 > found[..., 48:].max()


def test_equal_prompts_give_a_white_mask(rig, mapped, micro):
    assert mapped(micro, empty=rig.runs.pair()["positive"]).min() == 1.0


def test_preview_is_the_mask(execute, micro, temp):
    output = execute(micro)
    (shown,) = output.ui.as_dict()["images"]
    assert shown["type"] == "temp"
    with Image.open(Path(temp) / shown["subfolder"] / shown["filename"]) as image:
        assert image.size == (80, 96)
        grey = torch.tensor(list(image.convert("L").getdata())).reshape(96, 80) / 255
    assert (grey - output[0][0]).abs().max() < 0.01


def test_refiner_and_sms_take_the_mask(rig, pack_nodes, mapped, ksampler, micro):
    mask, samples = mapped(micro), picture(rig)
    window = {"start_percent": 0.0, "end_percent": 1.0}
    refined = pack_nodes.StylizeSemanticRefiner.execute(micro, floor=0.0, map="precomputed", **window, mask=mask)[0]
    result = ksampler(refined, samples)
    assert result.shape == samples.shape and not torch.equal(result, ksampler(micro, samples))
    assert rig.sms_sampler.latent_mask(mask, samples).shape == (1, 1, 12, 10)


def test_nothing_is_left_on_the_model(rig, mapped, micro):
    before, samples = rig.leaks.state(micro), picture(rig)
    mapped(micro, samples)
    assert rig.leaks.state(micro) == before and torch.equal(samples, picture(rig))


def broken(rig) -> torch.Tensor:
    samples = picture(rig)
    samples[0, 0, 0, 0] = float("inf")
    return samples


BAD_INPUT = {
    "infinite": (broken, "1 of its 480 values are NaN or infinite"),
    "empty": (lambda rig: torch.zeros(1, 4, 8, 8), "it is empty"),
    "channels": (lambda rig: picture(rig, 1, 16, 8, 8), "it has 16 channels, latents of model have 4"),
    "video": (lambda rig: torch.ones(1, 4, 2, 8, 8), "it holds (1, 4, 2, 8, 8)"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_names_node_input_finding_and_remedy(rig, refusal, execute, micro, case):
    samples, expected = BAD_INPUT[case]
    message = refusal(NODE, lambda: execute(micro, samples(rig)))
    assert message.startswith(f"{NODE}, latent_image: {expected}")


def test_refused_family_is_named(rig, refusal, execute, wiring_model):
    message = refusal(NODE, lambda: execute(wiring_model("wan"), picture(rig, 1, 16, 8, 8)))
    assert message.startswith(f"{NODE}, model: the model family WAN21")
