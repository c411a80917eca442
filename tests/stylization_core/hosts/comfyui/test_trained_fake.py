"""The fake score that is trained: its arithmetic, what it leaves alone, and what it refuses."""

from __future__ import annotations

import copy
import gc
import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

SIGMA = 0.7
ABAR = 1 / (1 + SIGMA**2)
FAMILIES = ("unet", "sd15", "sdxl", "flux", "sd3")


@pytest.fixture(scope="session")
def module(rig):
    return importlib.import_module("stylization.stylization_core.hosts.comfyui.trained_fake")


@dataclass
class Trial:
    """A sampling run of a model, from inside: a latent, the same with noise, and a prompt."""

    rig: object
    module: object
    patcher: object
    guider: object
    options: dict
    clean: torch.Tensor
    noise: torch.Tensor

    @property
    def inner(self):
        return self.guider.inner_model

    @property
    def noised(self) -> torch.Tensor:
        sampling = self.inner.model_sampling
        return sampling.noise_scaling(self.clean.new_full((1, 1, 1, 1), SIGMA), self.noise, self.clean, False)

    @property
    def level(self) -> torch.Tensor:
        return self.clean.new_full((self.clean.shape[0],), SIGMA)

    def fake(self, **settings):
        return self.module.TrainedFake(self.inner, **settings)

    def requests(self) -> list:
        kinds = ((self.rig.runs.BASE, "positive"), (self.rig.runs.BASE_NEGATIVE, "negative"))
        return [(branch, self.guider.conds[key]) for branch, key in kinds if key in self.guider.conds]

    def base(self) -> list[torch.Tensor]:
        return self.rig.branches.predict(self.inner, self.requests(), self.noised, self.level, self.options)

    def predict(self, fake) -> list[torch.Tensor]:
        return fake.predict(self.requests(), self.noised, self.level, self.options)

    def train(self, fake, steps: int = 1, weight: float | None = None) -> list[float]:
        weight = self.module.published_weight(SIGMA) if weight is None else weight
        call = (self.requests()[0], self.clean, self.noised, self.level, weight, self.options)
        return [float(fake.train(*call)) for _ in range(steps)]


@pytest.fixture
def trial(rig, module) -> Callable:
    """``trial(patcher, body)`` returns what ``body(Trial)`` does inside a sampling run, in inference mode."""

    def run(patcher, body: Callable, conditionings: dict | None = None, rows: int = 1, channels: int = 4):
        conditionings = rig.runs.pair() if conditionings is None else conditionings
        clean, noise = rig.runs.drawn(rows, channels, 8, 8, seed=8), rig.runs.drawn(rows, channels, 8, 8, seed=9)

        def ask(guider, options):
            # what reaches a node at run time is made of inference tensors
            return body(Trial(rig, module, patcher, guider, options, clean.clone(), noise.clone()))

        return rig.runs.inside(patcher, conditionings, clean, ask)

    return run


@pytest.fixture
def of_family(rig, wiring_model, trial) -> Callable:
    """``of_family("sdxl", body)``: a trial on that wiring model, or on the micro networks ``unet`` and ``flux``."""

    def run(family: str, body: Callable, **others):
        if family == "unet":
            return trial(rig.micro.unet(), body, **others)
        if family == "flux":
            return trial(rig.micro.flux(), body, rig.runs.pair(64, 32), channels=16, **others)
        from stylization_host.wiring import FAMILIES as known

        made = known[family]
        conditionings = rig.runs.pair(made.width, made.pooled)
        return trial(wiring_model(family), body, conditionings, channels=made.channels, **others)

    return run


def factors(fake, part: str = "lora_") -> dict[str, torch.Tensor]:
    named = fake._twin.diffusion_model.named_parameters()
    return {name: value.detach().clone() for name, value in named if part in name}


def falls(losses: list[float]) -> bool:
    return all(later < earlier for earlier, later in zip(losses[:-1], losses[1:], strict=True))


# arithmetic


@pytest.mark.parametrize("t", [21, 103, 251, 499])
def test_weight_turns_the_loss_of_denoised_estimates_into_the_published_one(module, rig, t):
    """mean((abar e - abar eps)^2) with x_k = x + sigma eps, D = x_k - sigma e, on the chain of SD 1.5."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = float(torch.cumprod(1 - betas, dim=0)[t])
    sigma = ((1 - abar) / abar) ** 0.5
    x, eps, e = (rig.runs.drawn(1, 4, 8, 8, seed=seed).double() for seed in range(3))
    published = torch.mean((abar * e - abar * eps) ** 2)
    ours = module.published_weight(sigma) * torch.mean((x + sigma * eps - sigma * e - x) ** 2)
    assert float(ours) == pytest.approx(float(published), rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_fake_is_the_base_bit_for_bit(of_family, family):
    def body(trial):
        with trial.fake(seed=5) as fake:
            return trial.base(), trial.predict(fake)

    base, fake = of_family(family, body, rows=2)
    assert len(base) == len(fake) == 2
    assert all(torch.equal(one, two) for one, two in zip(base, fake, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_falls_and_the_prediction_comes_nearer_to_the_latent(of_family, family):
    def body(trial):
        with trial.fake() as fake:
            losses = trial.train(fake, 12)
            return losses, trial.base()[0], trial.predict(fake)[0], trial.clean

    losses, base, fake, clean = of_family(family, body, rows=2)
    assert falls(losses)
    assert torch.mean((fake - clean) ** 2) < torch.mean((base - clean) ** 2)


def test_all_query_and_value_projections_of_sd15_are_trained_and_nothing_else(of_family, module):
    def body(trial):
        fake = trial.fake()
        before = {name: value.clone() for name, value in fake._twin.diffusion_model.state_dict().items()}
        trial.train(fake, 3)
        after = fake._twin.diffusion_model.state_dict()
        return [name for name in before if not torch.equal(before[name], after[name])], sorted(factors(fake))

    changed, adapted = of_family("sd15", body)
    assert sorted(changed) == adapted
    assert {name.split(".")[-4] for name in changed} == {"to_q", "to_v"}
    assert {name.split(".")[-5] for name in changed} == {"attn1", "attn2"}


def own_adapted(trial, fake):
    """peft's own LoRA on the loaded network's copy, built here, with the fake's start."""
    from peft import LoraConfig, inject_adapter_in_model

    network = copy.deepcopy(trial.inner.diffusion_model)
    for name, parameter in network.named_parameters():
        assert not parameter.is_inference(), name
    network = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=32, target_modules=["to_q", "to_v"]), network)
    network.load_state_dict(factors(fake), strict=False)
    return network


def published_loss(trial, network) -> torch.Tensor:
    """L = mean((abar e - abar eps)^2) with the network called directly, in the published eps-form."""
    sampling = trial.inner.model_sampling
    context = trial.rig.runs.pair()["positive"][0][0].clone()
    scaled = trial.noised.clone() / (SIGMA**2 + 1) ** 0.5
    e = network(scaled, sampling.timestep(trial.level).float().clone(), context=context)
    return torch.mean((ABAR * e - ABAR * trial.noise.clone()) ** 2)


def test_steps_agree_with_the_published_loss_and_optimiser(rig, trial):
    """Against eps-form, autograd and AdamW written here, on an adapter that is built here."""

    def body(trial):
        fake = trial.fake(seed=2)
        with torch.inference_mode(False), torch.enable_grad():
            network = own_adapted(trial, fake)
            trained = [p for name, p in network.named_parameters() if "lora_" in name]
            optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, eps=1e-8)
            losses = []
            for _ in range(4):
                optimiser.zero_grad()
                loss = published_loss(trial, network)
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
            expected = {name: p.detach() for name, p in network.named_parameters() if "lora_" in name}
        return expected, losses, trial.train(fake, 4), factors(fake), factors(trial.fake(seed=2))

    expected, losses, ours, found, start = trial(rig.micro.unet(), body)
    assert ours == pytest.approx(losses, rel=1e-4)
    moved = max((value - start[name]).abs().max() for name, value in expected.items())
    assert moved > 3e-3
    for name, value in expected.items():
        # Adam divides by the size of the gradient, so single elements with next to none may differ
        assert torch.quantile((found[name] - value).abs(), 0.99) < 1e-5, name
        assert (found[name] - value).abs().max() < 0.2 * moved, name


def test_gradient_agrees_with_a_finite_difference(rig, trial, module, monkeypatch):
    gradients = []
    descend = module.TrainedFake._descend

    def note(self, found, scale):
        gradients.append([None if one is None else one / scale for one in found])
        return descend(self, found, scale)

    monkeypatch.setattr(module.TrainedFake, "_descend", note)

    def body(trial):
        fake = trial.fake()
        trial.train(fake, 2)
        place = max(range(len(gradients[1])), key=lambda index: gradients[1][index].norm())
        factor, size = list(fake._factors)[place], 1e-3
        # the second gradient was taken one step ago
        probe, losses = trial.fake(), []
        trial.train(probe, 1)
        twin = list(probe._factors)[place]
        direction = gradients[1][place] / gradients[1][place].norm()
        for sign in (1, -1):
            with torch.inference_mode(False), torch.no_grad():
                kept = twin.clone()
                twin += sign * size * direction
            error = trial.predict(probe)[0] - trial.clean
            losses.append(float(module.published_weight(SIGMA) * torch.mean(error.double() ** 2)))
            with torch.inference_mode(False), torch.no_grad():
                twin.copy_(kept)
        assert factor.shape == twin.shape
        return (losses[0] - losses[1]) / (2 * size), float(gradients[1][place].norm())

    difference, norm = trial(rig.micro.unet(), body)
    assert difference == pytest.approx(norm, rel=0.02)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_only_query_and_value_rows_of_fused_projections_are_trained(of_family, family):
    def body(trial):
        fake = trial.fake()
        trial.train(fake, 3)
        return factors(fake, "lora_B")

    for name, up in of_family(family, body).items():
        width = up.shape[0] // 3 if "qkv" in name else 128
        query, key, value, rest = up.split([width, width, width, up.shape[0] - 3 * width])
        assert not key.any() and not rest.any(), name
        assert query.any() or value.any(), name


def test_half_precision_keeps_gradients_that_the_mean_makes_small(rig, trial):
    patcher = rig.micro.unet()
    network = patcher.model.diffusion_model.half()
    network.dtype = torch.float16

    def body(trial):
        fake = trial.fake()
        assert all(torch.equal(one, two) for one, two in zip(trial.base(), trial.predict(fake), strict=True))
        trial.train(fake, 1, weight=1e-3)
        ups = factors(fake, "lora_B")
        return {value.dtype for value in ups.values()}, [float((up != 0).float().mean()) for up in ups.values()]

    dtypes, moved = trial(patcher, body)
    assert dtypes == {torch.float32}
    assert min(moved) > 0.95


def test_overflow_leaves_the_adapter_as_it_was(rig, trial):
    def body(trial):
        fake = trial.fake()
        before = factors(fake)
        trial.train(fake, 1, weight=float("inf"))
        return before, factors(fake)

    before, after = trial(rig.micro.unet(), body)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_same_seed_same_training_and_the_global_generator_is_not_moved(rig, trial):
    def body(trial):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        found = []
        for seed in (3, 3, 4):
            with trial.fake(seed=seed) as fake:
                trial.train(fake, 3)
                found.append((factors(fake, "lora_A"), trial.predict(fake)[0]))
        assert torch.equal(state, torch.get_rng_state())
        return found

    (first, one), (second, two), (third, three) = trial(rig.micro.unet(), body)
    assert torch.equal(one, two) and not torch.equal(one, three)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], third[name]) for name in first)


def test_rank_alpha_and_rate_are_the_callers(rig, trial):
    def body(trial):
        fake = trial.fake(rank=4, alpha=4, lr=0.5)
        trial.train(fake, 1)
        return factors(fake, "lora_A"), factors(fake, "lora_B")

    downs, ups = trial(rig.micro.unet(), body)
    assert {down.shape[0] for down in downs.values()} == {4}
    assert max(up.abs().max() for up in ups.values()) == pytest.approx(0.5, rel=0.01)


# inside ComfyUI: inference tensors, other nodes


def test_everything_may_be_an_inference_tensor(rig, comfy, trial, wiring_files):
    """As in a real run: loader nodes, prompts and latents all come from inference mode."""
    with torch.inference_mode():
        patcher, _vae = comfy.load_checkpoint(wiring_files.path("wiring_sdxl.safetensors"))
        conditionings = rig.runs.pair(2048, 1280)

    def body(trial):
        assert torch.is_inference_mode_enabled()
        network = trial.inner.diffusion_model
        assert all(p.is_inference() for p in network.parameters())
        assert trial.clean.is_inference() and trial.noised.is_inference() and trial.level.is_inference()
        fake = trial.fake()
        assert not any(p.is_inference() for p in fake._twin.diffusion_model.parameters())
        assert not any(b.is_inference() for b in fake._twin.diffusion_model.buffers())
        losses = trial.train(fake, 4)
        # usable as any tensor of the run
        found = trial.predict(fake)[0].mul_(2).add_(trial.clean)
        assert torch.is_inference_mode_enabled() and torch.isfinite(found).all()
        return losses

    assert falls(trial(patcher, body, conditionings))


def test_works_outside_inference_mode_too(rig, trial):
    def body(trial):
        with torch.inference_mode(False):
            trial.clean, trial.noise = trial.clean.clone(), trial.noise.clone()
            fake = trial.fake()
            losses = trial.train(fake, 3)
            found = trial.predict(fake)[0]
            assert not found.requires_grad
            return losses

    assert falls(trial(rig.micro.unet(), body))


def test_patches_that_keep_inference_tensors_and_weights_of_their_own(rig, trial):
    """As IPAdapter and shared attention do: keys, values and projections that a patch has made in inference mode."""
    from comfy.ldm.modules.attention import optimized_attention

    patcher, added = rig.micro.unet(), torch.nn.Linear(64, 64)
    with torch.inference_mode():
        keys, values, own = torch.randn(1, 5, 64), torch.randn(1, 5, 64), torch.nn.Linear(64, 64)

    def replace(q, k, v, extra_options):
        rows, heads = q.shape[0], extra_options["n_heads"]
        # no transformer_options: what is attended to here comes past the override
        extra = optimized_attention(own(q), keys.expand(rows, -1, -1), values.expand(rows, -1, -1), heads)
        return optimized_attention(added(q), k, v, heads) + extra

    patcher.set_model_attn2_replace(replace, "input", 1, 0)

    def body(trial):
        fake = trial.fake()
        assert torch.equal(trial.predict(fake)[0], trial.base()[0])
        return trial.train(fake, 4)

    assert falls(trial(patcher, body))
    assert own.weight.grad is None and added.weight.grad is None


def test_patch_that_writes_into_a_tensor_of_the_network(rig, trial, module):
    """FreeU and others do; autograd refuses the first attempt, and the fake then keeps copies."""
    patcher = rig.micro.unet()

    def patch(h, hsp, transformer_options):
        h = torch.sigmoid(h)
        h[:, ::2] *= 1.1
        return h, hsp

    patcher.set_model_output_block_patch(patch)

    def body(trial):
        fake = trial.fake()
        losses = trial.train(fake, 4)
        assert fake._overwriting
        return losses

    assert falls(trial(patcher, body))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_controlnet_reaches_the_fake_and_is_not_trained(rig, comfy, trial, wiring_model, wiring_files, family):
    import comfy.controlnet
    from stylization_host.wiring import FAMILIES as known

    made = known[family]
    with torch.inference_mode():
        control = comfy.controlnet.load_controlnet(str(wiring_files.path(made.controlnet)))
        control.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, (0.0, 1.0))
    bare = rig.runs.pair(made.width, made.pooled)
    pair = {key: [[tokens, {**entries, "control": control}]] for key, [[tokens, entries]] in bare.items()}

    def body(trial):
        fake = trial.fake()
        base, first = trial.base()[0], trial.predict(fake)[0]
        losses = trial.train(fake, 4)
        return base, first, losses, trial.base()[0]

    base, first, losses, after = trial(wiring_model(family), body, pair)
    without = trial(wiring_model(family), lambda trial: trial.base()[0], bare)
    assert torch.equal(base, first) and torch.equal(base, after)
    assert (base - without).abs().max() > 1e-3
    assert falls(losses)
    assert all(parameter.grad is None for parameter in control.control_model.parameters())


def test_loss_sees_the_controlnet(rig, trial):
    """The residuals are part of the trained prediction: the first loss is that of the base under control."""
    control = residual_control(rig)

    def body(trial):
        loss = trial.train(trial.fake(), 1, weight=1.0)[0]
        return loss, float(torch.mean((trial.base()[0] - trial.clean) ** 2))

    controlled, expected = trial(rig.micro.unet(), body, {"positive": rig.runs.conditioning(1, control=control)})
    plain, _ = trial(rig.micro.unet(), body, {"positive": rig.runs.conditioning(1)})
    assert controlled == pytest.approx(expected, rel=1e-4)
    assert abs(controlled - plain) > 1e-3


def residual_control(rig):
    """A control whose network has weights that ask for gradients, which autograd must not follow."""
    import comfy.controlnet

    layer = torch.nn.Conv2d(4, 128, 1)
    with torch.no_grad():
        layer.weight.copy_(rig.runs.drawn(128, 4, 1, 1, seed=6))

    class Residual(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            assert not torch.is_grad_enabled()
            inner = torch.nn.functional.interpolate(layer(x_noisy), scale_factor=0.5)
            return self.control_merge({"middle": [inner]}, None, x_noisy.dtype)

    control = Residual()
    control.set_cond_hint(torch.rand(1, 3, 64, 64), 50.0, (0.0, 1.0))
    return control


def test_prompt_of_two_areas_and_a_mask(rig, trial):
    with torch.inference_mode():
        mask = torch.ones(1, 64, 64)
        mask[..., 32:] = 0
        left = rig.runs.conditioning(1, mask=mask, mask_strength=0.8, set_area_to_bounds=False)
        right = rig.runs.conditioning(2, area=(8, 4, 0, 4), strength=0.7)

    def body(trial):
        fake = trial.fake()
        assert torch.equal(trial.predict(fake)[0], trial.base()[0])
        return trial.train(fake, 4)

    assert falls(trial(rig.micro.unet(), body, {"positive": left + right}))


def test_attention_of_the_run_is_kept_in_predictions_and_replaced_in_training(rig, trial):
    patcher, calls = rig.micro.unet(), []

    def forward_only(attention, *args, **kwargs):
        calls.append(1)
        return attention(*args, **kwargs).detach()

    patcher.model_options["transformer_options"]["optimized_attention_override"] = forward_only

    def body(trial):
        fake = trial.fake()
        trial.predict(fake)
        seen = len(calls)
        trial.train(fake, 2)
        assert 0 < seen == len(calls)
        return factors(fake, "lora_B")

    ups = trial(patcher, body)
    assert all(up.any() for name, up in ups.items())


def test_training_sign_of_newer_comfyui_is_set_and_taken_back(rig, trial, monkeypatch):
    monkeypatch.setattr(rig.model_management, "in_training", False, raising=False)
    patcher, seen, failing = rig.micro.unet(), [], []

    def note(q, k, v, options):
        seen.append(rig.model_management.in_training)
        if failing:
            raise ZeroDivisionError("inside the model")
        return q, k, v

    patcher.set_model_attn1_patch(note)

    def body(trial):
        fake = trial.fake()
        trial.predict(fake)
        assert not any(seen)
        seen.clear()
        trial.train(fake)
        assert seen and all(seen)
        failing.append(1)
        with pytest.raises(ZeroDivisionError):
            trial.train(fake)
        return rig.model_management.in_training

    assert trial(patcher, body) is False


def test_comfyui_without_that_sign_gets_none(rig, trial, monkeypatch):
    monkeypatch.delattr(rig.model_management, "in_training", raising=False)
    trial(rig.micro.unet(), lambda trial: trial.train(trial.fake()))
    assert not hasattr(rig.model_management, "in_training")


def test_clones_on_other_gpus_are_not_asked(module):
    assert module._on_one_device({"multigpu_clones": {}, "transformer_options": {}}) == {"transformer_options": {}}


# nothing left


def anatomy(patcher) -> dict:
    """Modules with their attributes by name, and the tensors by identity."""
    named = dict(patcher.model.named_modules())
    return {
        "modules": {name: (id(one), sorted(vars(one)), sorted(one._modules)) for name, one in named.items()},
        "parameters": {name: (id(one), one.requires_grad) for name, one in patcher.model.named_parameters()},
    }


def failing_once_trained(rig):
    patcher, calls = rig.micro.unet(), []

    def fail(q, k, v, options):
        calls.append(1)
        if len(calls) > 60:
            raise ZeroDivisionError("inside the model")
        return q, k, v

    patcher.set_model_attn1_patch(fail)
    return patcher


@pytest.mark.parametrize("ending", ["success", "exception"])
def test_loaded_model_is_left_alone(rig, trial, ending):
    patcher = rig.micro.unet() if ending == "success" else failing_once_trained(rig)
    if ending == "success":
        trial(patcher, lambda trial: trial.base())  # ComfyUI itself marks a module that it has loaded once

    def body(trial):
        before = rig.leaks.state(patcher), anatomy(patcher)
        options = rig.leaks._tree(trial.options)
        if ending == "success":
            with trial.fake() as fake:
                trial.train(fake, 3)
                trial.predict(fake)
        else:
            with pytest.raises(ZeroDivisionError), trial.fake() as fake:
                trial.train(fake, 99)
        assert (rig.leaks.state(patcher), anatomy(patcher)) == before
        assert rig.leaks._tree(trial.options) == options
        assert all(p.grad is None for p in patcher.model.parameters())

    trial(patcher, body)
    assert rig.leaks.network(patcher)["hooks"] == []
    assert patcher.model.current_patcher is None


def test_twin_shares_no_module_table_and_no_weight_with_the_loaded_model(rig, trial):
    def body(trial):
        twin = trial.fake()._twin
        assert type(twin) is type(trial.inner) and twin.model_sampling is trial.inner.model_sampling
        assert twin._modules is not trial.inner._modules and twin.current_patcher is trial.inner.current_patcher
        ours = {p.data_ptr() for p in trial.inner.diffusion_model.parameters()}
        assert not ours & {p.data_ptr() for p in twin.diffusion_model.parameters()}
        assert trial.inner.diffusion_model is not twin.diffusion_model

    trial(rig.micro.unet(), body)


def test_stock_lora_still_lands_after_a_run(rig, trial, tmp_path):
    used, fresh = rig.micro.unet(), rig.micro.unet()
    trial(used, lambda trial: trial.train(trial.fake(), 2))
    path = rig.loras.saved(rig.loras.kohya(fresh), tmp_path / "style.safetensors")
    x = rig.runs.drawn(1, 4, 8, 8)
    one, two = (
        rig.runs.plain(rig.loras.weight_patched(patcher, path, 0.8), rig.runs.pair(), x) for patcher in (used, fresh)
    )
    without = rig.runs.plain(fresh, rig.runs.pair(), x)
    assert torch.equal(one["positive"], two["positive"])
    assert not torch.equal(one["positive"], without["positive"])


def test_stock_lora_of_the_base_belongs_to_the_fakes_base(rig, trial, tmp_path):
    path = rig.loras.saved(rig.loras.kohya(rig.micro.unet()), tmp_path / "base.safetensors")
    patched = rig.loras.weight_patched(rig.micro.unet(), path, 0.8)
    base, fake = trial(patched, lambda trial: (trial.base()[0], trial.predict(trial.fake())[0]))
    assert torch.equal(base, fake)


def test_close_frees_the_copy(rig, trial):
    def body(trial):
        fake = trial.fake()
        trial.train(fake, 2)
        network = weakref.ref(fake._twin.diffusion_model)
        moments = weakref.ref(next(iter(fake._optimizer.state.values()))["exp_avg"])
        fake.close()
        gc.collect()
        assert network() is None and moments() is None
        fake.close()
        with pytest.raises(RuntimeError, match="closed"):
            trial.predict(fake)
        with pytest.raises(RuntimeError, match="closed"):
            trial.train(fake)

    trial(rig.micro.unet(), body)


def test_ten_fakes_leave_no_more_tensors_than_one(rig, trial):
    def tensors() -> int:
        gc.collect()
        return sum(torch.is_tensor(one) for one in gc.get_objects())

    def body(trial):
        def once():
            with trial.fake() as fake:
                trial.train(fake, 2)

        once()
        before = tensors()
        for _ in range(9):
            once()
        assert tensors() <= before

    trial(rig.micro.unet(), body)


def test_training_bytes_are_what_is_held(rig, trial, module):
    def body(trial):
        fake = trial.fake()
        trial.train(fake)
        network, moments = fake._twin.diffusion_model, fake._optimizer.state
        held = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        held += sum(state[name].nbytes for state in moments.values() for name in ("exp_avg", "exp_avg_sq"))
        held += sum(factor.nbytes for factor in fake._factors)  # the gradients of a step
        return held

    patcher = rig.micro.unet()
    assert module.training_bytes(patcher) == trial(patcher, body)


# refusals


def refused(trial, module, patcher, *words: str) -> None:
    def body(trial):
        with pytest.raises(ValueError, match=".*".join(("^model:", *words, "frozen"))):
            module.refuse_untrainable(patcher)

    trial(patcher, body)


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_models_of_the_supported_families_are_not_refused(of_family, module, family):
    of_family(family, lambda trial: module.refuse_untrainable(trial.patcher))


@pytest.mark.parametrize("sign", ["lowvram", "patched", "smaller"])
def test_partly_offloaded_model_is_refused(rig, trial, module, monkeypatch, sign):
    patcher = rig.micro.unet()

    def body(trial):
        module.refuse_untrainable(patcher)
        if sign == "lowvram":
            monkeypatch.setattr(patcher.model, "model_lowvram", True)
        elif sign == "patched":
            monkeypatch.setattr(patcher.model, "lowvram_patch_counter", 3)
        else:
            monkeypatch.setattr(patcher.model, "model_loaded_weight_memory", 2**20)
        with pytest.raises(ValueError, match=r"^model: it is only partly in .*\d+ of 16 MiB.*frozen"):
            module.refuse_untrainable(patcher)

    trial(patcher, body)


def test_dynamic_vram_is_refused(rig, trial, module, monkeypatch):
    patcher = rig.micro.unet()
    monkeypatch.setattr(patcher, "is_dynamic", lambda: True, raising=False)
    refused(trial, module, patcher, "dynamic VRAM")


class Packed(torch.Tensor):
    """As GGUF packs and ComfyUI's quantised checkpoints have it: a tensor class that says float."""


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.zeros(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.zeros(2, dtype=torch.int8), "int8"),
        (torch.zeros(2).as_subclass(Packed), "Packed"),
    ],
)
def test_quantised_weights_are_refused(rig, module, weight, words):
    """Not inside a run: a network of a real quantised checkpoint would run, this one cannot."""
    patcher = rig.micro.unet()
    patcher.model.model_loaded_weight_memory = patcher.model_size()
    patcher.model.diffusion_model.out[2].bias = torch.nn.Parameter(weight, requires_grad=False)
    with pytest.raises(ValueError, match=f"^model: its weights are quantised.*out.2.bias.*{words}.*frozen"):
        module.refuse_untrainable(patcher)


def test_compiled_network_is_refused(rig, trial, module):
    patcher = rig.micro.unet()
    patcher.model.diffusion_model.middle_block[1] = torch.compile(patcher.model.diffusion_model.middle_block[1])
    patcher.model.model_loaded_weight_memory = patcher.model_size()
    with pytest.raises(ValueError, match="^model: its network is compiled.*frozen"):
        module.refuse_untrainable(patcher)


def test_comfyuis_compile_node_is_refused(rig, module):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    patcher = rig.micro.unet()
    set_torch_compile_wrapper(patcher, backend="eager")
    patcher.model.model_loaded_weight_memory = patcher.model_size()
    with pytest.raises(ValueError, match="^model: its network is compiled.*frozen"):
        module.refuse_untrainable(patcher)


def test_network_without_attention_projections_is_refused(rig, module):
    patcher = rig.micro.unet()
    patcher.model.diffusion_model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3))
    patcher.size = patcher.model.model_loaded_weight_memory = 1
    with pytest.raises(ValueError, match="^model: its network has no layers named to_q, to_v.*frozen"):
        module.refuse_untrainable(patcher)


def test_lora_hook_on_a_prompt_is_refused(rig, trial):
    import comfy.hooks

    def body(trial):
        fake, group = trial.fake(), comfy.hooks.HookGroup()
        group.add(comfy.hooks.WeightHook())
        for entry in trial.guider.conds["positive"]:
            entry["hooks"] = group
        for ask in (trial.predict, trial.train):
            with pytest.raises(ValueError, match="LoRA hook.*'Load LoRA'"):
                ask(fake)

    trial(rig.micro.unet(), body)


@pytest.mark.parametrize("with_weights", [False, True])
def test_node_that_answers_for_the_network_is_refused(rig, trial, with_weights):
    """A step cache: its answer depends on nothing that could be trained here."""
    patcher, gain = rig.micro.unet(), torch.ones((), requires_grad=with_weights)

    def answer(executor, x, *args, **kwargs):
        return x * gain

    patcher.add_wrapper_with_key(rig.WrappersMP.APPLY_MODEL, "test.cache", answer)

    def body(trial):
        with pytest.raises(ValueError, match="^model: a node on it replaces.*frozen"):
            trial.train(trial.fake())

    trial(patcher, body)


def test_network_that_cannot_be_copied_is_refused(rig, trial):
    patcher = rig.micro.unet()
    patcher.model.diffusion_model.handle = (one for one in ())

    def body(trial):
        with pytest.raises(ValueError, match="^model: its network cannot be copied.*frozen"):
            trial.fake()

    trial(patcher, body)
