"""Sharing does not depend on how ComfyUI lays predictions out in model calls, nor on how many a guider asks for."""

from __future__ import annotations

import pytest
import torch


def spread(rig, results: list[torch.Tensor]) -> float:
    return max(rig.runs.moved(one, results[0]) for one in results[1:])


def rounding(rig, monkeypatch, model, source, run) -> tuple[torch.Tensor, float]:
    """The unpatched model's estimate, and how far layouts of its calls differ: together, split, picture by picture."""
    noise = rig.ordinary.unit_noise(source)
    rows = [slice(row, row + 1) for row in range(len(source))]
    call = lambda: rig.ordinary.one_step(model, source, noise=noise, **run())  # noqa: E731
    results = rig.sharing.by_layout(monkeypatch, model, call)
    with monkeypatch.context() as patch:
        rig.runs.split_calls(patch, model)
        alone = [rig.ordinary.one_step(model, source[row], noise=noise[row], **run()) for row in rows]
    return results[0], spread(rig, [*results, torch.cat(alone)])


def pair(rig) -> dict:
    return {"conditionings": rig.runs.pair()}


def without_guidance(rig) -> dict:
    return {"cfg": 1.0}


def combined(rig) -> dict:
    """Three chunks whose indexes are 1, 0, 0."""
    return {
        "conditionings": {"positive": rig.runs.conditioning(1) + rig.runs.conditioning(5), "negative": negative(rig)}
    }


def negative(rig) -> list:
    return rig.runs.conditioning(2)


def areas(rig) -> dict:
    """A prompt for the whole, one for an area, one for a mask; calls of different sizes."""
    mask = torch.zeros(1, 96, 80)
    mask[:, 48:] = 1.0
    runs = rig.runs
    placed = runs.conditioning(5, area=(8, 8, 2, 1), strength=0.8) + runs.conditioning(6, mask=mask, mask_strength=0.7)
    return {"conditionings": {"positive": runs.conditioning(1) + placed, "negative": negative(rig)}}


def token_lengths(rig) -> dict:
    """Prompts that ComfyUI cannot put into one call."""
    return {"conditionings": {"positive": rig.runs.conditioning(1, tokens=9), "negative": negative(rig)}}


KINDS = (pair, without_guidance, combined, areas, token_lengths)


def forms(rig, model) -> dict:
    mask = torch.linspace(0, 1, 96).view(1, 96, 1).expand(1, 96, 80)
    return {
        "references": rig.sharing.shared(model, norms=True),
        "positive and mask": rig.sharing.shared(model, both=False, mask=mask, weight=2.0),
        "two nodes": rig.sharing.shared(
            rig.sharing.shared(model, mask=mask), rig.sharing.described(draw=25), both=False, layers="style block"
        ),
        "batch": rig.sharing.in_batch(model, norms=True),
        "full": rig.sharing.in_batch(model, full=True),
        "batch and references": rig.sharing.in_batch(rig.sharing.shared(model), both=False, weight=2.0),
    }


def paired_tolerance(rig, model, prompts: dict, x: torch.Tensor) -> float:
    """How far the plain model's predictions for two prompts differ between one call and two."""
    together, apart = (rig.runs.plain(model, prompts, x, together=both) for both in (True, False))
    return max(rig.runs.moved(together[key], apart[key]) for key in prompts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_layout_of_the_calls_does_not_matter(rig, micro, monkeypatch, kind, batch):
    source, run = rig.runs.latent(3, 4, 12, 10)[:batch], lambda: kind(rig)
    plain, tolerance = rounding(rig, monkeypatch, micro, source, run)
    assert tolerance < 1e-4 and (batch == 1 or tolerance > 0)
    # references are asked in rows of their own, which the plain model rounds in the same way
    described = rig.sharing.described()
    prompts = {"positive": described.positive, "negative": described.negative}
    own = paired_tolerance(rig, micro, prompts, rig.sharing.noised(micro, described))
    # and never less than one rounding of the largest value
    tolerance = max(tolerance, own, float(torch.finfo(torch.float32).eps * plain.abs().max()))
    for name, model in forms(rig, micro).items():
        results = rig.sharing.by_layout(monkeypatch, micro, lambda: rig.ordinary.one_step(model, source, **run()))  # noqa: B023
        assert spread(rig, results) <= 4 * tolerance, name
        alone = batch == 1 and name in ("batch", "full")
        assert (rig.runs.moved(results[0], plain) > max(1e-3, 100 * tolerance)) is not alone, name


@pytest.mark.parametrize("kind", [pair, areas])
def test_picture_by_picture_is_the_whole_batch(rig, micro, monkeypatch, kind):
    """A reference from outside acts on each picture as if it were alone."""
    source, run = rig.runs.latent(3, 4, 12, 10), lambda: kind(rig)
    noise = rig.ordinary.unit_noise(source)
    _, tolerance = rounding(rig, monkeypatch, micro, source, run)
    model = rig.sharing.shared(micro, norms=True)
    together = rig.ordinary.one_step(model, source, noise=noise, **run())
    for row in range(3):
        rows = slice(row, row + 1)
        alone = rig.ordinary.one_step(model, source[rows], noise=noise[rows], **run())
        assert rig.runs.moved(alone, together[rows]) <= 4 * tolerance


# guiders with three prompts


def dual(rig, model, nested: bool):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    prompts = (rig.runs.conditioning(seed) for seed in (1, 4, 2))
    return rig.sharing.guider(Guider_DualCFG, model, *prompts, cfg1=3.0, cfg2=2.0, nested=nested)


def perp_neg(rig, model):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    prompts = (rig.runs.conditioning(seed) for seed in (1, 2, 4))
    return rig.sharing.guider(Guider_PerpNeg, model, *prompts, cfg=4.5, neg_scale=1.0)


GUIDERS = {
    # half of the reference that each prompt in turn should meet; seeds of the prompts in the order of the question
    "dual": (lambda rig, model: dual(rig, model, False), {2: 1, 4: 0, 1: 0}),
    "nested": (lambda rig, model: dual(rig, model, True), {2: 1, 4: 0, 1: 0}),
    "perp-neg": (perp_neg, {1: 0, 2: 1, 4: 1}),
}


@pytest.mark.parametrize("kind", GUIDERS)
@pytest.mark.parametrize("form", ["references", "positive half", "batch"])
def test_each_of_three_prompts_meets_its_half(rig, micro, calls, kind, form):
    """Its prediction is that of an ordinary run in which it is the positive or the negative prompt."""
    make, halves = GUIDERS[kind]
    source = rig.runs.latent(3, 4, 12, 10)
    models = {
        "references": lambda model: rig.sharing.shared(model),
        "positive half": lambda model: rig.sharing.shared(model, both=False),
        "batch": lambda model: rig.sharing.in_batch(model, both=False),
    }
    model, seen = rig.sharing.note_predictions(models[form](micro))
    rig.ordinary.one_step(None, source, guider=make(rig, model))
    ((_, found),) = seen
    assert len(found) == 3
    for (seed, half), prediction in zip(halves.items(), found, strict=True):
        asked = {"positive": rig.runs.conditioning(seed), "negative": rig.runs.conditioning(9)}
        if half:
            asked = {"positive": asked["negative"], "negative": asked["positive"]}
        expected = rig.sharing.predictions(models[form](micro), source, conditionings=asked)[half]
        assert rig.runs.moved(prediction, expected) < 1e-4
        other = rig.sharing.predictions(
            models[form](micro), source, conditionings={"positive": asked["negative"], "negative": asked["positive"]}
        )[1 - half]
        assert rig.runs.moved(other, expected) > 1e-2


def test_guider_with_a_single_prompt(rig, micro):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(rig.sharing.shared(micro))
    guider.set_conds(rig.runs.conditioning(1))
    found = rig.ordinary.one_step(None, rig.runs.latent(), guider=guider)
    expected = rig.ordinary.one_step(rig.sharing.shared(micro), rig.runs.latent(), cfg=1.0)
    assert torch.equal(found, expected)


def test_batch_that_a_node_regroups_is_an_error_that_says_so(rig, micro):
    """A wrapper that lets three rows through as two predictions."""
    regrouped = rig.sharing.shared(micro)

    def regroup(executor, x, t, *others, **named):
        return executor(x[:3], t[:3], others[0], others[1][:3], *others[2:], **named).repeat(2, 1, 1, 1)[:4]

    regrouped.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.regroup", regroup)
    with pytest.raises(ValueError, match="3 rows for 2 predictions of 2 pictures.*Remove that node"):
        rig.ordinary.one_step(regrouped, rig.runs.latent())
