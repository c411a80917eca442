"""What a student learns from, against closed forms and autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from stylization.stylization_core import student_training as training
from stylization.stylization_core.sms.optimize import PUBLISHED_LAMBDA
from stylization.stylization_core.spectrum import dct2, idct2, low_band
from stylization.stylization_core.student import Student


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_published_warm_up_by_reconstruction_has_nothing_to_do():
    """An untrained student reconstructs its input exactly, so the loss is 0 before the first step."""
    x = drawn(2, 3, 24, 24)
    assert training.target_loss(Student(16, 2)(x), x) == 0


def test_what_a_vae_loses_cancels_in_the_difference():
    photo, change = drawn(1, 3, 16, 16), drawn(1, 3, 16, 16, seed=1) - 0.5
    blurred = photo.mean((-2, -1), keepdim=True)
    found = training.difference_target(blurred + change, blurred, photo)
    torch.testing.assert_close(found, photo + change)


def test_target_loss_sees_values_and_slopes():
    flat, steps = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    steps[..., ::2] = 1.0
    assert training.target_loss(flat + 0.25, flat) == pytest.approx(0.25)
    assert training.target_loss(steps, flat) == pytest.approx(0.5 + 1.0)


def test_range_loss_counts_only_what_leaves():
    x = torch.tensor([-0.5, 0.0, 0.5, 1.0, 2.0])
    assert training.range_loss(x) == pytest.approx(1.5 / 5)


def test_a_change_that_follows_shifts_costs_only_the_noise():
    x = drawn(1, 3, 40, 40)
    assert training.shift_loss(lambda x: 0.5 * x, x, stream()) < 0.01
    cells = torch.zeros(1, 1, 40, 40)
    cells[..., ::4] = 1.0  # sits on the grid of blocks, wherever the picture is
    fixed = training.shift_loss(lambda x: cells[..., : x.shape[-2], : x.shape[-1]], x, stream(3))
    assert fixed > 0.3


def test_shift_loss_reaches_the_network():
    student = Student(8, 1)
    torch.nn.init.normal_(student.leave.weight)
    training.shift_loss(student.residual, drawn(1, 3, 24, 24), stream()).backward()
    assert student.enter.weight.grad.abs().sum() > 0


def test_crops_are_parts_of_the_pictures_by_draws_alone():
    pictures = [torch.full((4, 60, 90), float(index)) for index in range(3)]
    found = training.crops(pictures, 16, 6, stream(1))
    assert found.shape == (6, 4, 16, 16)
    assert sorted(float(one.mean()) for one in found) == [0, 0, 1, 1, 2, 2]
    assert torch.equal(found, training.crops(pictures, 16, 6, stream(1)))
    assert not torch.equal(found, training.crops(pictures, 16, 6, stream(2)))


def test_crops_keep_the_channels_together_at_all_scales_and_mirrors():
    ramp = torch.linspace(0, 1, 120).expand(1, 80, 120)
    found = training.crops([torch.cat([ramp, ramp])], 20, 64, stream())
    assert torch.equal(found[:, 0], found[:, 1])
    slopes = found[:, 0].diff(dim=-1).mean((-2, -1)) * 119
    assert slopes.abs().min() < 0.75 and slopes.abs().max() > 1.5  # zoomed in and out
    assert (slopes > 0).any() and (slopes < 0).any()  # mirrored or not


def test_a_small_picture_gives_the_largest_part_that_it_has():
    assert training.crops([drawn(3, 10, 50)], 32, 2, stream()).shape == (2, 3, 32, 32)


def test_score_gradient_is_the_formula():
    z, source, style, fake = (drawn(2, 4, 6, 8, seed=seed) for seed in range(4))
    weights, rates, blend, relevance = (0.5, 2.0), (0.3, 0.9), 0.25, drawn(2, 1, 6, 8, seed=9)
    found = training.score_gradient_of(
        z, source, style, fake, weights=weights, rates=rates, blend=blend, relevance=relevance, spectrum=3.0
    )
    for row in range(2):
        mixed = (1 - blend) * fake[row] + blend * z[row]
        wanted = weights[row] * (mixed - style[row]) * relevance[row]
        signs = torch.sign(dct2(z[row] - source[row])) * low_band(6, 8, rates[row])
        torch.testing.assert_close(found[row], wanted + 3 * PUBLISHED_LAMBDA * idct2(signs))


def test_score_loss_has_the_score_as_its_gradient_and_nothing_else():
    z, gradient = drawn(2, 4, 5, 5).requires_grad_(), drawn(2, 4, 5, 5, seed=1).requires_grad_()
    training.score_loss(gradient, z, 0.5).backward()
    torch.testing.assert_close(z.grad, gradient.detach() / 0.5 / z.numel())
    assert gradient.grad is None


def test_the_scale_never_falls_below_a_quarter_of_what_it_was():
    scale = training.RunningScale()
    for _ in range(training.WARMUP):
        scale.update(torch.full((10,), 2.0))
    for _ in range(2000):
        found = scale.update(torch.full((10,), 1e-6))
    assert found == pytest.approx(0.5)
    assert scale.update(torch.full((10,), 1e4)) > 100  # it follows upwards
    before = scale.value
    assert scale.update(torch.full((10,), float("nan"))) == scale.value == before


def test_objectives_lead_as_they_are_named():
    steps = 1001
    shares = [training.BOTH.share(step, steps) for step in (0, 700, 850, 1000)]
    assert shares == pytest.approx([1.0, 1.0, 0.6, 0.2])
    assert training.TARGETS.share(1000, steps) == 1.0
    assert training.SCORE.share(0, steps) == 0.0


@pytest.mark.parametrize(("objective", "peak"), [(training.TARGETS, 1.0), (training.BOTH, 1.0), (training.SCORE, 0.1)])
def test_learning_rate_warms_up_and_falls(objective, peak):
    rates = [objective.learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] == pytest.approx(peak / 50) and max(rates) == pytest.approx(peak)
    assert rates.index(max(rates)) == 49 and rates[-1] == pytest.approx(0.02 * peak)
    assert all(a >= b for a, b in zip(rates[50:], rates[51:], strict=False))


def test_each_way_to_run_away_is_seen():
    photo, source = drawn(2, 3, 16, 16), drawn(2, 4, 8, 8, seed=1)
    assert training.collapse(photo, photo, source, source) is None
    assert training.collapse(photo * float("nan"), photo) == "its pictures are not finite"
    assert "contrast" in training.collapse(torch.full_like(photo, 0.4), photo)
    moved = copy.copy(source)
    moved = moved + torch.tensor([0.0, 0.0, 4.0, 0.0]).reshape(1, 4, 1, 1)
    assert "mean of a latent channel" in training.collapse(photo, photo, moved, source)
    wide = (source - source.mean((0, 2, 3), keepdim=True)) * 3.5 + source.mean((0, 2, 3), keepdim=True)
    assert "varies more" in training.collapse(photo, photo, wide, source)
