"""StylizeContentBudget in process."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

NODE = "Stylize Content Budget"
CHANGE = 0.35
"""Of a pixel, at strength 1 of the analytic operator."""


@pytest.fixture(scope="module")
def budget(pack_nodes):
    return importlib.import_module("stylization.nodes.measure.content_budget")


class Vae:
    """Pixels are the first three channels of a latent, each cell a square of eight pixels."""

    latent_channels = 4

    def decode(self, samples):
        pixels = samples[:, :3].movedim(1, -1).repeat_interleave(8, 1).repeat_interleave(8, 2)
        return pixels.clamp(0, 1)


@pytest.fixture
def analytic(rig):
    """A sampler whose pictures brighten by ``CHANGE`` times the dial, each by its own share; it notes the dials."""
    import comfy.samplers

    class Brighter(comfy.samplers.Sampler):
        def __init__(self, *shares, broken=None):
            self.shares, self.asked, self.broken = shares or (1.0,), [], broken

        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *others, **named):
            dial = rig.attachments.dial(extra_args["model_options"])
            self.asked.append((dial, len(sigmas) - 1))
            change = torch.tensor(self.shares).reshape(-1, 1, 1, 1) * dial * CHANGE
            if self.broken is not None and dial > self.broken:
                change = change * torch.nan
            return latent_image + model_wrap.inner_model.process_latent_in(change)

    return Brighter


@pytest.fixture
def execute(rig, budget, micro, temp):
    """Runs the node as ComfyUI does, on a MODEL with an injection; returns its NodeOutput."""
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

    def run(sampler=None, model=None, **given):
        import comfy.samplers

        arguments = {
            "sampler": sampler or comfy.samplers.sampler_object("euler"),
            "sigmas": torch.tensor([1.0, 0.5, 0.0]),
            "noise": Noise_RandomNoise(3),
            "latent_image": {"samples": photo()},
            "vae": Vae(),
            "limits": "color_change < 8",
            "strongest": 1.0,
            "grid": 5,
            "bisections": 4,
            "proxy_steps": 0,
            "theme": "dark",
            **given,
        }
        if "guider" not in arguments:
            prompts = rig.runs.pair()
            arguments = {"positive": prompts["positive"], "negative": prompts["negative"], "cfg": 2.0, **arguments}
            model = rig.effects.injecting(micro) if model is None else model
        if model is not None and model is not False:
            arguments["model"] = model
        with torch.inference_mode():
            return budget.StylizeContentBudget.execute(**arguments)

    return run


def photo(count: int = 1) -> torch.Tensor:
    """Latent of a smooth picture of 64x48 pixels, away from white."""
    return 0.1 + 0.4 * torch.rand((count, 4, 6, 8), generator=torch.Generator().manual_seed(11))


def expected(limit: float, share: float = 1.0) -> float:
    """The strength at which the mean CIEDE2000 of the analytic pictures reaches a limit, by scikit-image alone."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    before = Vae().decode(photo())[0].numpy().astype(np.float64)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        found = deltaE_ciede2000(rgb2lab(before), rgb2lab(before + middle * share * CHANGE)).mean()
        low, high = (middle, high) if found < limit else (low, middle)
    return low


# -- what it finds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3.0, 8.0, 13.0])
def test_finds_the_known_optimum(execute, analytic, limit):
    latent, pictures, curve, strength, text = execute(analytic(), limits=f"color_change < {limit}").result
    assert 0 <= expected(limit) - strength <= 1 / 64
    torch.testing.assert_close(latent["samples"], photo() + strength * CHANGE, rtol=0, atol=1e-5)
    assert torch.equal(pictures, Vae().decode(latent["samples"]))
    assert curve.shape[0] == 1 and curve.shape[2:] == (760, 3) and curve.dtype == torch.float32
    assert f"{strength:.4g} x the strength" in text and "is monotone" in text and "9 runs of 2 steps" in text


def test_the_last_preview_is_the_curve(execute, analytic, monkeypatch):
    """Frontends go on showing the last preview of a node, in the place of its pictures."""
    import comfy.utils

    told = []
    hook = lambda value, total, preview, node_id=None: told.append((value, total, preview))  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    curve = execute(analytic()).result[2]
    value, total, (_, shown, size) = told[-1]
    assert value == total and size == max(shown.size)
    assert np.abs(np.asarray(shown) / 255 - curve[0].numpy()).max() <= 0.5 / 255 + 1e-6


def test_the_worst_picture_of_a_batch_decides(execute, analytic):
    latent = {"samples": photo().repeat(2, 1, 1, 1)}
    strength = execute(analytic(0.5, 1.0), latent_image=latent).result[3]
    assert 0 <= expected(8) - strength <= 1 / 64
    assert 0 <= expected(8, 0.5) - execute(analytic(0.5, 0.5), latent_image=latent).result[3] <= 1 / 64


def test_all_hold_and_none_holds(execute, analytic):
    *_, strength, text = execute(analytic(), limits="color_change < 80", strongest=0.5).result
    assert strength == 0.5 and "strongest that was tried" in text
    white = torch.ones(1, 48, 64, 3)
    latent, _, _, strength, text = execute(analytic(), limits="color_change < 3", content=white).result
    assert strength == 0 and "No setting holds" in text
    torch.testing.assert_close(latent["samples"], photo())


def test_only_the_masked_region_counts_where_a_limit_says_so(execute, analytic):
    """The lower half of the content is white, which no strength reaches; the mask leaves it out."""
    content, mask = Vae().decode(photo()).clone(), torch.zeros(1, 48, 64)
    content[:, 24:], mask[:, :24] = 1.0, 1.0
    strengths = [
        execute(analytic(), content=content, mask=mask, limits=limits).result[3:]
        for limits in ("color_change < 8", "mask color_change < 8")
    ]
    assert strengths[0][0] == 0 and 0 < strengths[1][0] < 1
    assert "no limit is on it" in strengths[0][1] and "no limit is on it" not in strengths[1][1]


def test_an_empty_latent_is_compared_with_its_own_run_at_strength_zero(rig, execute, analytic):
    """One channel, as an empty latent of another family has; the run at 0 gives black, at 1 a grey."""
    sampler = analytic()
    latent, *_, strength, _ = execute(sampler, latent_image={"samples": torch.zeros(1, 1, 6, 8)}).result
    assert latent["samples"].shape == (1, 4, 6, 8) and 0 < strength < 1
    assert sorted({dial for dial, _ in sampler.asked})[0] == 0


def test_short_runs_are_checked_by_a_whole_one(execute, analytic):
    sampler, sigmas = analytic(), torch.linspace(1, 0, 9)
    *_, strength, text = execute(sampler, sigmas=sigmas, proxy_steps=2).result
    assert [steps for _, steps in sampler.asked] == [2] * 9 + [8] and sampler.asked[-1][0] == strength
    assert "9 runs of 2 steps and 1 of 8" in text


def test_a_run_that_is_not_finite_is_an_error_and_no_finding(refusal, execute, analytic):
    message = refusal(NODE, lambda: execute(analytic(broken=0.3), limits="color_change < 30"))
    assert "the run at strength 0.5: 192 of its 192 values are NaN" in message and "Lower 'strongest'" in message


def test_pictures_that_the_vae_breaks_are_an_error_that_names_it(refusal, execute, analytic):
    class Half(Vae):
        def decode(self, samples):
            pixels = super().decode(samples)
            return torch.where(samples.mean() > photo().mean() + 0.6 * CHANGE, torch.inf, pixels)

    message = refusal(NODE, lambda: execute(analytic(), vae=Half(), limits="color_change < 30"))
    assert "vae: 9216 of its 9216 values are NaN" in message and "strength 0.75" in message
    assert execute(analytic(), vae=Half(), limits="color_change < 3", strongest=0.5).result[3] > 0


def test_style_pictures_add_their_progress(execute, analytic):
    *_, curve, _, text = execute(analytic(), style=torch.rand(2, 40, 40, 3), limits="color_change < 8").result
    plain = execute(analytic()).result
    assert "style" in text.split("\n\n")[1].split("\n")[0] and "style" not in plain[4].split("\n\n")[1]
    assert not torch.equal(curve, plain[2])


def test_content_of_another_crop_is_cut_as_vae_encode_does(execute, analytic):
    content = torch.nn.functional.pad(Vae().decode(photo()), (0, 0, 3, 4, 2, 2))
    found = execute(analytic(), content=content).result
    assert found[3] == execute(analytic()).result[3]


def test_guider_and_model_agree(rig, execute, micro, budget):
    model = rig.effects.injecting(micro)
    guider = rig.ordinary.guider_of(model, cfg=2.0)
    before = rig.leaks.patcher_state(model)
    settings = {"grid": 2, "bisections": 1, "limits": "color_change < 4"}
    one, two = execute(model=model, **settings).result, execute(guider=guider, **settings).result
    assert torch.equal(one[0]["samples"], two[0]["samples"]) and one[3] == two[3]
    assert torch.equal(one[2], two[2])
    assert rig.leaks.patcher_state(model) == before and guider.model_patcher is model


def test_shows_curve_and_text(execute, analytic, temp):
    output = execute(analytic())
    (image,), (text,) = output.ui["images"], output.ui["text"]
    assert (temp / image["filename"]).is_file() and text == output.result[4]


# -- what it refuses ------------------------------------------------------------------------------------------------


def test_wiring_mistakes_are_named(rig, refusal, execute, analytic, micro, styled):
    guider, prompts = rig.ordinary.guider_of(rig.effects.injecting(micro)), rig.runs.pair()
    cases = {
        "neither is connected": {"model": False},
        "both are connected": {"guider": guider, "model": micro},
        "positive: connected beside a guider": {"guider": guider, **prompts, "negative": None},
        "negative: not connected": {"negative": None},
        "model: nothing on it stylizes": {"model": micro},
        "guider: nothing on it stylizes": {"guider": rig.ordinary.guider_of(styled)},
        "hold no step": {"sigmas": torch.tensor([0.0])},
    }
    for words, given in cases.items():
        sampler = analytic()
        assert words in refusal(NODE, lambda given=given, sampler=sampler: execute(sampler, **given))
        assert sampler.asked == []  # nothing was computed in vain


def test_pictures_that_do_not_fit_are_named(refusal, execute, analytic):
    empty, fitting = torch.zeros(1, 48, 64), torch.ones(1, 48, 64)
    inside = "mask color_change < 3"
    cases = {
        "content: it is 80x48 pixels, the results are 64x48": {"content": torch.rand(1, 48, 80, 3)},
        "content: it has 2 pictures": {"content": torch.rand(2, 48, 64, 3)},
        "content: 9216 of its 9216 values are NaN": {"content": torch.full((1, 48, 64, 3), torch.nan)},
        "mask: 'mask color_change < 3 Delta E' is measured inside": {"limits": inside},
        "mask: it is empty, nothing is marked": {"limits": inside, "mask": empty},
        "mask: it is 64x40 pixels": {"limits": inside, "mask": fitting[:, :40]},
        "mask: … values are NaN or infinite": {"limits": inside, "mask": fitting * torch.nan},
        "style: it is 20x20 pixels": {"style": torch.rand(1, 20, 20, 3)},
        "style: … values are NaN or infinite": {"style": torch.full((1, 40, 40, 3), torch.nan)},
        "latent_image: 1 of its": {"latent_image": {"samples": photo().index_fill(3, torch.tensor([0]), 0.1).clone()}},
        "latent_image: it has 16 channels": {"latent_image": {"samples": torch.rand(1, 16, 6, 8)}},
        "latent_image: pictures of 16x16 pixels": {"latent_image": {"samples": torch.rand(1, 4, 2, 2)}},
        "limits: 'structre >= 1' names no ruler": {"limits": "structre >= 1"},
    }
    cases["latent_image: 1 of its"]["latent_image"]["samples"][0, 0, 0, 0] = torch.nan
    for words, given in cases.items():
        sampler = analytic()
        message = refusal(NODE, lambda given=given, sampler=sampler: execute(sampler, **given))
        assert all(part in message for part in words.split("…"))
        assert sampler.asked == []


def test_another_models_vae_is_refused(refusal, execute, analytic):
    vae = Vae()
    vae.latent_channels = 16
    assert "vae: it decodes 16 channels" in refusal(NODE, lambda: execute(analytic(), vae=vae))
