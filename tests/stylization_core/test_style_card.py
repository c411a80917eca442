"""Style cards: files, interpolation, mixtures, refusals."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.holistic import Statistics, statistics
from stylization.stylization_core.style_card import StyleCard, load, mixed, save

LEVELS = (0.1, 1.0, 10.0)


def record(seed: int, table: bool = True, width: int = 6) -> Statistics:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(len(LEVELS), 200, width, generator=random).exp() * torch.rand(1, 1, width, generator=random)
    return statistics(x, table=table)


def card(seed: int = 0, family: str = "SDXL", layers=("output.1.0", "output.1.1"), **how) -> StyleCard:
    halves = ("positive", "negative")
    kept = {
        (half, name): record(seed + 10 * k + 100 * h, **how)
        for h, half in enumerate(halves)
        for k, name in enumerate(layers)
    }
    return StyleCard(family, LEVELS, kept, {"seed": seed})


def parts_of(one: Statistics) -> list[torch.Tensor]:
    return [part for part in one if part is not None]


@pytest.mark.parametrize("table", [False, True])
def test_file_keeps_everything_in_half_precision(tmp_path, table):
    made, path = card(table=table), tmp_path / "card.safetensors"
    save(made, path)
    found = load(path)
    assert (found.family, found.summary) == (made.family, made.summary)
    assert found.levels == pytest.approx(made.levels)
    assert set(found.layers) == set(made.layers) and found.names() == ["output.1.0", "output.1.1"]
    for key, one in made.layers.items():
        for wanted, kept in zip(parts_of(one), parts_of(found.layers[key]), strict=True):
            torch.testing.assert_close(kept, wanted.half().float())
    tensors = load_file(path)
    assert path.stat().st_size - made.bytes() < 8000
    # nothing but statistics: no tensor has more than a row per level and quantile
    assert all(tensor.ndim == 1 or tensor.shape[1] in (1, 33) for tensor in tensors.values())


def test_moments_of_the_style_block_of_sdxl_are_small():
    """Ten layers of 1280 channels, both halves, eight levels."""
    zeros = torch.zeros(8, 1, 1280)
    layers = {(half, f"output.1.{k}"): Statistics(*[zeros] * 4) for half in ("positive", "negative") for k in range(10)}
    assert StyleCard("SDXL", tuple(range(1, 9)), layers).bytes() < 2e6


def test_levels_are_interpolated_in_their_logarithm():
    made = card()
    one = made.layers["positive", "output.1.0"]
    found = made.at(10**0.5, "positive", "output.1.0")
    torch.testing.assert_close(found.mean, (one.mean[1:2] + one.mean[2:3]) / 2)
    torch.testing.assert_close(found.std, (one.std[1:2] * one.std[2:3]).sqrt())
    for level, row in ((0.1, 0), (1.0, 1), (10.0, 2), (0.001, 0), (500.0, 2)):
        for part, whole in zip(made.at(level, "positive", "output.1.0"), one, strict=True):
            torch.testing.assert_close(part, whole[row : row + 1], rtol=1e-4, atol=1e-5)


def test_mixture_of_one_kind_is_itself():
    made = card()
    for weights in ([1.0, 1.0], [0.2, 5.0], [3.0, -1.0]):
        found = mixed([made, made], weights)
        for key, one in made.layers.items():
            for part, wanted in zip(found.layers[key], one, strict=True):
                torch.testing.assert_close(part, wanted, rtol=1e-3, atol=1e-4)


def test_weights_act_on_means_and_log_spreads():
    one, other = card(1), card(2)
    found = mixed([one, other], [3.0, 1.0]).layers["positive", "output.1.0"]
    first, second = (each.layers["positive", "output.1.0"] for each in (one, other))
    torch.testing.assert_close(found.mean, 0.75 * first.mean + 0.25 * second.mean)
    torch.testing.assert_close(found.std, first.std**0.75 * second.std**0.25)


def test_negative_weight_leads_away_and_no_spread_turns_negative():
    one, other = card(1), card(2)
    found = mixed([one, other], [2.0, -1.0]).layers["positive", "output.1.0"]
    first, second = (each.layers["positive", "output.1.0"] for each in (one, other))
    torch.testing.assert_close(found.mean, 2 * first.mean - second.mean)
    assert (found.std > 0).all() and (found.quantiles.diff(dim=1) >= -1e-5).all()
    assert (found.kurtosis >= found.skewness**2 + 1 - 1e-5).all()


def test_cards_that_do_not_fit_are_refused():
    with pytest.raises(StylizationError, match="SD15.*SDXL"):
        mixed([card(), card(family="SD15")], [1, 1])
    with pytest.raises(StylizationError, match="no layer"):
        mixed([card(), card(layers=("input.4.0",))], [1, 1])
    for weights in ([1.0, -1.0], [float("nan"), 1.0], [0.0, 0.0]):
        with pytest.raises(StylizationError, match="sum"):
            mixed([card(), card()], weights)


def test_files_that_are_no_cards_are_refused(tmp_path):
    path = tmp_path / "card.safetensors"
    with pytest.raises(StylizationError, match="card.safetensors.*read"):
        load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(StylizationError, match="read"):
        load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(StylizationError, match="no style card"):
        load(path)
    save(card(), path)
    tensors = load_file(path)
    known = {"format": "stylization-style-card", "version": "1", "family": "SDXL", "summary": "{}"}
    save_file(tensors, path, metadata={**known, "version": "2"})
    with pytest.raises(StylizationError, match="version is 2"):
        load(path)
    save_file({key: tensor for key, tensor in tensors.items() if not key.endswith("std")}, path, metadata=known)
    with pytest.raises(StylizationError, match="missing"):
        load(path)
    broken = {key: tensor * float("nan") if key.endswith("mean") else tensor for key, tensor in tensors.items()}
    save_file(broken, path, metadata=known)
    with pytest.raises(StylizationError, match="NaN"):
        load(path)
