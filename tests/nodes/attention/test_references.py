"""StylizeReference and StylizeInvertReference in process."""

from __future__ import annotations

import importlib

import pytest
import torch

NODE, INVERT = "Stylize Reference", "Stylize Invert Reference"


@pytest.fixture(scope="module")
def nodes(pack_nodes):
    return importlib.import_module("stylization.nodes.attention.references")


@pytest.fixture
def refer(rig, nodes):
    """The STYLIZE_REFERENCE of StylizeReference."""

    def run(**given):
        if "image" not in given:
            given.setdefault("latent", {"samples": picture(rig)})
        with torch.inference_mode():
            return nodes.StylizeReference.execute(**{"weight": 1.0, "seed": 0, **given})[0]

    return run


@pytest.fixture
def invert(rig, nodes):
    """The STYLIZE_REFERENCE of StylizeInvertReference."""

    def run(model, samples=None, **given):
        pair = rig.runs.pair()
        arguments = {
            "latent_image": {"samples": picture(rig) if samples is None else samples},
            "positive": pair["positive"],
            "negative": pair["negative"],
            "sigmas": torch.tensor([3.0, 1.0, 0.3, 0.0]),
            "cfg": 2.0,
            "refinements": 0,
            "weight": 1.0,
            **given,
        }
        with torch.inference_mode():
            return nodes.StylizeInvertReference.execute(model, **arguments)[0]

    return run


class Encoder:
    """A VAE that notes what it is given."""

    def encode(self, image):
        self.given = image
        return image.mean((1, 2, 3)).view(-1, 1, 1, 1) * torch.ones(len(image), 4, 6, 8)


def picture(rig, *shape: int) -> torch.Tensor:
    return rig.runs.drawn(*(shape or (1, 4, 12, 10)), seed=11)


def test_inputs_become_the_reference(rig, refer):
    pair, samples, mask = rig.runs.pair(), picture(rig), torch.rand(1, 20, 20)
    (found,) = refer(weight=1.5, seed=7, latent={"samples": samples}, **pair, mask=mask)
    assert found.samples is samples and found.positive is pair["positive"] and found.negative is pair["negative"]
    assert (found.weight, found.seed, found.trajectory) == (1.5, 7, None)
    assert torch.equal(found.mask, mask[0])
    (bare,) = refer()
    assert bare.positive is None and bare.negative is None and bare.mask is None


def test_image_is_encoded_without_its_alpha(refer):
    vae, image = Encoder(), torch.rand(2, 48, 64, 4)
    (found,) = refer(image=image, vae=vae)
    assert torch.equal(vae.given, image[..., :3]) and found.samples.shape == (2, 4, 6, 8)


def test_image_goes_through_the_models_vae(rig, refer, wiring_model):
    (found,) = refer(image=torch.rand(1, 64, 96, 3), vae=wiring_model.vae("sd15"))
    assert found.samples.shape == (1, 4, 8, 12) and torch.isfinite(found.samples).all()


def test_references_chain_in_order(rig, refer, invert, micro):
    first = refer(weight=0.5)
    second = refer(latent={"samples": picture(rig, 1, 4, 8, 8)}, previous=first)
    third = invert(micro, previous=second)
    assert len(first) == 1 and len(second) == 2 and len(third) == 3
    assert second[0] is first[0] and third[:2] == second
    assert third[2].trajectory is not None and second[1].trajectory is None


def test_inversion_keeps_the_path_and_its_prompts(rig, invert, micro):
    pair, samples = rig.runs.pair(), picture(rig, 2, 4, 9, 7)
    mask = torch.ones(72, 56)
    (found,) = invert(micro, samples, weight=2.0, mask=mask, **pair)
    assert torch.equal(found.samples, samples) and found.weight == 2.0 and torch.equal(found.mask, mask)
    assert found.positive is pair["positive"] and found.negative is pair["negative"]
    assert found.trajectory.sigmas.tolist() == pytest.approx([0.0, 0.3, 1.0, 3.0])
    assert found.trajectory.latents.shape == (4, 2, 4, 9, 7)
    assert torch.equal(found.trajectory.latents[0], 0.18215 * samples)


@pytest.mark.parametrize(
    ("changed", "calls"),
    [({}, [2] * 3), ({"cfg": 1.0}, [1] * 3), ({"refinements": 2}, [2] * 9), ({"sigmas": [1.0, 0.5]}, [2] * 2)],
)
def test_inversion_costs_what_its_inputs_say(rig, invert, micro, changed, calls):
    recorded, rows = rig.runs.recording(micro)
    if "sigmas" in changed:
        changed = {"sigmas": torch.tensor(changed["sigmas"])}
    invert(recorded, **changed)
    assert [count for *_, count in rows] == calls


def test_inversion_is_the_hosts(rig, invert, micro):
    with torch.inference_mode():
        sampler = rig.inversion.InversionSampler(1)
        guider = rig.ordinary.guider_of(micro, cfg=2.0)
        sigmas = torch.tensor([3.0, 1.0, 0.3, 0.0])
        guider.sample(torch.zeros(1, 4, 12, 10), picture(rig), sampler, sigmas, disable_pbar=True, seed=0)
    (found,) = invert(micro, refinements=1)
    assert torch.equal(found.trajectory.latents, sampler.trajectory.latents)


def test_inversion_leaves_nothing_on_the_model(rig, invert, micro):
    before, samples = rig.leaks.state(micro), picture(rig)
    invert(micro, samples)
    assert rig.leaks.state(micro) == before and torch.equal(samples, picture(rig))


# what is refused


def test_inversion_is_the_plain_models(rig, refer, invert, micro):
    """Operators on the MODEL are for the pictures, not for the reference."""
    node = importlib.import_module("stylization.nodes.attention.shared_attention").StylizeSharedAttention
    given = {one.id: one.default for one in node.define_schema().inputs if getattr(one, "default", None) is not None}
    shared = node.execute(micro, refer(seed=3), **given)[0]
    (plain,), (found,) = invert(micro), invert(shared)
    assert torch.equal(found.trajectory.latents, plain.trajectory.latents)
    assert rig.attachments.dial(shared.model_options) == 1


def broken(rig) -> torch.Tensor:
    samples = picture(rig)
    samples[0, 0, 0, 0] = float("nan")
    return samples


BAD_LATENTS = {
    "NaN": (broken, "1 of its 480 values are NaN or infinite"),
    "empty": (lambda rig: torch.zeros(1, 4, 8, 8), "it is empty (all zeros)"),
    "video": (lambda rig: torch.ones(1, 4, 2, 8, 8), "it holds (1, 4, 2, 8, 8)"),
}


@pytest.mark.parametrize("case", BAD_LATENTS)
def test_bad_latents_are_refused(rig, refusal, refer, invert, micro, case):
    samples, expected = BAD_LATENTS[case]
    message = refusal(NODE, lambda: refer(latent={"samples": samples(rig)}))
    assert message.startswith(f"{NODE}, latent: {expected}")
    message = refusal(INVERT, lambda: invert(micro, samples(rig)))
    assert message.startswith(f"{INVERT}, latent_image: {expected}")


def test_bad_encodings_name_the_image(refusal, refer):
    class Broken(Encoder):
        def encode(self, image):
            return super().encode(image) * float("nan")

    message = refusal(NODE, lambda: refer(image=torch.rand(1, 8, 8, 3), vae=Broken()))
    assert message.startswith(f"{NODE}, image: 192 of its 192 values are NaN or infinite") and "--fp32-vae" in message


BAD_MASKS = {
    "several": (torch.ones(2, 8, 8), "it has 2 entries. Connect one mask"),
    "NaN": (torch.full((1, 8, 8), float("nan")), "64 of its 64 values are NaN or infinite. Look at the node"),
    "empty": (torch.zeros(1, 8, 8), "it is empty, nothing is marked. Paint"),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_bad_masks_are_refused(refusal, refer, invert, micro, case):
    mask, expected = BAD_MASKS[case]
    for node, call in ((NODE, lambda: refer(mask=mask)), (INVERT, lambda: invert(micro, mask=mask))):
        assert refusal(node, call).startswith(f"{node}, mask: {expected}")


@pytest.mark.parametrize(
    ("given", "missing"), [({}, "image"), ({"image": torch.rand(1, 8, 8, 3)}, "vae"), ({"vae": Encoder()}, "image")]
)
def test_missing_picture_names_the_input(refusal, nodes, given, missing):
    message = refusal(NODE, lambda: nodes.StylizeReference.execute(weight=1.0, seed=0, **given))
    assert message == (f"{NODE}, {missing}: it is not connected, and no latent is. Connect image and vae, or a latent.")


@pytest.mark.parametrize("sigmas", [[], [0.0]])
def test_no_level_to_invert_to_is_refused(refusal, invert, micro, sigmas):
    message = refusal(INVERT, lambda: invert(micro, sigmas=torch.tensor(sigmas)))
    assert message == f"{INVERT}, sigmas: they hold no level above zero. Connect Basic Scheduler."


def test_latent_of_another_model_is_refused(rig, refusal, invert, micro):
    message = refusal(INVERT, lambda: invert(micro, picture(rig, 1, 16, 8, 8)))
    assert message.startswith(f"{INVERT}, latent_image: it has 16 channels, latents of model have 4")


def test_refused_family_is_named(rig, refusal, invert, wiring_model):
    message = refusal(INVERT, lambda: invert(wiring_model("wan"), picture(rig, 1, 16, 8, 8)))
    assert message.startswith(f"{INVERT}, model: the model family WAN21")
