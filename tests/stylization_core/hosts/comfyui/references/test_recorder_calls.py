"""References that run alone beside a sampling run: how often they run, and who sees it."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_sde"])
def test_reference_runs_once_at_each_level(rig, micro, monkeypatch, sampler, cfg):
    """A second question at a level (heun, PAG and the like) finds the record of the first."""
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    reference, asked = rig.sharing.described(), rig.sharing.asked(monkeypatch, micro)
    model = PerturbedAttentionGuidance.execute(rig.sharing.shared(micro, reference), 2.0)[0]
    rig.ordinary.sample(model, rig.runs.latent(), sampler=sampler, cfg=cfg, sigmas=(3.0, 1.5, 0.7, 0.0))
    levels = {sigma for x, sigma, _ in asked if x.shape[-2:] == (12, 10)}
    found = rig.sharing.passes(asked, reference)
    assert len(levels) >= 3 and {sigma for sigma, _ in found} == levels
    assert len(found) == len(levels) and all(rows == (1 if cfg == 1.0 else 2) for _, rows in found)


def test_reference_in_two_nodes_runs_once(rig, micro, monkeypatch):
    one, other = rig.sharing.described(), rig.sharing.described(draw=22, weight=0.5)
    model = rig.sharing.shared(micro, one, layers="style block")
    asked = rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.one_step(rig.sharing.shared(model, one, other, layers="visual style prompting"), rig.runs.latent())
    # one call each: both references have one size
    assert [rows for _, rows in rig.sharing.passes(asked, one)] == [2, 2]


def test_window_and_polarity_that_are_left_alone_cost_nothing(rig, micro, monkeypatch):
    """Percents 0.5 to 0.8 of the chain are levels 1.6 to 0.5: two of the run's four."""
    reference, asked = rig.sharing.described(), rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.sample(rig.sharing.shared(micro, reference, start=0.5, end=0.8, both=False), rig.runs.latent())
    assert [sigma for sigma, _ in rig.sharing.passes(asked, reference)] == pytest.approx([1.5, 0.7])


# who sees it


def test_other_nodes_do_not_see_the_reference(rig, micro):
    """Neither patches nor wrappers nor ControlNets: each is called as often, on the same rows, as without it."""
    source, reference = rig.runs.latent(), rig.sharing.described()
    plain, seen = probed(rig, micro)
    control = counting_control(seen)
    pair = {key: [[tokens, {"control": control}]] for key, [[tokens, _]] in rig.runs.pair().items()}
    rig.ordinary.sample(plain, source, conditionings=pair)
    before = list(seen)
    assert {name for name, _ in before} == {"attn1", "attn2", "output", "replace", "middle", "control", *WRAPPERS}
    for model in (rig.sharing.shared(plain, reference), probed(rig, rig.sharing.shared(micro, reference), seen)[0]):
        seen.clear()
        rig.ordinary.sample(model, source, conditionings=pair)
        assert sorted(seen) == sorted(before)


WRAPPERS = ("apply_model", "diffusion_model", "calc_cond_batch", "function")


def probed(rig, model, seen=None):
    """(clone, seen): a clone with a patch of every kind that notes the rows of each call."""
    clone, seen = model.clone(), [] if seen is None else seen

    def patch(name):
        def note(n, *others):
            seen.append((name, len(n)))
            return n if name == "output" else (n, *others[:-1])

        return note

    def replace(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        seen.append(("replace", len(q)))
        return optimized_attention(q, k, v, heads=options["n_heads"])

    def wrapper(name, at):
        def note(executor, *args, **kwargs):
            seen.append((name, len(args[at])))
            return executor(*args, **kwargs)

        return note

    def function(apply_model, call):
        seen.append(("function", len(call["input"])))
        return apply_model(call["input"], call["timestep"], **call["c"])

    clone.set_model_attn1_patch(patch("attn1"))
    clone.set_model_attn2_patch(patch("attn2"))
    clone.set_model_attn1_output_patch(patch("output"))
    clone.set_model_attn2_replace(replace, "output", 0, 0)
    clone.set_model_patch(lambda h, options: (seen.append(("middle", len(h))), h)[1], "middle_patch")
    clone.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.probe", wrapper("apply_model", 0))
    clone.add_wrapper_with_key(rig.WrappersMP.DIFFUSION_MODEL, "test.probe", wrapper("diffusion_model", 0))
    clone.add_wrapper_with_key(rig.WrappersMP.CALC_COND_BATCH, "test.probe", wrapper("calc_cond_batch", 2))
    clone.set_model_unet_function_wrapper(function)
    return clone, seen


def counting_control(seen):
    import comfy.controlnet

    class Counting(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            seen.append(("control", len(x_noisy)))
            return {"input": [], "middle": [], "output": []}

    control = Counting()
    control.set_cond_hint(torch.rand(1, 3, 64, 64))
    return control
