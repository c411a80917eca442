"""Checks of latents that several nodes share."""

from __future__ import annotations

import importlib
import importlib.util
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def inputs(pack_nodes):
    return importlib.import_module("stylization.nodes.inputs")


def picture(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 4, 12, 10), generator=torch.Generator().manual_seed(0))


def test_latent_of_a_picture_is_passed_on(inputs):
    samples = picture()
    assert inputs.latent_samples({"samples": samples}) is samples


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_broken_values_are_counted(inputs, value):
    samples = picture()
    samples[0, 0, :2, 0] = value
    with pytest.raises(ValueError, match=r"^latent_image: 2 of its 960 values are NaN or infinite\. .*--fp32-vae"):
        inputs.latent_samples({"samples": samples})


def test_empty_latent_is_refused(inputs):
    with pytest.raises(ValueError, match="all zeros.*VAE Encode"):
        inputs.latent_samples({"samples": torch.zeros(1, 4, 8, 8)})


@pytest.mark.parametrize("shape", [(1, 4, 8), (1, 16, 5, 8, 8)])
def test_latents_of_other_kinds_are_refused_with_their_shape(inputs, shape):
    with pytest.raises(ValueError) as caught:
        inputs.latent_samples({"samples": torch.ones(shape)}, "resume_latent")
    assert str(caught.value).startswith("resume_latent: ")
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([10.0, 5.0, 5.0, 0.0], r"level 3 \(5\) is not below the one before"),
        ([5.0, 10.0, 0.0], r"level 2 \(10\) is not below"),
        ([10.0, 0.0, 0.0], r"level 3 \(0\) is not below"),
        ([0.0], "no level above zero"),
        ([], "no level above zero"),
    ],
)
def test_levels_that_do_not_fall_are_refused(inputs, levels, words):
    with pytest.raises(ValueError, match=f"^sigmas: .*{words}"):
        inputs.check_falling(torch.tensor(levels))


@pytest.mark.parametrize("levels", [[10.0, 5.0, 0.0], [1.0]])
def test_levels_that_fall_pass(inputs, levels):
    inputs.check_falling(torch.tensor(levels))


def test_latents_of_several_streams_are_refused(inputs):
    with pytest.raises(ValueError, match="several streams"):
        inputs.latent_samples({"samples": SimpleNamespace(is_nested=True)})


def test_latent_of_another_kind_of_model_is_refused_with_both_numbers(inputs, rig):
    with pytest.raises(ValueError, match="latent_image: it has 4 channels, latents of model have 16"):
        inputs.check_channels(rig.micro.flux(), picture())


def test_latent_of_the_model_is_taken(inputs, rig):
    inputs.check_channels(rig.micro.unet(), picture())


def test_a_missing_package_is_named_before_anything_runs(inputs, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("pywt", "matplotlib") else found(name)
    )
    expected = r"^requirements: .*: matplotlib, PyWavelets\. Run `.* -m pip install -r .*requirements\.txt`"
    with pytest.raises(ValueError, match=expected):
        inputs.check_installed()


@pytest.mark.parametrize("node", ["StylizeReport", "StylizeContentBudget"])
def test_nodes_that_measure_ask_for_their_packages_first(inputs, monkeypatch, node):
    nodes = importlib.import_module("stylization.nodes.measure")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    wrapped = getattr(nodes, node).execute.__func__.__wrapped__
    given = dict.fromkeys((one.id for one in getattr(nodes, node).GET_SCHEMA().inputs), None)
    with pytest.raises(ValueError, match=r"^Stylize \w+( \w+)?, requirements: not installed"):
        wrapped(getattr(nodes, node), **given)
