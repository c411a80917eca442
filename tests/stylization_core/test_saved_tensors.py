"""Gradients through code that overwrites what the backward pass needs."""

from __future__ import annotations

import gc

import pytest
import torch


@pytest.fixture
def copied(core):
    from stylization.stylization_core.saved_tensors import copied_before_writing

    return copied_before_writing


def overwriting(x: torch.Tensor, rounds: int) -> torch.Tensor:
    """Saves, overwrites and lets go of a tensor in each round; sizes change, so that a mix-up shows."""
    total = x.new_zeros(())
    for k in range(rounds):
        size = 3 + k % 4
        y = torch.sin(x[:size])
        total = total + (y * y).sum() * (k + 1)
        y.mul_(0)
        y.add_(7)
        del y
    return total


def plain(x: torch.Tensor, rounds: int) -> torch.Tensor:
    return sum((torch.sin(x[: 3 + k % 4]) ** 2).sum() * (k + 1) for k in range(rounds))


def test_gradients_are_those_of_the_values_at_the_time_of_saving(copied):
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(plain(x, 200), x)
    with copied():
        (found,) = torch.autograd.grad(overwriting(x, 200), x)
    torch.testing.assert_close(found, expected)


def test_without_it_autograd_refuses():
    x = torch.ones(8).requires_grad_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(overwriting(x, 1), x)


@pytest.mark.parametrize("write", ["view", "out", "foreach", "setitem", "relu"])
def test_every_way_of_writing_is_seen(copied, write):
    x = torch.linspace(0.1, 1, 6, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad((torch.exp(x) ** 2).sum(), x)
    with copied():
        y = torch.exp(x)
        loss = (y * y).sum()
        with torch.no_grad():
            if write == "view":
                y.view(2, 3)[1].zero_()
            elif write == "out":
                torch.mul(y, 3, out=y)
            elif write == "foreach":
                torch._foreach_mul_([y], 2.0)
            elif write == "setitem":
                y[2:4] = -5
            else:
                torch.relu_(y.sub_(2))
        (found,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(found, expected)


def test_untouched_tensors_are_not_copied(copied):
    x = torch.ones(4).requires_grad_()
    with copied():
        y = torch.exp(x)
        assert y.grad_fn._saved_result.data_ptr() == y.data_ptr()


def test_nothing_outlives_the_graph(copied):
    kept = lambda: sum(type(one).__name__ == "_Saved" for one in gc.get_objects())  # noqa: E731
    before = kept()
    with copied():
        x = torch.ones(4).requires_grad_()
        loss = overwriting(x, 3)
        assert kept() > before
        torch.autograd.grad(loss, x)
        del loss
        assert kept() == before
