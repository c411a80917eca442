"""A style apart from the network: attaching, adding, lifting out of a clone."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def paths(rig, micro, tmp_path):
    """Two LoRA files, A and B."""
    return {
        "A": rig.loras.saved(rig.loras.kohya(micro), tmp_path / "a.safetensors"),
        "B": rig.loras.saved(rig.loras.full(micro), tmp_path / "b.safetensors"),
    }


def dense(rig, patcher, branch) -> dict[str, torch.Tensor]:
    """The branch as full weight differences."""
    found = {}
    for key, deltas in branch.deltas.items():
        name, _, parameter = key.rpartition(".")
        module = patcher.model.get_submodule(name)
        parts = [rig.row_gate.full_delta(delta, module, "cpu", parameter) for delta in deltas]
        found[key] = torch.stack(parts).sum(0)
    return found


def assert_same(one: dict, other: dict, sign: float = 1.0) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], sign * other[key], atol=1e-6, rtol=1e-5)


def load(rig, patcher, path, strength=0.8):
    return rig.lora_files.load_style(path, patcher, strength)


def test_attaching_leaves_the_model_alone(rig, micro, paths):
    before = rig.leaks.state(micro)
    styled = rig.style_branch.attach(micro, load(rig, micro, paths["A"]))
    assert rig.style_branch.attached(micro) is None
    assert rig.style_branch.attached(styled) is not None
    assert styled.model is micro.model
    assert rig.leaks.state(micro) == before


def test_attachment_survives_a_clone_and_a_second_style_does_not_reach_back(rig, micro, paths):
    first = rig.style_branch.attach(micro, load(rig, micro, paths["A"]))
    second = rig.style_branch.attach(first.clone(), load(rig, micro, paths["B"]))
    alone, both = rig.style_branch.attached(first), rig.style_branch.attached(second)
    assert alone.label == "a.safetensors"
    assert both.label == "a.safetensors + b.safetensors"
    assert sum(map(len, both.deltas.values())) > sum(map(len, alone.deltas.values()))


def test_branch_cannot_be_changed(rig, micro, paths):
    branch = load(rig, micro, paths["A"])
    with pytest.raises(AttributeError):
        branch.label = "other"


def test_memory_is_that_of_its_tensors(rig, micro, paths):
    branch, weights = load(rig, micro, paths["A"]), rig.lora_files.read(paths["A"])
    factors = sum(t.numel() * t.element_size() for key, t in weights.items() if not key.endswith("alpha"))
    assert branch.nbytes == factors


def test_stock_lora_on_the_style_is_lifted(rig, micro, paths):
    style = rig.loras.weight_patched(micro, paths["A"], 0.8)
    lifted = rig.style_branch.lifted(micro, style)
    assert_same(dense(rig, micro, lifted), dense(rig, micro, load(rig, micro, paths["A"])))


def test_what_both_carry_cancels(rig, micro, paths):
    base = rig.loras.weight_patched(micro, paths["A"], 0.8)
    style = rig.loras.weight_patched(base, paths["B"], 0.5)
    lifted = rig.style_branch.lifted(base, style)
    assert_same(dense(rig, micro, lifted), dense(rig, micro, load(rig, micro, paths["B"], 0.5)))


def test_base_with_a_and_style_with_b_is_b_minus_a(rig, micro, paths):
    base = rig.loras.weight_patched(micro, paths["A"], 0.8)
    style = rig.loras.weight_patched(micro, paths["B"], 0.5)
    lifted = dense(rig, micro, rig.style_branch.lifted(base, style))
    minus, plus = (dense(rig, micro, load(rig, micro, paths[k], s)) for k, s in (("A", 0.8), ("B", 0.5)))
    assert_same(lifted, {key: plus[key] - minus.get(key, 0) for key in plus})


def test_lora_only_the_base_has_counts_negatively(rig, micro, paths):
    base = rig.loras.weight_patched(micro, paths["A"], 0.8)
    lifted = dense(rig, micro, rig.style_branch.lifted(base, micro))
    assert_same(lifted, dense(rig, micro, load(rig, micro, paths["A"])), sign=-1.0)


def test_the_same_file_through_two_loaders_cancels(rig, micro, paths):
    """Each stock loader reads the file anew: equal tensors, not the same ones."""
    one, two = (rig.loras.weight_patched(micro, paths["A"], 0.8) for _ in range(2))
    assert rig.style_branch.lifted(one, two).deltas == {}


def test_the_same_file_at_two_strengths_does_not_cancel(rig, micro, paths):
    one, two = (rig.loras.weight_patched(micro, paths["A"], strength) for strength in (0.3, 0.8))
    lifted = dense(rig, micro, rig.style_branch.lifted(one, two))
    assert_same(lifted, dense(rig, micro, load(rig, micro, paths["A"], 0.5)))


def test_one_of_two_equal_loras_cancels_once(rig, micro, paths):
    once = rig.loras.weight_patched(micro, paths["A"], 0.8)
    twice = rig.loras.weight_patched(once, paths["A"], 0.8)
    lifted = dense(rig, micro, rig.style_branch.lifted(once, twice))
    assert_same(lifted, dense(rig, micro, load(rig, micro, paths["A"])))


def test_the_second_of_two_whole_differences_cancels(rig, micro, paths, tmp_path):
    halved = {key: 0.5 * value for key, value in rig.loras.full(micro).items()}
    other = rig.loras.saved(halved, tmp_path / "c.safetensors")
    base = rig.loras.weight_patched(micro, paths["B"], 0.8)
    style = rig.loras.weight_patched(rig.loras.weight_patched(micro, other, 0.8), paths["B"], 0.8)
    lifted = dense(rig, micro, rig.style_branch.lifted(base, style))
    assert_same(lifted, dense(rig, micro, load(rig, micro, other)))


def test_files_that_differ_in_alpha_alone_do_not_cancel(rig, micro, tmp_path):
    files = [
        rig.loras.saved(rig.loras.kohya(micro, alpha=alpha), tmp_path / f"{alpha}.safetensors") for alpha in (2.0, 4.0)
    ]
    one, two = (rig.loras.weight_patched(micro, path, 0.8) for path in files)
    assert rig.style_branch.lifted(one, two).deltas


def test_attached_style_is_added_to_what_is_lifted(rig, micro, paths):
    patched = rig.loras.weight_patched(micro, paths["A"], 0.8)
    style = rig.style_branch.attach(patched, load(rig, micro, paths["B"], 0.5))
    lifted = dense(rig, micro, rig.style_branch.lifted(micro, style))
    one, two = (dense(rig, micro, load(rig, micro, paths[k], s)) for k, s in (("A", 0.8), ("B", 0.5)))
    assert_same(lifted, {key: two[key] + one.get(key, 0) for key in two})


def test_merge_is_refused_with_its_share(rig, micro):
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    merged = ModelMergeSimple().merge(micro, rig.micro.unet(seed=1), 0.25)[0]
    with pytest.raises(ValueError, match=r"style_model: .*scales the model's own weight by 0\.25 \(a merge"):
        rig.style_branch.lifted(micro, merged)


def test_sum_of_two_models_is_refused_as_a_merge(rig, micro):
    """Add and subtract nodes leave the model's own weight at 1 but carry whole weights of another model."""
    from comfy_extras.nodes_model_merging import ModelAdd

    added = ModelAdd().merge(micro, rig.micro.unet(seed=1))[0]
    with pytest.raises(ValueError, match=r"style_model: .*adds another model's weights \(a merge"):
        rig.style_branch.lifted(micro, added)
