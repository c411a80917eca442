"""StylizeStyleScore on small models."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

NODE = "Stylize Style Score"


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.measure.style_score")


@pytest.fixture
def score(rig, nodes):
    """The outputs: the mean, and what the text tells."""

    def run(model, images, vae, content=None, style_model=None, **given):
        prompts = rig.runs.pair()
        settings = {"cfg": 4.5, "levels": "400, 150", "draws": 1, "seed": 3, **given}
        order = [settings[key] for key in ("cfg", "levels", "draws", "seed")]
        before = (model, prompts["positive"], prompts["negative"], order[0], images, vae, *order[1:])
        with torch.inference_mode():
            mean, text = nodes.StylizeStyleScore.execute(*before, content, style_model).result
        return mean, json.loads(text)

    return run


class Encoder:
    """Four channels at an eighth of the size: means of the colours and of them all."""

    def encode(self, pixels):
        assert pixels.shape[-1] == 3
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return 4 * torch.cat([small, small.mean(1, keepdim=True)], 1) - 2


def photos(rows: int = 2) -> torch.Tensor:
    return torch.rand(rows, 64, 48, 3, generator=torch.Generator().manual_seed(7))


def test_mean_and_each_picture_by_level(rig, score, styled):
    mean, told = score(styled, photos(), Encoder())
    guider = rig.runs.guider(styled)
    with torch.inference_mode():
        expected = rig.score_ruler.style_scores(guider, Encoder().encode(photos()), 3, (400, 150), 1)
    levels = [[one["levels"]["400"], one["levels"]["150"]] for one in told["pictures"]]
    assert levels == expected.T.tolist() and set(told["pictures"][0]["levels"]) == {"400", "150"}
    assert [one["score"] for one in told["pictures"]] == pytest.approx(expected.mean(0).tolist())
    assert mean == told["score"] == pytest.approx(expected.mean().item())
    assert "content" not in told and "share_of_the_way" not in told["pictures"][0]


def test_share_of_the_way_from_the_photo(score, styled):
    pictures = photos()
    content = torch.cat([pictures[:1], torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(8))])
    _, told = score(styled, pictures, Encoder(), content)
    before, after = ([one["score"] for one in told[key]] for key in ("content", "pictures"))
    assert [one["share_of_the_way"] for one in told["pictures"]] == pytest.approx(
        [0, 1 - after[1] / before[1]], abs=1e-6
    )
    _, told = score(styled, pictures, Encoder(), pictures[:1])
    shares = [one["share_of_the_way"] for one in told["pictures"]]
    assert shares == pytest.approx([0, 1 - after[1] / after[0]], abs=1e-4) and abs(shares[1]) > 1e-4


def test_photo_may_have_a_size_of_its_own_and_pictures_an_alpha(score, styled):
    pictures = torch.cat([photos(), torch.ones(2, 64, 48, 1)], -1)
    mean, _ = score(styled, pictures, Encoder(), torch.rand(1, 32, 80, 3))
    assert mean == score(styled, photos(), Encoder())[0]


def test_style_model_and_the_models_own_vae(rig, score, wiring_model, tmp_path, monkeypatch):
    from stylization_host.wiring import FAMILIES

    model, pair = wiring_model("sd15"), rig.runs.pair(FAMILIES["sd15"].width)
    monkeypatch.setattr(rig.runs, "pair", lambda: pair)
    path = rig.loras.saved(rig.loras.kohya(model), tmp_path / "sd15.safetensors")
    style = rig.loras.weight_patched(model, path, 0.8)
    mean, _ = score(model, photos(1), wiring_model.vae("sd15"), style_model=style, cfg=1.0)
    assert mean > 1e-3


@pytest.mark.parametrize(("text", "levels"), [("400,150", 2), (" 7 ", 1), ("150; 400, 400,", 2)])
def test_levels_as_typed(score, styled, text, levels):
    _, told = score(styled, photos(1), Encoder(), levels=text)
    assert len(told["pictures"][0]["levels"]) == levels


@pytest.mark.parametrize(
    ("text", "said"), [("", "there is none"), ("200, x", "'x' is no timestep"), ("0", "'0' is"), ("1000", "'1000' is")]
)
def test_levels_that_are_none_are_refused(refusal, score, styled, text, said):
    message = refusal(NODE, lambda: score(styled, photos(1), Encoder(), levels=text))
    assert message.startswith(f"{NODE}, levels: {said}") and "from 1 to 999" in message


def test_what_does_not_fit_is_refused(refusal, score, styled, micro, wiring_model):
    message = refusal(NODE, lambda: score(micro, photos(1), Encoder()))
    assert message.startswith(f"{NODE}, model: it carries no style")
    message = refusal(NODE, lambda: score(styled, photos(2), Encoder(), photos(3)))
    assert message.startswith(f"{NODE}, content: it has 3 pictures, images 2")

    class Broken(Encoder):
        def encode(self, pixels):
            return super().encode(pixels) * torch.nan

    message = refusal(NODE, lambda: score(styled, photos(1), Broken()))
    assert message.startswith(f"{NODE}, images: 192 of its 192 values are NaN")

    class Wide(Encoder):
        def encode(self, pixels):
            return super().encode(pixels).repeat(1, 4, 1, 1)

    message = refusal(NODE, lambda: score(styled, photos(1), Wide()))
    assert message.startswith(f"{NODE}, images: it has 16 channels, latents of model have 4")


def test_scores_that_are_not_finite_are_an_error(refusal, score, styled):
    """A prompt of NaN, or a network in half precision, gives predictions of NaN."""
    original = styled.model.diffusion_model.forward

    def broken(*args, **kwargs):
        return original(*args, **kwargs) * torch.nan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(styled.model.diffusion_model, "forward", broken)
        message = refusal(NODE, lambda: score(styled, photos(1), Encoder()))
    assert message.startswith(NODE) and "values are NaN or infinite" in message and "half precision" in message
