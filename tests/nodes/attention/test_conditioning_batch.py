"""StylizeConditioningBatch in process."""

from __future__ import annotations

import importlib

import pytest
import torch

NODE = "Stylize Conditioning Batch"


@pytest.fixture(scope="module")
def node(pack_nodes):
    return importlib.import_module("stylization.nodes.attention.conditioning_batch").StylizeConditioningBatch


@pytest.fixture
def batch(node):
    """The CONDITIONING of a chain of nodes, one per prompt."""

    def chain(*prompts):
        found = None
        for prompt in prompts:
            found = node.execute(prompt, found)[0]
        return found

    return chain


def prompts(rig, *tokens: int, width: int = 64, pooled: int = 0) -> list:
    return [rig.runs.conditioning(index, width, pooled, tokens=count) for index, count in enumerate(tokens, 1)]


def test_one_prompt_is_passed_on(rig, node):
    prompt = rig.runs.conditioning(1)
    assert node.execute(prompt)[0] is prompt


def test_rows_and_pooled_outputs_are_in_order(rig, batch):
    given = prompts(rig, 7, 7, 7, pooled=32)
    kept = [[one[0][0].clone(), dict(one[0][1])] for one in given]
    ((tokens, entries),) = batch(*given)
    assert torch.equal(tokens, torch.cat([one[0][0] for one in given]))
    assert torch.equal(entries["pooled_output"], torch.cat([one[0][1]["pooled_output"] for one in given]))
    for ((one, others),), (before, options) in zip(given, kept, strict=True):
        assert torch.equal(one, before) and others.keys() == options.keys()
        assert others["pooled_output"] is options["pooled_output"]


@pytest.mark.parametrize("lengths", [(77, 154), (6, 4), (4, 6), (6, 4, 9)])
def test_lengths_are_met_by_whole_repetitions(rig, batch, lengths):
    import math

    given = prompts(rig, *lengths)
    ((tokens, _),) = batch(*given)
    whole = math.lcm(*lengths)
    assert tokens.shape == (len(lengths), whole, 64)
    for row, ((one, _),), length in zip(tokens, given, lengths, strict=True):
        assert torch.equal(row, one[0].repeat(whole // length, 1))


def test_what_all_prompts_have_alike_is_kept(rig, batch):
    """Also where one of them says what the other means without saying it."""
    hooks, mask = object(), torch.ones(1, 96, 80)
    common = {"guidance": 3.0, "hooks": hooks, "area": (4, 4, 0, 0), "gligen": ("position", hooks, [mask, (1, 2)])}
    one = rig.runs.conditioning(1, **common, mask=mask, end_percent=0.5)
    two = rig.runs.conditioning(2, **common, mask=mask.clone(), end_percent=0.5, strength=1.0, start_percent=0.0)
    ((_, entries),) = batch(one, two)
    assert entries == {**common, "mask": mask, "end_percent": 0.5}


OF_ALL = {
    "hooks": (object(), "its hooks (LoRAs, say) are"),
    "start_percent": (0.5, "its time range is"),
    "end_percent": (0.5, "its time range is"),
    "mask": (torch.ones(1, 96, 80), "its mask is"),
    "area": ((4, 4, 0, 0), "its area is"),
    "strength": (0.5, "its strength is"),
    "height": (1024, "its size is"),
    "target_height": (1024, "its target size is"),
    "concat_mask": (torch.ones(1, 1, 96, 80), "the mask that it shows an inpainting model is"),
    "gligen": (("position", None, []), "its entry 'gligen' is"),
    "whatever": ({"a": [1]}, "its entry 'whatever' is"),
}


@pytest.mark.parametrize("side", ["first", "second", "other"])
@pytest.mark.parametrize("key", OF_ALL)
def test_what_prompts_cannot_have_each_for_themselves_is_refused(rig, refusal, node, key, side):
    """The second's were dropped, and the first's acted on all pictures."""
    value, named = OF_ALL[key]
    plain, given = rig.runs.conditioning(1), rig.runs.conditioning(2, **{key: value})
    pair = {"first": (plain, given), "second": (given, plain)}.get(side)
    if pair is None:
        other = value * 0.5 if isinstance(value, (float, torch.Tensor)) else object()
        pair = rig.runs.conditioning(1, **{key: other}), given
    message = refusal(NODE, lambda: node.execute(*pair))
    assert message.startswith(f"{NODE}, conditioning: {named} not that of previous, and a batch has one for all. Batch")


def test_controls_of_the_prompts_before_stay(rig, node):
    control = object()
    first = rig.runs.conditioning(1, control=control, control_apply_to_uncond=True)
    ((_, entries),) = node.execute(rig.runs.conditioning(2), first)[0]
    assert entries == {"control": control, "control_apply_to_uncond": True}


@pytest.mark.parametrize("lengths", [(7, 7), (6, 4)])
def test_each_picture_is_that_of_a_run_with_its_prompt(rig, batch, micro, lengths):
    source, noise = rig.runs.latent(), rig.runs.drawn(2, 4, 12, 10, seed=12)
    given, negative = prompts(rig, *lengths), rig.runs.conditioning(9, tokens=lengths[0])
    asked = {"positive": batch(*given), "negative": batch(negative, negative)}
    found = rig.ordinary.sample(micro, source, noise=noise, conditionings=asked)
    for row, prompt in enumerate(given):
        rows = slice(row, row + 1)
        pair = {"positive": prompt, "negative": negative}
        alone = rig.ordinary.sample(micro, source[rows], noise=noise[rows], conditionings=pair)
        assert rig.runs.moved(found[rows], alone) < 1e-4
    other = {"positive": given[0], "negative": negative}
    assert rig.runs.moved(rig.ordinary.sample(micro, source, noise=noise, conditionings=other)[1], found[1]) > 1e-2


def test_sdxl_takes_pooled_outputs_by_row(rig, batch, wiring_model):
    model, source = wiring_model("sdxl"), rig.runs.latent(2, 4, 8, 8)
    given = prompts(rig, 7, 7, width=2048, pooled=1280)
    found = rig.runs.plain(model, {"positive": batch(*given)}, source)["positive"]
    for row, prompt in enumerate(given):
        alone = rig.runs.plain(model, {"positive": prompt}, source[[row]])["positive"]
        assert rig.runs.moved(found[[row]], alone) < 1e-4
    ((tokens, entries),) = batch(*given)
    swapped = [[tokens, {"pooled_output": entries["pooled_output"].flip(0)}]]
    assert rig.runs.moved(rig.runs.plain(model, {"positive": swapped}, source)["positive"], found) > 1e-3


def test_series_with_a_prompt_for_each_picture(rig, pack_nodes, batch, micro):
    """The first picture stays what it is alone, the others change with its style."""
    given, source = prompts(rig, 7, 7, 7), rig.runs.latent(3, 4, 12, 10)
    noise = rig.ordinary.unit_noise(source)
    asked = {"positive": batch(*given), "negative": rig.runs.conditioning(9)}
    plain, found = (
        rig.ordinary.sample(model, source, conditionings=asked) for model in (micro, rig.sharing.in_batch(micro))
    )
    assert torch.equal(found[0], plain[0]) and all(rig.runs.moved(found[row], plain[row]) > 1e-2 for row in (1, 2))
    pair = {"positive": given[0], "negative": asked["negative"]}
    assert rig.runs.moved(rig.ordinary.sample(micro, source[:1], noise=noise[:1], conditionings=pair), found[:1]) < 1e-4


# what is refused


def refused(rig, case: str) -> tuple:
    """(conditioning, previous) and the beginning of the message."""
    one = rig.runs.conditioning
    pooled, control = one(1, pooled=32), one(2, control=object())
    masked = one(1, tokens=5, attention_mask=torch.ones(1, 5))
    return {
        "several": (one(1) + one(2), one(3), "conditioning: it combines 2 prompts. Batch plain prompts"),
        "several before": (one(1), one(2) + one(3), "previous: it combines 2 prompts. Batch plain prompts"),
        "several alone": (one(1) + one(2), None, "conditioning: it combines 2 prompts. Batch plain prompts"),
        "none": ([], one(1), "conditioning: there is no prompt in it. Connect CLIP Text Encode"),
        "control": (control, one(1), "conditioning: a ControlNet is applied to it. Apply ControlNets behind"),
        "width": (one(1, width=32), one(2), "conditioning: its text features have 32 channels, those of previous 64."),
        "pooled": (pooled, one(2), "conditioning: only one of the prompts has 'pooled_output'. Encode all prompts"),
        "pooled before": (one(2), pooled, "conditioning: only one of the prompts has 'pooled_output'."),
        "masked": (masked, one(2), "conditioning: it has 5 tokens, previous 7, and this text encoder masks them."),
    }[case]


@pytest.mark.parametrize(
    "case",
    ["several", "several before", "several alone", "none", "control", "width", "pooled", "pooled before", "masked"],
)
def test_refusals(rig, refusal, node, case):
    conditioning, previous, expected = refused(rig, case)
    assert refusal(NODE, lambda: node.execute(conditioning, previous)).startswith(f"{NODE}, {expected}")


def test_masks_of_equal_length_are_joined(rig, batch):
    given = [rig.runs.conditioning(seed, attention_mask=torch.full((1, 7), float(seed))) for seed in (1, 2)]
    ((_, entries),) = batch(*given)
    assert entries["attention_mask"][:, 0].tolist() == [1.0, 2.0]
