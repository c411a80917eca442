"""High bands held inside a mask, against scipy's transform and closed forms."""

from __future__ import annotations

import pytest
import scipy.fft
import torch
from stylization.stylization_core.protection import Protection, held_high_band
from stylization.stylization_core.sms.optimize import Terms, optimize
from stylization.stylization_core.sms.schedule import make_schedule

SIZE = (12, 15)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def pictures():
    return drawn(2, 3, *SIZE), drawn(2, 3, *SIZE, seed=1)


@pytest.fixture
def mask():
    """A part with a soft rim, another in each picture."""
    mask = torch.zeros(2, 1, *SIZE, dtype=torch.float64)
    mask[0, :, 2:9, 3:11], mask[0, :, 3:8, 4:10] = 0.4, 1.0
    mask[1, :, 6:, 8:] = 1.0
    return mask


def by_scipy(denoised, content, mask, band, strength):
    """Picture by picture, channel by channel: the difference inside, its mean elsewhere, without its low band."""
    height, width = SIZE
    u, v = torch.arange(height)[:, None] / (height - 1), torch.arange(width)[None] / (width - 1)
    low = (u + v <= 2 * band + 1e-9).numpy()
    found = denoised.clone()
    for row, channel in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        inside = mask[row, 0] > 0
        difference = (content - denoised)[row, channel]
        filled = torch.where(inside, difference, difference[inside].mean())
        spectrum = scipy.fft.dctn(filled.numpy(), norm="ortho")
        spectrum[low] = 0
        high = torch.from_numpy(scipy.fft.idctn(spectrum, norm="ortho"))
        found[row, channel] += strength * mask[row, 0] * high
    return found


@pytest.mark.parametrize("band", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("strength", [0.35, 1.0])
def test_high_bands_are_scipys(pictures, mask, band, strength):
    found = held_high_band(*pictures, mask, band, strength)
    torch.testing.assert_close(found, by_scipy(*pictures, mask, band, strength), rtol=0, atol=1e-12)


def test_band_zero_is_the_content_itself_to_the_last_bit(pictures, mask):
    denoised, content = (one.float() for one in pictures)
    found = held_high_band(denoised, content, mask, 0.0)
    whole = (mask == 1).expand_as(found)
    assert torch.equal(found[whole], content[whole])
    torch.testing.assert_close(found, denoised + mask.float() * (content - denoised))


@pytest.mark.parametrize("band", [0.0, 0.2])
def test_outside_nothing_changes_and_nothing_comes_in(pictures, mask, band):
    denoised, content = pictures
    found = held_high_band(denoised, content, mask, band)
    outside = (mask == 0).expand_as(found)
    assert torch.equal(found[outside], denoised[outside])
    assert not torch.isclose(found[~outside], denoised[~outside]).all()
    elsewhere = torch.where(outside, 100 * drawn(2, 3, *SIZE, seed=5), 0.0)
    again = held_high_band(denoised + elsewhere, content - elsewhere, mask, band)
    assert torch.equal(again[~outside], found[~outside])


def test_broken_cells_outside_stay_outside(pictures, mask):
    denoised, content = pictures
    outside = (mask == 0).expand_as(content)
    found = held_high_band(denoised, torch.where(outside, torch.nan, content), mask, 0.2)
    assert torch.equal(found, held_high_band(denoised, content, mask, 0.2))


def test_tone_is_free_and_form_is_not(mask):
    """The content plus a tone keeps that tone wholly, in any band above 0."""
    content, tone = drawn(2, 3, *SIZE), drawn(2, 3, 1, 1, seed=4)
    for band in (1e-3, 0.3):
        found = held_high_band(content + tone, content, mask, band)
        torch.testing.assert_close(found, content + tone, rtol=0, atol=1e-12)
    assert torch.equal(held_high_band(content + tone, content, mask, 0.0)[1, :, 8, 10], content[1, :, 8, 10])


@pytest.mark.parametrize(("u", "v", "held"), [(0, 0, False), (1, 2, False), (3, 4, True), (11, 14, True)])
def test_a_wave_is_held_or_free_by_its_frequency(u, v, held):
    """Over the whole picture a cosine of the transform itself; 0.2 of (11, 14) lies between the middle two."""
    spectrum = torch.zeros(1, 1, *SIZE, dtype=torch.float64)
    spectrum[..., u, v] = 3.0
    wave = torch.from_numpy(scipy.fft.idctn(spectrum.numpy(), axes=(-2, -1), norm="ortho"))
    content = drawn(1, 1, *SIZE)
    found = held_high_band(content + wave, content, torch.ones(1, 1, *SIZE), 0.2)
    torch.testing.assert_close(found, content if held else content + wave, rtol=0, atol=1e-12)


def test_more_band_holds_less(pictures, mask):
    denoised, content = pictures
    held = [(held_high_band(denoised, content, mask, band) - denoised).norm() for band in (0.0, 0.1, 0.4, 0.9, 1.0)]
    assert held == sorted(held, reverse=True) and held[0] > held[1] > 10 * held[-1]


def test_strength_is_a_share(pictures, mask):
    denoised, content = pictures
    assert held_high_band(denoised, content, mask, 0.2, 0.0) is denoised
    whole = held_high_band(denoised, content, mask, 0.2) - denoised
    torch.testing.assert_close(held_high_band(denoised, content, mask, 0.2, 0.25), denoised + 0.25 * whole)


def test_pictures_and_channels_do_not_see_each_other(pictures, mask):
    denoised, content = pictures
    found = held_high_band(denoised, content, mask, 0.2)
    for row in range(2):
        alone = held_high_band(denoised[[row]], content[[row]], mask[[row]], 0.2)
        torch.testing.assert_close(found[[row]], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[:, 1:2], held_high_band(denoised[:, 1:2], content[:, 1:2], mask, 0.2))


def test_one_content_and_one_mask_serve_a_batch_and_an_empty_mask_does_nothing(pictures, mask):
    denoised, content = pictures
    for band in (0.0, 0.2):
        found = held_high_band(denoised, content[:1], mask[:1], band)
        expected = held_high_band(denoised, content[[0, 0]], mask[[0, 0]], band)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        mask[1] = 0
        assert torch.equal(held_high_band(denoised, content, mask, band)[1], denoised[1])


# in SMS


def optimised(protection: Protection | None, steps: int = 12, **terms) -> tuple[torch.Tensor, torch.Tensor]:
    """(source, result) under a score that is the same at every step, so that a step does not depend on the last."""
    source, score = drawn(1, 3, *SIZE).float(), drawn(1, 3, *SIZE, seed=6).float()
    schedule = make_schedule([400] * steps, 0)
    predict = lambda x, step: (torch.zeros_like(score), score)  # noqa: E731
    given = Terms(spectrum=0.0, protection=protection, **terms)
    return source, optimize(source, schedule, predict, lambda x, noise, step: x, 3, given)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_share_of_the_change_does_not_compound_over_the_steps(mask, strength):
    source, free = optimised(None)
    _, found = optimised(Protection(mask[1:], 0.0, strength))
    torch.testing.assert_close(found - source, (1 - strength * mask[1:]).float() * (free - source))
    whole = (mask[1:] == 1).expand_as(found)
    assert strength < 1 or torch.equal(found[whole], source[whole])


def test_optimisation_moves_tone_alone_in_the_region(mask):
    source, found = optimised(Protection(mask[1:], 0.1))
    moved = (found - source)[0, :, 6:, 8:]
    assert moved.mean((1, 2)).abs().min() > 1e-3
    _, free = optimised(None)
    rough = lambda change: (change - change.mean((1, 2), keepdim=True)).norm()  # noqa: E731
    assert rough(moved) < 0.5 * rough((free - source)[0, :, 6:, 8:])
    assert torch.equal(found[..., :6, :], free[..., :6, :])
