"""Masks at a latent's size."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.masks import latent_mask


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 4, 12, 10), generator=torch.Generator().manual_seed(0))


def test_no_mask_stays_no_mask():
    assert latent_mask(None, picture()) is None


@pytest.mark.parametrize(
    ("shape", "batch"),
    [
        ((96, 80), 1),
        ((1, 96, 80), 1),
        ((2, 96, 80), 2),
        ((1, 1, 96, 80), 1),
        ((2, 1, 96, 80), 2),
        ((1, 48, 40), 1),
        ((1, 12, 10), 1),
    ],
)
def test_mask_is_brought_to_the_latents_size(shape, batch):
    assert latent_mask(torch.ones(shape), picture()).shape == (batch, 1, 12, 10)


def test_mask_is_averaged_over_each_cell():
    mask = torch.zeros(1, 96, 80)
    mask[:, :4, :8] = 1.0
    cells = latent_mask(mask, picture())
    assert cells[0, 0, 0, 0] == 0.5
    assert cells.sum() == 0.5


def test_mask_at_the_latents_size_is_taken_as_it_is():
    mask = picture(2, 12, 10).sigmoid()
    assert torch.equal(latent_mask(mask, picture())[:, 0], mask)


def test_each_picture_has_its_own_mask():
    mask = torch.stack([torch.zeros(96, 80), torch.ones(96, 80)])
    assert latent_mask(mask, picture()).flatten(1).tolist() == [[0.0] * 120, [1.0] * 120]


def test_smaller_mask_is_spread_over_the_cells():
    mask = torch.tensor([[[0.0, 1.0], [0.5, 0.25]]])
    cells = latent_mask(mask, picture(1, 4, 4, 4))[0, 0]
    expected = [[0.0, 0.0, 1.0, 1.0]] * 2 + [[0.5, 0.5, 0.25, 0.25]] * 2
    assert cells.tolist() == expected


def test_other_number_types_are_taken():
    for kind in (torch.float16, torch.float64, torch.uint8, torch.bool):
        cells = latent_mask(torch.ones(96, 80, dtype=kind), picture())
        assert cells.dtype == torch.float32 and cells.min() == 1.0


@pytest.mark.parametrize(("value", "taken"), [(3.0, 1.0), (-2.0, 0.0)])
def test_mask_beyond_its_range_is_clamped(value, taken):
    cells = latent_mask(torch.full((1, 96, 80), value), picture())
    assert cells.min() == cells.max() == taken


def test_mask_is_not_written_to():
    mask = torch.full((1, 12, 10), 2.0)
    latent_mask(mask, picture())
    assert mask.min() == 2.0


@pytest.mark.parametrize("off", [1, 7])
def test_mask_of_a_picture_that_vae_encode_crops_is_taken(off):
    assert latent_mask(torch.ones(1, 96 + off, 80 + off), picture()).shape == (1, 1, 12, 10)


@pytest.mark.parametrize("shape", [(1, 80, 96), (1, 96, 96), (1, 64, 64), (1, 192, 80)])
def test_mask_of_another_aspect_is_refused_with_both_sizes(shape):
    with pytest.raises(ValueError) as caught:
        latent_mask(torch.ones(shape), picture())
    assert type(caught.value).__name__ == "StylizationError"
    message = str(caught.value)
    assert message.startswith(f"mask: it is {shape[2]}x{shape[1]} pixels, the picture about 80x96.")
    assert "resize it" in message


def test_refusal_names_the_input_and_knows_the_pixels_of_a_cell():
    with pytest.raises(ValueError, match="^latent_image: it is 64x64 pixels, the picture about 160x192"):
        latent_mask(torch.ones(64, 64), picture(), 16, "latent_image")


def test_mask_batch_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="mask: it has 3 entries for 2 pictures. Use one mask, or one per picture"):
        latent_mask(torch.ones(3, 96, 80), picture())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_values_are_refused_with_their_number(value):
    mask = torch.ones(1, 64, 64)
    mask[0, 3, 5] = value
    with pytest.raises(ValueError, match="1 of its 4096 values are NaN or infinite"):
        latent_mask(mask, torch.zeros(1, 4, 8, 8))
