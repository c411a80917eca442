"""The trained injector's formula against one written out number by number, and its files."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from stylization.stylization_core.holistic import injected, statistics
from stylization.stylization_core.trained_injector import (
    KNOTS,
    LayerInjector,
    TrainedInjector,
    knot_shares,
    mixture_of_codes,
)

WIDTH, GRID = 6, (4, 5)
RATIO = torch.tensor([0.7])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: LayerInjector, seed: int = 3) -> LayerInjector:
    """With all weights moved away from their start."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws))
    return module


def injector(*names: str, family: str = "SD15") -> TrainedInjector:
    return TrainedInjector.untrained(family, {name: WIDTH for name in names or ("output.1.0",)})


# the formula


def by_hand(module: LayerInjector, x, tokens, ratio, strength):
    """One picture, one style; channel by channel in float64."""
    p = {name: value.detach().double() for name, value in module.named_parameters()}
    x, tokens = x[0].double(), tokens[0].double()
    height, width = GRID
    scale = tokens.square().mean().sqrt()
    unit = tokens / scale
    k = (unit * p["k_aff.weight"] + p["k_aff.bias"]).reshape(height, width, WIDTH)
    local = torch.zeros_like(k)
    for y in range(height):
        for column in range(width):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    seen = k[min(max(y + dy, 0), height - 1), min(max(column + dx, 0), width - 1)]
                    local[y, column] += p["dw.weight"][:, 0, dy + 1, dx + 1] * seen
    keys = (local + p["dw.bias"]).reshape(-1, WIDTH)

    def four(t, unit=1.0):
        mean, std = t.mean(0), t.var(0, unbiased=False).sqrt()
        z = (t - mean) / std
        return torch.stack([mean / unit, (std / unit).log(), torch.asinh((z**3).mean(0)), (z**4).mean(0).log()])

    pooled = torch.cat([keys.mean(0), keys.amax(0)])
    hidden = p["fc1.weight"] @ pooled + p["fc1.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    factors = (p["fc2.weight"] @ hidden + p["fc2.bias"]).reshape(9, WIDTH)
    k_s = (factors[:4] * four(keys)).sum(0) + factors[4]
    v_s = (factors[5:] * (four(tokens, scale) - four(x, scale))).sum(0)
    place = (math.log(ratio) - math.log(0.03)) / (math.log(15) - math.log(0.03)) * (KNOTS - 1)
    low = int(place)
    at = lambda table: table[low] * (low + 1 - place) + table[low + 1] * (place - low)  # noqa: E731
    tone, texture = at(p["gate.weight"])
    m_c, s_c, m_s, s_s = x.mean(0), x.std(0, unbiased=False), tokens.mean(0), tokens.std(0, unbiased=False)
    lam = (1 + m_c @ m_s / (m_c.norm() * m_s.norm())) / 2
    q = x / scale * p["q_aff.weight"] + p["q_aff.bias"]
    a = torch.sigmoid(lam * q.mean(0) * k_s + (1 - lam) * q * k_s)
    narrow = (a * v_s) @ p["o_down.weight"].T * at(p["o_level.weight"])
    change = tone * (m_s - m_c) + texture * (x - m_c) / s_c * (s_s - s_c) + scale * narrow @ p["o_up.weight"].T
    return x + strength * change


def test_formula_is_the_one_written_out():
    module = shaken(LayerInjector(WIDTH, 5, 3))
    x, tokens = drawn(1, 12, WIDTH, seed=1), 2 * drawn(1, 20, WIDTH, seed=2) + 0.5
    found = module(x, module.code(tokens, GRID), RATIO, strength=0.6)
    wanted = by_hand(module, x, tokens, 0.7, 0.6)
    assert (found[0].double() - wanted).abs().max() < 1e-4
    assert (found[0] - x[0]).abs().max() > 0.1


def test_untrained_changes_nothing_bit_for_bit():
    module = LayerInjector(WIDTH, 5, 3)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = drawn(2, 12, WIDTH).to(dtype)
        assert torch.equal(module(x, module.code(drawn(2, 20, WIDTH, seed=2), GRID), RATIO, strength=2.0), x)


def test_strength_zero_is_the_input_itself():
    module, x = shaken(LayerInjector(WIDTH, 5, 3)), drawn(1, 12, WIDTH)
    assert module(x, module.code(drawn(1, 20, WIDTH), GRID), RATIO, strength=0.0) is x


def test_with_open_gates_it_is_the_injection_without_training():
    module, x, tokens = LayerInjector(WIDTH, 5, 3), drawn(2, 12, WIDTH), drawn(2, 20, WIDTH, seed=2) * 3 + 1
    with torch.no_grad():
        module.gate.weight.fill_(1.0)
    found = module(x, module.code(tokens, GRID), RATIO, strength=0.8)
    torch.testing.assert_close(found, injected(x, statistics(tokens), strength=0.8, tone=0.0), rtol=1e-4, atol=1e-5)


def test_picture_that_has_the_style_stays_as_it_is():
    """Whatever was learned, and in whatever order the tokens are."""
    module, x = shaken(LayerInjector(WIDTH, 5, 3)), drawn(1, 20, WIDTH)
    torch.testing.assert_close(module(x, module.code(x[:, torch.randperm(20)], GRID), RATIO), x, rtol=1e-5, atol=1e-5)


def test_rows_and_levels_do_not_meet():
    module, x, tokens = shaken(LayerInjector(WIDTH, 5, 3)), drawn(2, 12, WIDTH), drawn(2, 20, WIDTH, seed=2)
    ratios = torch.tensor([0.1, 4.0])
    together = module(x, module.code(tokens, GRID), ratios)
    for row in range(2):
        own = slice(row, row + 1)
        alone = module(x[own], module.code(tokens[own], GRID), ratios[own])
        torch.testing.assert_close(together[own], alone)


def test_features_that_overflow_half_precision_stay_finite():
    module, x = shaken(LayerInjector(WIDTH, 5, 3)), (200 * drawn(1, 12, WIDTH)).half()
    found = module(x, module.code((200 * drawn(1, 20, WIDTH, seed=2)).half(), GRID), RATIO)
    assert found.dtype == torch.float16 and found.isfinite().all()


def test_tokens_without_weight_do_not_count():
    module, tokens = shaken(LayerInjector(WIDTH, 5, 3)), drawn(1, 20, WIDTH)
    weights = torch.ones(GRID)
    weights[:, 3:] = 0
    other = tokens.clone().reshape(1, *GRID, WIDTH)
    other[:, :, 4:] += 5  # column 3 lies between: the 3x3 of counted tokens does not reach it
    one, two = (module.code(t.reshape(1, 20, WIDTH), GRID, weights.flatten()) for t in (tokens, other))
    shared = one.scale / two.scale
    assert shared == 1
    torch.testing.assert_close(one.key, two.key)
    torch.testing.assert_close(one.factors, two.factors)


@pytest.mark.parametrize(("ratio", "wanted"), [(1e-9, 0), (0.03, 0), (15.0, KNOTS - 1), (math.inf, KNOTS - 1)])
def test_levels_beyond_the_knots_are_the_last(ratio, wanted):
    share = knot_shares(torch.tensor([ratio]))
    assert share[0, wanted] == pytest.approx(1, abs=1e-5) and share.sum() == pytest.approx(1, abs=1e-5)


def test_constant_features_have_finite_gradients():
    module = shaken(LayerInjector(WIDTH, 5, 3))
    x, tokens = torch.ones(1, 12, WIDTH, requires_grad=True), torch.full((1, 20, WIDTH), 2.0)
    module(x, module.code(tokens, GRID), RATIO).sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_every_weight_learns():
    module = shaken(LayerInjector(WIDTH, 5, 3))
    target = drawn(1, 12, WIDTH, seed=9)
    found = module(drawn(1, 12, WIDTH), module.code(drawn(1, 20, WIDTH, seed=2), GRID), RATIO)
    ((found - target) ** 2).mean().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_mixture_of_one_is_itself_and_of_two_lies_between():
    module = shaken(LayerInjector(WIDTH, 5, 3))
    one, two = (module.code(drawn(1, 20, WIDTH, seed=seed), GRID) for seed in (1, 2))
    alone = mixture_of_codes([one], one.style, [3.0])
    assert torch.equal(alone.key, one.key) and torch.equal(alone.factors, one.factors)
    both = mixture_of_codes([one, two], one.style, [3.0, 1.0])
    torch.testing.assert_close(both.key, 0.75 * one.key + 0.25 * two.key)


def test_norm_of_the_output_map_is_that_of_the_product():
    module = shaken(LayerInjector(WIDTH, 5, 3))
    wanted = (module.o_up.weight @ module.o_down.weight).square().sum()
    torch.testing.assert_close(module.output_norm(), wanted)


# files


def test_file_gives_back_every_bit(tmp_path):
    made = injector("output.1.0", "middle.0.0")
    for module in made.layers.values():
        shaken(module)
    made.save(tmp_path / "one.safetensors")
    kept = TrainedInjector.load(tmp_path / "one.safetensors")
    assert kept.family == "SD15" and list(kept.layers) == list(made.layers)
    assert kept.parameters().keys() == made.parameters().keys()
    assert all(torch.equal(kept.parameters()[name], value) for name, value in made.parameters().items())
    assert kept.digest == made.digest
    assert not any(value.requires_grad for value in kept.parameters().values())
    assert all(
        name.startswith(("hsi.output.1.0.", "hsi.middle.0.0.")) for name in load_file(tmp_path / "one.safetensors")
    )
    assert [one.name for one in tmp_path.iterdir()] == ["one.safetensors"]


def changed_file(path, metadata=(), tensors=()):
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        stated = {**file.metadata(), **dict(metadata)}
    save_file({**load_file(path), **dict(tensors)}, str(path), metadata=stated)


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        ({"format": "stylization-style-card"}, {}, "it is no file of a training node of this pack"),
        ({"format": "hsi-injector/2"}, {}, "its version is 2, known is 1"),
        ({"layers": "[3"}, {}, "its description is damaged"),
        ({"layers": '{"output.1.0": 8}'}, {}, "of shape"),
        ({"layers": '{"output.1.0": 6, "output.2.0": 6}'}, {}, "output.2.0.*missing"),
        ({}, {"hsi.output.1.0.dw.bias": torch.full((WIDTH,), math.nan)}, "NaN"),
    ],
)
def test_file_that_does_not_fit_is_refused(tmp_path, metadata, tensors, words):
    path = tmp_path / "one.safetensors"
    injector().save(path)
    changed_file(path, metadata, tensors)
    with pytest.raises(ValueError, match=f"^one.safetensors: .*{words}"):
        TrainedInjector.load(path)


def test_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "two.safetensors"
    with pytest.raises(ValueError, match="^two.safetensors: it cannot be read"):
        TrainedInjector.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="^two.safetensors: it cannot be read"):
        TrainedInjector.load(path)


def test_file_that_cannot_be_written_is_an_error_of_the_disk(tmp_path):
    with pytest.raises(OSError):
        injector().save(tmp_path / "nowhere" / "one.safetensors")
    (tmp_path / "two.safetensors").mkdir()
    with pytest.raises(OSError):
        injector().save(tmp_path / "two.safetensors")
    assert [one.name for one in tmp_path.iterdir()] == ["two.safetensors"]
