"""The student network: identity at the start, its field, sizes, tiles."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.student import SIZES, Student
from stylization.stylization_core.tiles import bytes_for, tile_for, tiled


def trained(width: int = 8, blocks: int = 2, seed: int = 1) -> Student:
    """A student whose residual is not zero, of random weights, so that its field is used in full."""
    made = Student(width, blocks, seed)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.3)
    return made.eval().requires_grad_(False)


def picture(height: int, width: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size", "parameters", "field", "halo"),
    [("S", 136_416, 212, 104), ("M", 588_816, 308, 152), ("L", 5_745_968, 500, 248)],
)
def test_sizes_are_those_that_are_named(size, parameters, field, halo):
    made = Student(*SIZES[size])
    assert sum(one.numel() for one in made.parameters()) == parameters
    assert (made.field, made.halo) == (field, halo)


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0])
def test_an_untrained_student_is_the_identity_bit_for_bit(strength):
    x = picture(31, 45, rows=2)
    assert torch.equal(Student(16, 2)(x, strength), x)


def test_strength_zero_is_the_picture_itself():
    x = picture(16, 16)
    assert trained()(x, 0.0) is x


def test_strength_is_linear_and_may_differ_by_picture():
    x, student = picture(20, 24, rows=3), trained()
    change = student(x) - x
    assert change.abs().max() > 0.1
    found = student(x, torch.tensor([0.0, 0.5, 2.0]))
    for row, strength in enumerate((0.0, 0.5, 2.0)):
        torch.testing.assert_close(found[row], x[row] + strength * change[row])


def test_the_seed_gives_the_weights_and_leaves_other_draws_alone():
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    one, other = Student(8, 1, seed=3), Student(8, 1, seed=3)
    assert torch.equal(torch.rand(3), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not torch.equal(one.enter.weight, Student(8, 1, seed=4).enter.weight)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (4, 4), (30, 41)])
def test_any_size_comes_back_at_its_size(size):
    assert trained()(picture(*size)).shape[-2:] == size


def test_the_field_is_exactly_what_is_said():
    """Gradients of one pixel block reach its whole field and nothing beyond."""
    student = trained(blocks=1)
    side = student.field + 24
    x = picture(side, side).requires_grad_()
    place = side // 2 - side // 2 % 4
    student.residual(x)[..., place : place + 4, place : place + 4].sum().backward()
    touched = (x.grad.abs().sum((0, 1)) > 0).nonzero()
    low, high = touched.amin(0), touched.amax(0)
    assert (high - low + 1).tolist() == [student.field, student.field]
    assert low.tolist() == [place - student.halo] * 2


@pytest.mark.parametrize("size", [(96, 96), (101, 67), (3, 200), (150, 90)])
@pytest.mark.parametrize("tile", [16, 30, 64])
def test_tiles_are_the_whole_bit_for_bit(size, tile):
    student, x = trained(blocks=1), picture(*size, rows=2)
    assert torch.equal(tiled(student, x, tile, student.halo), student(x))


def test_a_smaller_halo_shows():
    student, x = trained(blocks=1), picture(96, 96)
    assert (tiled(student, x, 32, student.halo - 8) - student(x)).abs().max() > 1e-4


def test_a_halo_that_would_shift_the_blocks_is_refused():
    with pytest.raises(ValueError, match="halo must be a multiple of 4, got 10"):
        tiled(trained(), picture(40, 40), 16, 10)


def test_every_tile_can_be_interrupted():
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    student = trained(blocks=1)
    with pytest.raises(KeyboardInterrupt):
        tiled(student, picture(64, 64), 16, student.halo, stop)
    assert len(calls) == 3


def test_the_largest_tile_that_fits_is_taken():
    student = Student(*SIZES["S"])
    whole = bytes_for(student, 3000, 4000)
    assert tile_for(student, (3000, 4000), whole) == 0
    for share in (2, 5, 20):
        tile = tile_for(student, (3000, 4000), whole // share)
        side = tile + 2 * student.halo
        assert 0 < tile < 4000
        assert tile == 64 or bytes_for(student, side, side) <= whole // share
        larger = 2 * tile + 2 * student.halo
        assert bytes_for(student, larger, larger) > whole // share or larger > 4000


def test_no_normalisation_looks_over_the_picture():
    """What stands in one corner does not change the other."""
    student, x = trained(blocks=1), picture(96, 160)
    other = x.clone()
    other[..., :40] = 1.0
    far = 40 + student.halo
    assert torch.equal(student(x)[..., far:], student(other)[..., far:])
