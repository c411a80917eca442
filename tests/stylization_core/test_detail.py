"""The photograph's detail under a stylization."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from stylization.stylization_core.detail import restored


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def lossy(x: torch.Tensor) -> torch.Tensor:
    """A VAE that smooths: linear, as the loss of a good one is to first order."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)


def test_what_the_vae_loses_comes_back():
    photo = drawn(1, 24, 24, 3) * 0.5 + 0.2
    tone = torch.tensor([0.1, -0.05, 0.15])  # a change of tone, which smoothing keeps inside
    found = restored(photo, lossy(photo), lossy(photo) + tone)
    torch.testing.assert_close(found, photo + tone)
    assert (lossy(photo) + tone - (photo + tone)).abs().mean() > 0.05


def test_strength_zero_is_the_photo_itself():
    photo = drawn(1, 8, 8, 3)
    assert restored(photo, photo, photo + 1, 0.0) is photo


def test_the_change_is_linear_in_strength_and_clipped_once():
    photo, after = torch.full((1, 4, 4, 3), 0.5), torch.full((1, 4, 4, 3), 0.7)
    assert restored(photo, photo, after, 0.5).mean() == pytest.approx(0.6)
    assert restored(photo, photo, after, 5.0).max() == 1.0


def test_outside_the_mask_the_photo_stays_bit_for_bit():
    photo, after, mask = drawn(2, 10, 12, 3), drawn(2, 10, 12, 3, seed=1), torch.zeros(1, 10, 12)
    mask[:, 2:6, 3:9] = drawn(4, 6, seed=2)
    found = restored(photo, lossy(photo), after, 1.0, mask)
    assert torch.equal(found[(mask == 0).expand(2, -1, -1)], photo[(mask == 0).expand(2, -1, -1)])
    assert (found - photo).abs().amax(-1)[0, 3, 4] > 1e-3


def test_one_photo_serves_many_results():
    photo, after = drawn(1, 8, 8, 3), drawn(3, 8, 8, 3, seed=1)
    assert restored(photo, lossy(photo), after).shape == (3, 8, 8, 3)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 8, 8, 3), (1, 8, 8, 3), (1, 8, 9, 3)), "after: it decodes to 9x8 pixels, photo is 8x8. Connect latents"),
        (((1, 8, 8, 3), (1, 16, 8, 3), (1, 8, 8, 3)), "before: it decodes to 8x16 pixels, photo is 8x8."),
        (((2, 8, 8, 3), (1, 8, 8, 3), (3, 8, 8, 3)), "after: photo has 2 pictures, before 1, after 3."),
    ],
)
def test_what_does_not_fit_is_refused_by_name(shapes, message):
    with pytest.raises(ValueError) as caught:
        restored(*(torch.zeros(shape) for shape in shapes))
    assert str(caught.value).startswith(message)
