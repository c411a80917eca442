"""Streams of random numbers that do not disturb each other."""

from __future__ import annotations

import pytest
import torch
from stylization.stylization_core.randomness import on_device, stream


def numbers(seed: int, purpose: str, count: int = 8) -> list[float]:
    return torch.rand(count, generator=stream(seed, purpose)).tolist()


def test_same_seed_and_purpose_give_the_same_numbers():
    assert numbers(3, "noise") == numbers(3, "noise")


@pytest.mark.parametrize(("seed", "purpose"), [(4, "noise"), (3, "timestep")])
def test_another_seed_or_purpose_gives_other_numbers(seed, purpose):
    assert numbers(seed, purpose) != numbers(3, "noise")


def test_streams_of_neighbouring_seeds_are_uncorrelated():
    columns = torch.stack([torch.randn(4096, generator=stream(seed, "noise")) for seed in range(6)])
    correlation = torch.corrcoef(columns) - torch.eye(6)
    assert correlation.abs().max() < 0.08


def test_drawing_from_one_stream_leaves_another_alone():
    first, second = stream(1, "noise"), stream(1, "relevance")
    torch.rand(1000, generator=second)
    assert torch.rand(8, generator=first).tolist() == numbers(1, "noise")


def test_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = numbers(9, "noise")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert numbers(9, "noise") == first


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_every_seed_of_comfyui_is_accepted(seed):
    assert len(set(numbers(seed, "noise"))) == 8


def test_generator_lives_on_the_cpu():
    assert stream(0, "noise").device == torch.device("cpu")


def test_noise_goes_to_a_gpu_without_anybody_waiting(monkeypatch):
    """A copy from pageable memory waits for all that the device has to do before it."""
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: asked.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **how: asked.append((device.type, how)) or self)
    drawn = torch.ones(2)
    assert on_device(drawn, torch.device("cuda")) is drawn
    assert asked == ["pinned", ("cuda", {"non_blocking": True})]


def test_noise_stays_where_the_run_is_on_the_cpu():
    drawn = torch.ones(2)
    assert on_device(drawn, torch.device("cpu")) is drawn
