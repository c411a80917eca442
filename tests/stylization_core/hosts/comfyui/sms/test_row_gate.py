"""The row-gated LoRA against ComfyUI's own weight patching and the plain model."""

from __future__ import annotations

import pytest
import torch

STRENGTH = 0.8
LAYOUTS = ([0], [1], [1, 0], [2, 1], [0, 0, 1])
"""Chunks of a model call as indexes into (style, base, negative of the base); a repeated one is two areas."""


class Family:
    """One model with a LoRA: rows by the plain and by the weight-patched model, and the layout tolerance."""

    def __init__(self, rig, patcher, path: str, width: int, channels: int, adm: int):
        self.rig, self.patcher = rig, patcher
        self.branch = rig.lora_files.load_style(path, patcher, STRENGTH)
        self.x = rig.runs.drawn(9, channels, 9, 7, seed=4)
        self.context = rig.runs.drawn(9, 7, width, seed=5)
        self.y = rig.runs.drawn(9, adm, seed=6) if adm else None
        rows = list(range(9))
        self.styled = self.call(rows, patcher=rig.loras.weight_patched(patcher, path, STRENGTH))
        self.plain = self.call(rows)
        self.tolerance = (torch.cat([self.call([row]) for row in rows]) - self.plain).abs().max().item()

    def call(self, rows: list[int], patcher=None, **transformer_options) -> torch.Tensor:
        patcher = patcher or self.patcher
        self.rig.model_management.load_models_gpu([patcher])
        named = {} if self.y is None else {"y": self.y[rows]}
        with torch.inference_mode():
            return patcher.model.apply_model(
                self.x[rows],
                torch.full((len(rows),), self.rig.runs.SIGMA),
                c_crossattn=self.context[rows],
                transformer_options=transformer_options,
                **named,
            )

    def gated(self, layout: list[int], rows: list[int]) -> torch.Tensor:
        requests = (self.rig.runs.STYLE, self.rig.runs.BASE, self.rig.runs.BASE_NEGATIVE)
        branches = self.rig.rows
        options = branches.with_polarities({"cond_or_uncond": layout, branches.BRANCHES: requests})
        gate = self.rig.row_gate.RowGate(self.branch)
        wrappers = {self.rig.WrappersMP.APPLY_MODEL: {"gate": [gate]}}
        return self.call(rows, **options, wrappers=wrappers)


@pytest.fixture(scope="module", params=["sd15", "sdxl", "sd3"])
def family(request, rig, wiring_model, wiring_files):
    width, channels, adm = {"sd15": (768, 4, 0), "sdxl": (2048, 4, 2816), "sd3": (64, 16, 32)}[request.param]
    path = str(wiring_files.path(f"wiring_lora_{request.param}_kohya.safetensors"))
    return Family(rig, wiring_model(request.param), path, width, channels, adm)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_rows_equal_the_weight_patched_and_the_plain_model(family, layout, batch):
    rows = [chunk * 3 + row for chunk in range(len(layout)) for row in range(batch)]
    found = family.gated(layout, rows)
    style = torch.tensor([index == 0 for index in layout]).repeat_interleave(batch).view(-1, 1, 1, 1)
    expected = torch.where(style, family.styled[rows], family.plain[rows])
    difference = (found - expected).abs().max().item()
    assert 0 < family.tolerance < 1e-4
    assert difference <= 4 * family.tolerance, (difference, family.tolerance)
    assert (family.styled - family.plain).abs().max() > 1e3 * family.tolerance


def test_a_call_without_style_rows_is_the_plain_model_bit_for_bit(family):
    assert torch.equal(family.gated([2, 1], [0, 1]), family.call([0, 1]))


@pytest.fixture
def micro(rig, tmp_path):
    """(MODEL, LoRA path) of a micro UNet with a LoRA on every layer."""
    patcher = rig.micro.unet()
    return patcher, rig.loras.saved(rig.loras.kohya(patcher), tmp_path / "style.safetensors")


def assert_equals_weight_patched(rig, patcher, path, conditionings, x, *, branch=None, stock=None):
    """Four gated predictions against two of each of ComfyUI's own models, the weight-patched and the plain one."""
    branch = branch or rig.lora_files.load_style(path, patcher, STRENGTH)
    found = rig.runs.gated(patcher, branch, conditionings, rig.runs.FOUR, x)
    stock = stock or rig.runs.plain
    styled = stock(rig.loras.weight_patched(patcher, path, STRENGTH), conditionings, x)
    plain = stock(patcher, conditionings, x)
    tolerance = rig.runs.layout_tolerance(patcher, conditionings, x)
    expected = [styled["positive"], styled["negative"], plain["positive"], plain["negative"]]
    difference = max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True))
    assert (styled["positive"] - plain["positive"]).abs().max() > 1e3 * tolerance
    assert difference <= 4 * tolerance, (difference, tolerance)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(12, 10), (13, 9)])
def test_predictions_in_a_sampling_run(rig, micro, batch, size):
    assert_equals_weight_patched(rig, *micro, rig.runs.pair(), rig.runs.drawn(batch, 4, *size))


def test_predictions_in_split_calls(rig, micro, monkeypatch):
    patcher, path = micro
    rig.runs.split_calls(monkeypatch, patcher)
    recorded, calls = rig.runs.recording(patcher)
    assert_equals_weight_patched(rig, recorded, path, rig.runs.pair(), rig.runs.drawn(2, 4, 12, 10))
    assert {names for _, names, _ in calls if names} == {("style",), ("base",)}


def test_predictions_with_areas_of_two_sizes(rig, micro):
    patcher, path = micro
    runs = rig.runs
    left = runs.conditioning(1, area=(6, 5, 0, 0))
    right = runs.conditioning(3, area=(6, 5, 6, 5))
    conditionings = {"positive": left + right, "negative": runs.conditioning(2)}
    recorded, calls = runs.recording(patcher)
    assert_equals_weight_patched(rig, recorded, path, conditionings, runs.drawn(2, 4, 12, 10))
    layouts = {names for _, names, _ in calls if names}
    assert ("base",) * 4 + ("style",) * 4 in layouts, layouts  # ComfyUI gives the negative the same areas


def test_prompts_of_different_lengths(rig, micro):
    runs = rig.runs
    conditionings = {"positive": runs.conditioning(1, tokens=14), "negative": runs.conditioning(2, tokens=7)}
    assert_equals_weight_patched(rig, *micro, conditionings, runs.drawn(2, 4, 12, 10))


@pytest.mark.parametrize("kind", ["kohya", "tucker", "loha", "lokr", "full"])
def test_every_adapter(rig, tmp_path, kind):
    patcher = rig.micro.unet()
    path = rig.loras.saved(getattr(rig.loras, kind)(patcher), tmp_path / f"{kind}.safetensors")
    assert_equals_weight_patched(rig, patcher, path, rig.runs.pair(), rig.runs.drawn(2, 4, 12, 10))


@pytest.mark.parametrize("layout", ["diffusers", "processors", "peft", "peft_adapter"])
def test_every_file_layout_is_the_same_style(rig, tmp_path, layout):
    """The stock loader does not know all names of these layouts: the same numbers in kohya's are the reference."""
    patcher = rig.micro.unet()
    theirs = rig.loras.in_diffusers(patcher)
    only = {ours for name, ours in theirs.items() if layout != "processors" or ".to_" in name}
    reference = rig.loras.saved(rig.loras.kohya(patcher, only), tmp_path / "kohya.safetensors")
    path = rig.loras.saved(getattr(rig.loras, layout)(patcher), tmp_path / "other.safetensors")
    branch = rig.lora_files.load_style(path, patcher, STRENGTH)
    assert set(branch.deltas) == {f"diffusion_model.{name}.weight" for name in only}
    assert_equals_weight_patched(rig, patcher, reference, rig.runs.pair(), rig.runs.drawn(2, 4, 12, 10), branch=branch)


def test_two_styles_on_one_model_add_up(rig, tmp_path):
    patcher = rig.micro.unet()
    paths = [
        rig.loras.saved(rig.loras.kohya(patcher), tmp_path / "one.safetensors"),
        rig.loras.saved(rig.loras.full(patcher), tmp_path / "two.safetensors"),
    ]
    carrying, patched = patcher, patcher
    for path in paths:
        carrying = rig.style_branch.attach(carrying, rig.lora_files.load_style(path, patcher, 0.4))
        patched = rig.loras.weight_patched(patched, path, 0.4)
    x, conditionings = rig.runs.drawn(2, 4, 12, 10), rig.runs.pair()
    found = rig.runs.gated(patcher, rig.style_branch.attached(carrying), conditionings, rig.runs.FOUR, x)
    styled = rig.runs.plain(patched, conditionings, x)
    assert (found[0] - styled["positive"]).abs().max() <= 4 * rig.runs.layout_tolerance(patcher, conditionings, x)


FLUX_PARTS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.to_k",
    "transformer_blocks.0.attn.to_v",
    "transformer_blocks.0.attn.to_out.0",
    "transformer_blocks.0.attn.add_k_proj",
    "single_transformer_blocks.0.attn.to_q",
    "single_transformer_blocks.0.attn.to_v",
)


@pytest.mark.parametrize("layout", ["split", "fused"])
def test_flux_with_parts_of_its_fused_layers(rig, tmp_path, layout):
    patcher = rig.micro.flux()
    weights = rig.loras.flux_diffusers(FLUX_PARTS, 128) if layout == "split" else rig.loras.kohya(patcher)
    path = rig.loras.saved(weights, tmp_path / "flux.safetensors")
    if layout == "split":
        offsets = [d.offset for parts in rig.lora_files.load_style(path, patcher, 1.0).deltas.values() for d in parts]
        assert sorted(offset[1] for offset in offsets if offset is not None) == [0, 0, 128, 128, 256, 256]
    pair = rig.runs.pair(rig.micro.CONTEXT, rig.micro.POOLED)
    assert_equals_weight_patched(rig, patcher, path, pair, rig.runs.drawn(2, 16, 13, 10))


def seeded(rig):
    """ComfyUI's predictions with the global generator at one seed, as a sampling run leaves it to random patches."""

    def predictions(patcher, conditionings, x):
        torch.manual_seed(5)
        return rig.runs.plain(patcher, conditionings, x)

    return predictions


def test_hypertile_on_the_model(rig, micro):
    from comfy_extras.nodes_hypertile import HyperTile

    patcher, path = micro
    tiled = HyperTile.execute(patcher, tile_size=32, swap_size=2, max_depth=1, scale_depth=False)[0]
    rows = set()
    target = patcher.model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_q")
    handle = target.register_forward_hook(lambda module, inputs, output: rows.add(output.shape[0]))
    try:
        torch.manual_seed(5)
        assert_equals_weight_patched(rig, tiled, path, rig.runs.pair(), rig.runs.drawn(2, 4, 16, 16), stock=seeded(rig))
    finally:
        handle.remove()
    assert max(rows) > 8, rows  # the projection saw more rows than the eight of the batch


def test_token_merging_on_the_model(rig, micro):
    from comfy_extras.nodes_tomesd import TomePatchModel

    patcher, path = micro
    merging = TomePatchModel.execute(patcher, ratio=0.4)[0]
    conditionings, x = rig.runs.pair(), rig.runs.drawn(2, 4, 16, 16)
    branch = rig.lora_files.load_style(path, patcher, STRENGTH)
    found = rig.runs.gated(merging, branch, conditionings, rig.runs.FOUR, x)
    plain = rig.runs.plain(merging, conditionings, x)
    tolerance = rig.runs.layout_tolerance(merging, conditionings, x)
    assert (found[2] - plain["positive"]).abs().max() <= 4 * tolerance
    styled = rig.runs.plain(rig.loras.weight_patched(merging, path, STRENGTH), conditionings, x)
    assert (found[0] - styled["positive"]).abs().max() <= 4 * tolerance


def test_a_module_that_sees_a_broken_number_of_rows_is_refused_by_name(rig, micro):
    patcher, path = micro
    regrouping = patcher.clone()

    def drop_a_row(q, k, v, extra_options):
        return q[1:], k[1:], v[1:]

    regrouping.set_model_attn1_patch(drop_a_row)
    branch = rig.lora_files.load_style(path, patcher, STRENGTH)
    named = r"diffusion_model\.input_blocks\.1\.1.*attn1.*sees 7 rows.* batch has 8"
    with pytest.raises(rig.rows.StylizationError, match=named):
        rig.runs.gated(regrouping, branch, rig.runs.pair(), rig.runs.FOUR, rig.runs.drawn(2, 4, 12, 10))
    assert rig.leaks.network(patcher)["hooks"] == []


@pytest.mark.parametrize("seen", [1, 6])
def test_row_counts_that_are_no_multiple_are_refused(rig, seen):
    with pytest.raises(rig.rows.StylizationError, match="module to_q sees"):
        rig.row_gate.scale_rows([slice(0, 2)], 4, seen, "to_q")


def test_row_ranges_scale_with_the_module(rig):
    assert rig.row_gate.scale_rows([slice(0, 1), slice(2, 4)], 4, 12, "to_q") == [slice(0, 3), slice(6, 12)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_deltas_are_kept_in_the_dtype_of_the_run_and_made_once(rig, dtype):
    layer = torch.nn.Linear(6, 5).to(dtype)
    delta = rig.style_branch.Delta(1.0, ("diff", (torch.ones(5, 6),)))
    branch = rig.style_branch.StyleBranch("ones", {"layer.weight": (delta,)})
    gate = rig.row_gate.RowGate(branch)
    act = gate._action(("layer", 0), "weight", delta, layer, torch.zeros(1, 5, dtype=dtype))
    x, y = torch.ones(2, 6, dtype=dtype), torch.zeros(2, 5, dtype=dtype)
    act(x, y)
    assert torch.equal(y, torch.full((2, 5), 6.0, dtype=dtype))
    assert gate._action(("layer", 0), "weight", delta, layer, y) is act


def test_hooks_are_gone_after_a_failing_model_call(rig, micro):
    patcher, path = micro
    failing = patcher.clone()

    def fail(q, k, v, extra_options):
        raise ZeroDivisionError("inside the model")

    failing.set_model_attn2_patch(fail)
    branch = rig.lora_files.load_style(path, patcher, STRENGTH)
    with pytest.raises(ZeroDivisionError):
        rig.runs.gated(failing, branch, rig.runs.pair(), rig.runs.FOUR, rig.runs.drawn(1, 4, 8, 8))
    assert rig.leaks.network(patcher)["hooks"] == []
