"""The fake score that is trained: its loss, gradients and steps."""

from __future__ import annotations

import copy

import pytest
import torch


@pytest.mark.parametrize("t", [21, 103, 251, 499])
def test_weight_turns_the_loss_of_denoised_estimates_into_the_published_one(rig, t):
    """mean((abar e - abar eps)^2) with x_k = x + sigma eps, D = x_k - sigma e, on the chain of SD 1.5."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = float(torch.cumprod(1 - betas, dim=0)[t])
    sigma = ((1 - abar) / abar) ** 0.5
    x, eps, e = (rig.runs.drawn(1, 4, 8, 8, seed=seed).double() for seed in range(3))
    published = torch.mean((abar * e - abar * eps) ** 2)
    ours = rig.trained_fake.published_weight(sigma) * torch.mean((x + sigma * eps - sigma * e - x) ** 2)
    assert float(ours) == pytest.approx(float(published), rel=1e-12)


def test_untrained_fake_is_the_base_bit_for_bit(of_family, family):
    def body(trial):
        with trial.fake(seed=5) as fake:
            return trial.base(), trial.predict(fake)

    base, fake = of_family(family, body, rows=2)
    assert len(base) == len(fake) == 2
    assert all(torch.equal(one, two) for one, two in zip(base, fake, strict=True))


def test_loss_falls_and_the_prediction_comes_nearer_to_the_latent(rig, of_family, family):
    def body(trial):
        with trial.fake() as fake:
            losses = trial.train(fake, 12)
            return losses, trial.base()[0], trial.predict(fake)[0], trial.clean

    losses, base, fake, clean = of_family(family, body, rows=2)
    assert rig.trials.falls(losses)
    assert torch.mean((fake - clean) ** 2) < torch.mean((base - clean) ** 2)


def test_all_query_and_value_projections_of_sd15_are_trained_and_nothing_else(rig, of_family):
    def body(trial):
        fake = trial.fake()
        before = {name: value.clone() for name, value in fake._twin.diffusion_model.state_dict().items()}
        trial.train(fake, 3)
        after = fake._twin.diffusion_model.state_dict()
        return [name for name in before if not torch.equal(before[name], after[name])], sorted(rig.trials.factors(fake))

    changed, adapted = of_family("sd15", body)
    assert sorted(changed) == adapted
    assert {name.split(".")[-4] for name in changed} == {"to_q", "to_v"}
    assert {name.split(".")[-5] for name in changed} == {"attn1", "attn2"}


def own_adapted(rig, trial, fake):
    """peft's own LoRA on the loaded network's copy, built here, with the fake's start."""
    from peft import LoraConfig, inject_adapter_in_model

    network = copy.deepcopy(trial.inner.diffusion_model)
    for name, parameter in network.named_parameters():
        assert not parameter.is_inference(), name
    network = inject_adapter_in_model(LoraConfig(r=8, lora_alpha=32, target_modules=["to_q", "to_v"]), network)
    network.load_state_dict(rig.trials.factors(fake), strict=False)
    return network


def published_loss(rig, trial, network) -> torch.Tensor:
    """L = mean((abar e - abar eps)^2) with the network called directly, in the published eps-form."""
    sampling, sigma = trial.inner.model_sampling, rig.trials.SIGMA
    abar = 1 / (1 + sigma**2)
    context = rig.runs.pair()["positive"][0][0].clone()
    scaled = trial.noised.clone() / (sigma**2 + 1) ** 0.5
    e = network(scaled, sampling.timestep(trial.level).float().clone(), context=context)
    return torch.mean((abar * e - abar * trial.noise.clone()) ** 2)


def test_steps_agree_with_the_published_loss_and_optimiser(rig, trial):
    """Against eps-form, autograd and AdamW written here, on an adapter that is built here."""

    def body(trial):
        fake = trial.fake(seed=2)
        with torch.inference_mode(False), torch.enable_grad():
            network = own_adapted(rig, trial, fake)
            trained = [p for name, p in network.named_parameters() if "lora_" in name]
            optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, eps=1e-8)
            losses = []
            for _ in range(4):
                optimiser.zero_grad()
                loss = published_loss(rig, trial, network)
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
            expected = {name: p.detach() for name, p in network.named_parameters() if "lora_" in name}
        return expected, losses, trial.train(fake, 4), rig.trials.factors(fake), rig.trials.factors(trial.fake(seed=2))

    expected, losses, ours, found, start = trial(rig.micro.unet(), body)
    assert ours == pytest.approx(losses, rel=1e-4)
    moved = max((value - start[name]).abs().max() for name, value in expected.items())
    assert moved > 3e-3
    for name, value in expected.items():
        # Adam divides by the size of the gradient, so single elements with next to none may differ
        assert torch.quantile((found[name] - value).abs(), 0.99) < 1e-5, name
        assert (found[name] - value).abs().max() < 0.2 * moved, name


def test_gradient_agrees_with_a_finite_difference(rig, trial, monkeypatch):
    gradients = []
    descend = rig.trained_fake.TrainedFake._descend

    def note(self, found, scale):
        gradients.append([None if one is None else one / scale for one in found])
        return descend(self, found, scale)

    monkeypatch.setattr(rig.trained_fake.TrainedFake, "_descend", note)

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
            losses.append(float(rig.trained_fake.published_weight(rig.trials.SIGMA) * torch.mean(error.double() ** 2)))
            with torch.inference_mode(False), torch.no_grad():
                twin.copy_(kept)
        assert factor.shape == twin.shape
        return (losses[0] - losses[1]) / (2 * size), float(gradients[1][place].norm())

    difference, norm = trial(rig.micro.unet(), body)
    assert difference == pytest.approx(norm, rel=0.02)


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_only_query_and_value_rows_of_fused_projections_are_trained(rig, of_family, family):
    def body(trial):
        fake = trial.fake()
        trial.train(fake, 3)
        return rig.trials.factors(fake, "lora_B")

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
        ups = rig.trials.factors(fake, "lora_B")
        return {value.dtype for value in ups.values()}, [float((up != 0).float().mean()) for up in ups.values()]

    dtypes, moved = trial(patcher, body)
    assert dtypes == {torch.float32}
    assert min(moved) > 0.95


def test_overflow_leaves_the_adapter_as_it_was_and_is_said_at_the_end(rig, trial, caplog):
    def body(trial):
        with trial.fake() as fake:
            before = rig.trials.factors(fake)
            trial.train(fake, 2, weight=float("inf"))
            return before, rig.trials.factors(fake)

    before, after = trial(rig.micro.unet(), body)
    assert "2 of 2 training steps had gradients that are not finite" in caplog.text
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_same_seed_same_training_and_the_global_generator_is_not_moved(rig, trial):
    def body(trial):
        torch.manual_seed(1)
        state = torch.get_rng_state()
        found = []
        for seed in (3, 3, 4):
            with trial.fake(seed=seed) as fake:
                trial.train(fake, 3)
                found.append((rig.trials.factors(fake, "lora_A"), trial.predict(fake)[0]))
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
        return rig.trials.factors(fake, "lora_A"), rig.trials.factors(fake, "lora_B")

    downs, ups = trial(rig.micro.unet(), body)
    assert {down.shape[0] for down in downs.values()} == {4}
    assert max(up.abs().max() for up in ups.values()) == pytest.approx(0.5, rel=0.01)
