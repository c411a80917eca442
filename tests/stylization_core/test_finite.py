"""Values that are not finite stop where they are seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stylization.stylization_core.errors import StylizationError
from stylization.stylization_core.finite import check_finite, check_finite_number

BROKEN = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("value", BROKEN)
def test_broken_values_are_counted_and_the_subject_is_named(value, dtype):
    tensor = torch.zeros(3, 4, dtype=dtype)
    tensor[1, :2] = value
    with pytest.raises(StylizationError) as caught:
        check_finite(tensor, "step 3, denoised", "Load the model in fp32")
    assert str(caught.value) == ("step 3, denoised: 2 of its 12 values are NaN or infinite. Load the model in fp32.")


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2), torch.zeros(0), torch.ones(2, dtype=torch.int64), torch.ones(1) > 0]
)
def test_finite_tensors_are_handed_on_themselves(tensor):
    assert check_finite(tensor, "content") is tensor


def test_tensors_of_inference_mode_and_with_gradients_can_be_asked():
    with torch.inference_mode():
        check_finite(torch.ones(2), "content")
    check_finite(torch.ones(2, requires_grad=True) * 2, "content")


@pytest.mark.parametrize("value", BROKEN)
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(StylizationError, match=r"^strength: it is -?(nan|inf)\. Give a number\.$"):
        check_finite_number(value, "strength")


@pytest.mark.parametrize("value", [None, "1", True, [1.0]])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(StylizationError, match=r"^strength: it is no number\."):
        check_finite_number(value, "strength")


@pytest.mark.parametrize("value", [0, -3, 2.5, 2**70])
def test_numbers_are_handed_on(value):
    assert check_finite_number(value, "strength") == value


def test_numbers_of_other_packs_are_numbers():
    for value in (np.int64(3), np.float32(0.5), np.float64(0.5), 10**400):
        assert check_finite_number(value, "strength") is value
    with pytest.raises(ValueError, match="strength: it is "):
        check_finite_number(np.float32("nan"), "strength")
