"""Sharing over whole runs: off, window, dial, the reference's latents, series, group norms."""

from __future__ import annotations

import pytest
import torch

SAMPLERS = ("heun", "dpmpp_2m", "euler_ancestral")


def dialled(rig, model, value: float):
    clone = model.clone()
    clone.model_options["transformer_options"][rig.attachments.DIAL] = value
    return clone


# off is off


def nothing_shared(rig, model):
    sharing = rig.sharing
    none = sharing.described(weight=0.0)
    return {
        "weight 0": lambda: sharing.shared(model, weight=0.0),
        "window": lambda: sharing.shared(model, **sharing.NEVER),
        "references of weight 0": lambda: sharing.shared(model, none, none, norms=True),
        "dial 0": lambda: dialled(rig, sharing.shared(model, norms=True), 0.0),
        "mask of zeros": lambda: sharing.shared(model, mask=torch.zeros(1, 96, 80), norms=True),
        "batch, weight 0": lambda: sharing.in_batch(model, weight=0.0),
        "batch, window": lambda: sharing.in_batch(model, full=True, **sharing.NEVER),
        "batch, dial 0": lambda: dialled(rig, sharing.in_batch(model, norms=True), 0.0),
        "both, dial 0": lambda: dialled(rig, sharing.in_batch(sharing.shared(model)), 0.0),
    }


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_off_is_the_models_own_output_bit_for_bit(rig, micro, sampler):
    source, run = rig.runs.latent(), {"sampler": sampler, "sigmas": (3.0, 0.7, 0.0)}
    plain = rig.ordinary.sample(micro, source, **run)
    for name, made in nothing_shared(rig, micro).items():
        assert torch.equal(rig.ordinary.sample(made(), source, **run), plain), name
    # and each of them compares something
    for model in (rig.sharing.shared(micro), rig.sharing.in_batch(micro)):
        assert rig.runs.moved(rig.ordinary.sample(model, source, **run), plain) > 0.05


@pytest.mark.parametrize("window", [(1.0, 0.0), (0.0, 0.1), (0.97, 1.0)])
def test_window_outside_the_runs_levels_asks_for_nothing(rig, micro, monkeypatch, window):
    """The run goes from 3.0 to 0.2."""
    start, end = window
    calls = rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.sample(rig.sharing.shared(micro, start=start, end=end), rig.runs.latent())
    assert len(calls) == 4


def test_window_acts_between_its_levels_alone(rig, micro):
    """Percents 0.5 to 0.8 of the chain are levels 1.6 to 0.5."""
    window, source = {"start": 0.5, "end": 0.8}, rig.runs.latent()
    for model in (rig.sharing.shared(micro, **window), rig.sharing.in_batch(micro, **window)):
        steps = rig.ordinary.steps_of(model, source)
        plain = [
            rig.ordinary.own_estimate(micro, x, sigma)
            for (x, _), sigma in zip(steps, rig.ordinary.SIGMAS, strict=False)
        ]
        gaps = [rig.runs.moved(found, own) for (_, found), own in zip(steps, plain, strict=True)]
        assert [gap > 0.02 for gap in gaps] == [False, True, True, False]
        assert gaps[0] < 1e-4 and gaps[3] < 1e-4


def test_dial_is_a_factor_on_weight_and_adain(rig, micro):
    source = rig.runs.latent()
    half = {"weight": 0.5, "adain_query": 0.5, "adain_key": 0.5}
    for made in (rig.sharing.shared, rig.sharing.in_batch):
        found = rig.ordinary.sample(dialled(rig, made(micro), 0.5), source)
        assert torch.equal(found, rig.ordinary.sample(made(micro, **half), source))
        found = rig.ordinary.sample(dialled(rig, made(micro), 3.0), source)
        assert torch.equal(found, rig.ordinary.sample(made(micro, weight=3.0), source))


@pytest.mark.parametrize("how", [{"swap": True}, {"full": True}, {"norms": True}])
def test_dial_leads_from_the_plain_model_to_the_whole_effect(rig, micro, how):
    """Where there is no weight, outputs are blended: a small dial moves little, and never in a leap."""
    source, made = rig.runs.latent(), rig.sharing.in_batch if "full" in how else rig.sharing.shared
    results = [
        rig.ordinary.one_step(dialled(rig, made(micro, **how), value), source) for value in (0.0, 0.01, 0.5, 1.0)
    ]
    distances = [rig.runs.moved(result, results[0]) for result in results]
    assert distances[0] == 0.0 < distances[1] < 0.1 * distances[3] and distances[1] < distances[2] < distances[3]
    assert torch.equal(results[3], rig.ordinary.one_step(made(micro, **how), source))


# the reference's latents


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_sde", "euler_ancestral"])
@pytest.mark.parametrize("inverted", [False, True])
def test_latent_that_the_model_sees_of_the_reference(rig, micro, monkeypatch, sampler, inverted):
    """At every level that a sampler visits: clean latent and one noise, or the point of the inversion's path."""
    reference = rig.sharing.described(seed=5)
    if inverted:
        reference = rig.sharing.described(trajectory=rig.sharing.straight_trajectory(micro, reference))
    calls = rig.sharing.asked(monkeypatch, micro)
    rig.ordinary.sample(rig.sharing.shared(micro, reference), rig.runs.latent(), sampler=sampler)
    seen = [(x, sigma) for x, sigma, _ in calls if x.shape[-2:] == (10, 14)]
    levels = {sigma for x, sigma, _ in calls if x.shape[-2:] == (12, 10)}
    assert {sigma for _, sigma in seen} == levels and len(seen) == len(levels) >= 4
    assert all(len(x) == 2 for x, _ in seen)
    clean = 0.18215 * reference.samples
    for x, sigma in seen:
        expected = on_path(reference.trajectory, sigma) if inverted else rig.sharing.noised(micro, reference, sigma)
        assert rig.runs.moved(x, expected) < 1e-5 * max(1.0, sigma)
        if not inverted:
            noise = (x - clean) / sigma
            assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def on_path(trajectory, sigma: float) -> torch.Tensor:
    """Linear between the points next to a level."""
    levels = trajectory.sigmas.double().tolist()
    after = next(index for index, level in enumerate(levels) if level >= sigma)
    share = (sigma - levels[after - 1]) / (levels[after] - levels[after - 1])
    low, high = trajectory.latents[after - 1].double(), trajectory.latents[after].double()
    return ((1 - share) * low + share * high).float()


def test_noise_of_a_reference_is_its_seeds(rig, micro, monkeypatch):
    calls, found = rig.sharing.asked(monkeypatch, micro), {}
    for name, seed, draw in (("one", 5, 21), ("again", 5, 21), ("other seed", 6, 21), ("other picture", 5, 22)):
        calls.clear()
        torch.manual_seed(len(found))
        reference = rig.sharing.described(seed=seed, draw=draw)
        rig.ordinary.one_step(rig.sharing.shared(micro, reference), rig.runs.latent())
        x = next(x for x, *_ in calls if x.shape[-2:] == (10, 14))
        found[name] = x - micro.model.process_latent_in(reference.samples)
    assert torch.equal(found["one"], found["again"]) and rig.runs.moved(found["one"], found["other seed"]) > 1
    assert rig.runs.moved(found["one"], found["other picture"]) < 1e-5


# series


def test_series_goes_on_in_a_later_run(rig, micro):
    """Same reference and seed: each picture comes out as in one batch, whatever is sampled beside it."""
    source, noise = rig.runs.latent(3, 4, 12, 10), rig.runs.drawn(3, 4, 12, 10, seed=12)
    model = rig.sharing.shared(micro, norms=True)
    together = rig.ordinary.sample(model, source, noise=noise)
    again = rig.sharing.shared(rig.micro.unet(), norms=True)
    for row in range(3):
        rows = slice(row, row + 1)
        assert rig.runs.moved(rig.ordinary.sample(again, source[rows], noise=noise[rows]), together[rows]) < 1e-4


def test_result_depends_on_neither_order_nor_global_generator(rig, micro):
    model, source = rig.sharing.in_batch(rig.sharing.shared(micro), layers="style block"), rig.runs.latent()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = rig.ordinary.sample(model, source)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(rig.ordinary.sample(model, source), first)


# group norms

NORMS = {
    "input_blocks.1.0.in_layers.0": "input_blocks.1.0.in_layers.1",
    "input_blocks.1.1.norm": "input_blocks.1.1.proj_in",
    "middle_block.0.out_layers.0": "middle_block.0.out_layers.1",
    "out.0": "out.1",
}
"""Group norms, and the module that takes each one's output."""


class Norms:
    """Inputs of NORMS and what follows them, by hooks of the test."""

    def __init__(self, model):
        self.modules = dict(model.model.diffusion_model.named_modules())
        self.inputs, self.outputs, self.handles = {}, {}, []

    def __enter__(self):
        for name, following in NORMS.items():
            for module, into in ((name, self.inputs), (following, self.outputs)):
                self.handles.append(self.modules[module].register_forward_pre_hook(self._keep(name, into)))
        return self

    def _keep(self, name, into):
        return lambda module, given: into.__setitem__(name, given[0].double())

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    def together(self, name: str, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The norm over a picture and a reference side by side, each in as many whole copies as make them equal."""
        module, (one, two) = self.modules[name], (own.flatten(2), other.flatten(2))
        side = torch.cat([one.repeat(1, 1, two.shape[-1]), two.repeat(1, 1, one.shape[-1])], -1)
        with torch.no_grad():
            found = torch.nn.functional.group_norm(
                side, module.num_groups, module.weight.double(), module.bias.double(), module.eps
            )
        return found[..., : one.shape[-1]].view_as(own)


def test_group_norm_is_that_of_both_pictures_side_by_side(rig, micro):
    """The closed form is the norm of the concatenation."""
    reference = rig.sharing.described()
    with Norms(micro) as norms:
        rig.runs.plain(micro, {"positive": reference.positive}, rig.sharing.noised(micro, reference))
        others = dict(norms.inputs)
        rig.ordinary.one_step(rig.sharing.shared(micro, reference, norms=True), rig.runs.latent(2, 4, 8, 9), cfg=1.0)
        for name in NORMS:
            for row in (0, 1):
                expected = norms.together(name, norms.inputs[name][[row]], others[name])
                assert rig.sharing.relative(norms.outputs[name][[row]], expected) < 1e-4
                plain = norms.together(name, norms.inputs[name][[row]], norms.inputs[name][[row]])
                assert rig.sharing.relative(plain, expected) > 1e-2


def test_group_norm_of_a_batch_is_shared_with_the_first_picture(rig, micro):
    with Norms(micro) as norms:
        rig.ordinary.one_step(rig.sharing.in_batch(micro, norms=True), rig.runs.latent(3, 4, 8, 9), cfg=1.0)
        for name in NORMS:
            x, found = norms.inputs[name], norms.outputs[name]
            for row in range(3):
                assert rig.sharing.relative(found[[row]], norms.together(name, x[[row]], x[[0]])) < 1e-4


def test_group_norms_within_a_mask(rig, micro):
    mask = torch.zeros(1, 96, 80)
    mask[..., :40] = 1.0
    name, source = "input_blocks.1.0.in_layers.0", rig.runs.latent()
    reference = rig.sharing.described()
    with Norms(micro) as norms:
        rig.ordinary.one_step(micro, source, cfg=1.0)
        plain = norms.outputs[name]
        rig.ordinary.one_step(rig.sharing.shared(micro, reference, norms=True), source, cfg=1.0)
        whole = norms.outputs[name]
        rig.ordinary.one_step(rig.sharing.shared(micro, reference, mask=mask, norms=True), source, cfg=1.0)
        assert torch.equal(norms.outputs[name][..., 5:], plain[..., 5:])
        assert torch.equal(norms.outputs[name][..., :5], whole[..., :5])
        assert rig.runs.moved(whole, plain) > 1e-2
