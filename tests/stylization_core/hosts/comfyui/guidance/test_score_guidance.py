"""Score guidance in runs of ComfyUI's own samplers: added to their estimates, or followed alone as an edit."""

from __future__ import annotations

import pytest
import torch

# score guidance


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("strength", [0.6, 2.0])
def test_add_is_the_plain_estimate_and_the_score(rig, micro, styled, stock, calls, cfg, strength):
    steps = rig.ordinary.steps_of(
        rig.ordinary.guided(styled, strength=strength, edit=False), rig.runs.latent(), cfg=cfg
    )
    for (x, estimate), sigma in zip(steps, rig.ordinary.SIGMAS, strict=False):
        added = strength * rig.ordinary.score(micro, stock, x, sigma)
        expected = rig.ordinary.own_estimate(micro, x, sigma, cfg) + added
        assert rig.runs.moved(estimate, expected) < 1e-4 * added.abs().max()


def edited(rig, base, style, source, sigmas, strength=1.0, conditionings=None, flow=False) -> torch.Tensor:
    """dz = (D_style - D_base) |d sigma| / sigma by Euler's method, on ComfyUI's own predictions."""
    z, noise = rig.ordinary.in_scale(base, source), rig.ordinary.unit_noise(source)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = (1 - sigma) * z + sigma * noise if flow else z + sigma * noise
        found = strength * rig.ordinary.score(base, style, x, sigma, conditionings)
        if flow:  # in sigma / (1 - sigma); from pure noise a step takes all of the score
            ratio, then = (s / (1 - s) if s < 1 else float("inf") for s in (sigma, following))
            z = z + found * (1 - then / ratio)
        else:
            z = z + found * (sigma - following) / sigma
    return base.model.process_latent_out(z)


@pytest.mark.parametrize(("cfg", "strength"), [(1.0, 1.0), (4.5, 1.0), (4.5, 0.5)])
def test_edit_is_the_eulers_integral_of_the_score(rig, micro, styled, stock, calls, cfg, strength):
    source = rig.runs.latent()
    found = rig.ordinary.sample(rig.ordinary.guided(styled, strength=strength), source, cfg=cfg)
    expected = edited(rig, micro, stock, source, rig.ordinary.SIGMAS, strength)
    assert rig.runs.moved(expected, source) > 0.5
    assert rig.runs.moved(found, expected) < 1e-3 * rig.runs.moved(expected, source)


@pytest.mark.parametrize("first", [0.8, 1.0])
@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_edit_of_a_flow_goes_by_noise_to_signal(rig, wiring_model, wiring_files, tmp_path, family, first):
    if family == "flux":
        model = rig.micro.flux()
        path = rig.loras.saved(rig.loras.kohya(model), tmp_path / "flux.safetensors")
    else:
        model, path = wiring_model("sd3"), str(wiring_files.path("wiring_lora_sd3_kohya.safetensors"))
    styled = rig.style_branch.attach(model, rig.lora_files.load_style(path, model, 0.8))
    source, sigmas, conditionings = (
        rig.runs.latent(2, 16, 8, 6),
        (first, 0.6, 0.35, 0.1, 0.0),
        rig.runs.pair(64, 32),
    )
    found = rig.ordinary.sample(rig.ordinary.guided(styled), source, sigmas=sigmas, conditionings=conditionings)
    style = rig.loras.weight_patched(model, path, 0.8)
    expected = edited(rig, model, style, source, sigmas, conditionings=conditionings, flow=True)
    effect = rig.runs.moved(expected, source)
    assert effect > 1e-3 * source.abs().max()
    assert rig.runs.moved(found, expected) < 2e-3 * effect + 1e-5


def test_edit_of_sdxl(rig, wiring_model, wiring_files):
    model, path = wiring_model("sdxl"), str(wiring_files.path("wiring_lora_sdxl_kohya.safetensors"))
    styled = rig.style_branch.attach(model, rig.lora_files.load_style(path, model, 0.8))
    source, conditionings, sigmas = rig.runs.latent(1, 4, 8, 8), rig.runs.pair(2048, 1280), (2.0, 0.7, 0.0)
    found = rig.ordinary.sample(rig.ordinary.guided(styled), source, sigmas=sigmas, conditionings=conditionings)
    style = rig.loras.weight_patched(model, path, 0.8)
    expected = edited(rig, model, style, source, sigmas, conditionings=conditionings)
    effect = rig.runs.moved(expected, source)
    assert effect > 1e-3 * source.abs().max()
    assert rig.runs.moved(found, expected) < 2e-3 * effect + 1e-5


DETERMINISTIC = ("dpmpp_2m", "heun", "dpm_2", "uni_pc", "lms", "dpmpp_2m_cfg_pp")


@pytest.mark.parametrize("sampler", [*DETERMINISTIC, "euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde"])
def test_edit_with_other_samplers_goes_the_same_way(rig, styled, sampler):
    """Samplers that draw fresh noise see other scores of this network, whose weights are random."""
    source = rig.runs.latent()
    sigmas = torch.linspace(1.5, 0.0, 13).tolist()
    euler = rig.ordinary.sample(rig.ordinary.guided(styled, strength=0.3), source, sigmas=sigmas)
    other = rig.ordinary.sample(rig.ordinary.guided(styled, strength=0.3), source, sigmas=sigmas, sampler=sampler)
    along = ((other - source) * (euler - source)).mean() / (euler - source).square().mean()
    lowest, highest = (0.8, 1.2) if sampler in DETERMINISTIC else (0.3, 1.7)
    assert lowest < along < highest


def test_edit_after_its_window_stays_where_it_is(rig, micro, styled, stock):
    """Percents up to 0.7 of the chain are the levels above 0.85."""
    source = rig.runs.latent()
    found = rig.ordinary.sample(rig.ordinary.guided(styled, end=0.7), source)
    z = rig.ordinary.in_scale(micro, source)
    for sigma, following in ((3.0, 1.5), (1.5, 0.7)):
        z = (
            z
            + rig.ordinary.score(micro, stock, z + sigma * rig.ordinary.unit_noise(source), sigma)
            * (sigma - following)
            / sigma
        )
    expected = micro.model.process_latent_out(z)
    assert rig.runs.moved(found, expected) < 1e-3 * rig.runs.moved(expected, source)


def test_edit_before_its_window_keeps_the_content(rig, micro, styled):
    """Percents from 0.7 are the levels below 0.85."""
    content = rig.ordinary.in_scale(micro, rig.runs.latent())
    steps = rig.ordinary.steps_of(rig.ordinary.guided(styled, start=0.7), rig.runs.latent())
    gaps = [rig.runs.moved(estimate, content) for _, estimate in steps]
    assert max(gaps[:2]) < 1e-5 and min(gaps[2:]) > 0.05


def test_score_of_a_second_checkpoint_equals_the_gate(rig, micro, styled, path):
    source = rig.runs.latent()
    second = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    carrying = rig.style_branch.attach(rig.micro.unet(), rig.lora_files.load_style(path, micro, 0.8))
    for edit in (False, True):
        gate = rig.ordinary.sample(rig.ordinary.guided(styled, edit=edit), source)
        effect = rig.runs.moved(gate, source if edit else rig.ordinary.sample(styled, source))
        for other in (second, carrying):
            two = rig.ordinary.sample(rig.ordinary.guided(micro, other, edit=edit), source)
            assert rig.runs.moved(gate, two) < 1e-3 * effect
            assert other.model.current_patcher is None


def test_second_checkpoint_gets_the_inpaint_mask(rig, micro, monkeypatch):
    """An inpainting network takes the mask among its inputs."""
    second, seen = rig.micro.unet(seed=1), []
    original = second.model.extra_conds

    def noting(**given):
        seen.append(given.get("denoise_mask"))
        return original(**given)

    monkeypatch.setattr(second.model, "extra_conds", noting)
    mask = torch.zeros(1, 1, 12, 10)
    mask[..., 5:] = 1.0
    rig.ordinary.sample(rig.ordinary.guided(micro, second, edit=False), rig.runs.latent(), denoise_mask=mask)
    assert seen and all(torch.equal(one[:1, :1], mask) for one in seen)


# layout of the calls


def results_by_layout(rig, monkeypatch, model, source, noise, cfg: float) -> list[torch.Tensor]:
    """One step of all pictures at once and of each alone, batched and split."""

    def both() -> list[torch.Tensor]:
        run = {"sigmas": rig.ordinary.ONE_STEP, "cfg": cfg}
        rows = [slice(i, i + 1) for i in range(source.shape[0])]
        alone = torch.cat([rig.ordinary.sample(model, source[row], noise=noise[row], **run) for row in rows])
        return [rig.ordinary.sample(model, source, noise=noise, **run), alone]

    found = both()
    with monkeypatch.context() as patch:
        rig.runs.split_calls(patch, model)
        return found + both()


def spread(rig, results: list[torch.Tensor]) -> float:
    return max(rig.runs.moved(one, results[0]) for one in results[1:])


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_layout_of_the_calls_does_not_matter(rig, styled, monkeypatch, cfg, batch):
    """A score is a guidance term, so the plain model is measured with as much guidance."""
    source, noise = rig.runs.latent(3, 4, 9, 7)[:batch], rig.runs.drawn(3, 4, 9, 7, seed=12)[:batch]
    plain = results_by_layout(rig, monkeypatch, styled, source, noise, max(cfg, 2.0))
    tolerance = spread(rig, plain)
    assert 0 < tolerance < 1e-4
    for made in (
        rig.ordinary.guided(styled, edit=False),
        rig.ordinary.guided(styled, edit=True),
        rig.ordinary.held(rig.ordinary.guided(styled, edit=False), hold=0.5),
        rig.ordinary.refined(styled, floor=0.0, mask=torch.linspace(0, 1, 63).view(1, 9, 7)),
    ):
        results = results_by_layout(rig, monkeypatch, made, source, noise, cfg)
        assert rig.runs.moved(results[0], plain[0]) > 100 * tolerance
        assert spread(rig, results) <= 4 * tolerance


@pytest.mark.parametrize(
    ("cfg", "edit", "names"),
    [
        (4.5, False, ("base", "base", "style")),
        (1.0, False, ("base", "style")),
        (4.5, True, ("base", "style")),
        (1.0, True, ("base", "style")),
    ],
)
def test_rows_of_each_step(rig, styled, cfg, edit, names):
    recorded, rows = rig.runs.recording(styled)
    rig.ordinary.sample(rig.ordinary.guided(recorded, edit=edit), rig.runs.latent(3, 4, 8, 8), cfg=cfg)
    assert [tuple(sorted(found)) for _, found, _ in rows] == [names] * 4
    assert [count for *_, count in rows] == [3 * len(names)] * 4


@pytest.mark.parametrize(("edit", "positives"), [(False, ("base", "base")), (True, ("base",))])
def test_second_checkpoint_takes_the_styles_row(rig, micro, edit, positives):
    (base, rows), (style, second) = rig.runs.recording(micro), rig.runs.recording(rig.micro.unet(seed=1))
    rig.ordinary.sample(rig.ordinary.guided(base, style, edit=edit), rig.runs.latent(3, 4, 8, 8))
    assert [names for _, names, _ in rows] == [positives] * 4
    assert [(names, count) for _, names, count in second] == [(("style",), 3)] * 4


@pytest.mark.parametrize(("edit", "names"), [(False, [0, 3, 3, 0]), (True, [2, 2])])
def test_steps_outside_the_window_cost_nothing_more(rig, styled, edit, names):
    """Added, they are the plain model's steps; an edit asks for nothing at all there."""
    recorded, rows = rig.runs.recording(styled)
    rig.ordinary.sample(rig.ordinary.guided(recorded, edit=edit, start=0.5, end=0.8), rig.runs.latent(1, 4, 8, 8))
    assert [len(found) for _, found, _ in rows] == names


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("edit", [False, True])
def test_attn2_patch_that_indexes_a_pair_sees_polarities(rig, micro, styled, calls, edit, cfg):
    """A gain of 1 for the positive and a half for the negative prompt; a third index would crash."""
    seen = []

    def by_index(n, context, value, extra_options):
        indexes = extra_options["cond_or_uncond"]
        seen.extend(indexes)
        gains = torch.tensor([(1.0, 0.5)[index] for index in indexes]).repeat_interleave(n.shape[0] // len(indexes))
        return n, context, value * gains.view(-1, 1, 1)

    patched, unpatched = styled.clone(), rig.ordinary.guided(styled, edit=edit)
    patched.set_model_attn2_patch(by_index)
    made, source = rig.ordinary.guided(patched, edit=edit), rig.runs.latent()
    found = rig.ordinary.sample(made, source, sigmas=rig.ordinary.ONE_STEP, cfg=cfg)
    positives, negatives = seen.count(0), seen.count(1)
    assert positives and negatives == (0 if edit or cfg == 1.0 else positives / 2)
    plain = rig.ordinary.sample(unpatched, source, sigmas=rig.ordinary.ONE_STEP, cfg=cfg)
    if not edit and cfg != 1.0:
        assert rig.runs.moved(found, plain) > 1e-3
    else:  # the positive prompt's gain is 1
        assert torch.equal(found, plain)
