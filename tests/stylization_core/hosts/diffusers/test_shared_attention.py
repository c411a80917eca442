"""Shared attention in diffusers and in ComfyUI against the published operator, on UNets of the same weights."""

from __future__ import annotations

import math

import pytest
import torch

ROWS, STEPS, CFG = 3, 10, 4.5

SETTINGS = {
    "published": {},
    "real picture": {"weight": 2.0},
    "famous picture": {"score_scale": 0.5},
    "both": {"weight": 1.7, "score_scale": 0.8},
    "queries": {"adain_key": 0.0},
    "keys": {"adain_query": 0.0},
    "no adain": {"adain_query": 0.0, "adain_key": 0.0},
    "swap": {"swap": True},
    "full": {"full": True},
}

CONFIG = {
    "sample_size": 12,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one - other).abs().max().item()


NOISE = drawn(ROWS, 4, 12, 10, seed=5)
TEXT = {"negative": drawn(ROWS, 7, 64, seed=6), "positive": drawn(ROWS, 7, 64, seed=7)}
"""A prompt for each picture."""


class Published:
    """Equation 2 by explicit logits for two chunks one after another, every row alike but for the factor."""

    def __init__(
        self, weight=1.0, score_scale=1.0, adain_query=1.0, adain_key=1.0, swap=False, full=False, chunks: int = 2
    ):
        self.shift, self.scale, self.chunks = math.log(weight), score_scale, chunks
        self.queries, self.keys, self.swap, self.full = adain_query, adain_key, swap, full

    def first(self, x: torch.Tensor) -> torch.Tensor:
        """The first row of each half in the place of all of its rows."""
        chunks = x.reshape(self.chunks, -1, *x.shape[1:])
        return chunks[:, :1].expand_as(chunks).reshape(x.shape)

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """AdaIN of (rows, heads, tokens, channels)."""
        mean, std = x.mean(2, keepdim=True), (x.var(2, keepdim=True) + 1e-5).sqrt()
        return (x - mean) / std * self.first(std) + self.first(mean)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        rows, count, _ = hidden_states.shape
        if self.full:
            hidden_states = hidden_states.reshape(self.chunks, -1, hidden_states.shape[-1])
        q, k, v = (
            project(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        if not self.full:
            q = self.normalised(q) if self.queries else q
            k = self.normalised(k) if self.keys else k
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        if not self.full:
            factor = torch.full((self.chunks, rows // self.chunks), self.scale)
            factor[:, 0] = 1
            # the reference's keys keep their own statistics, so they are projected anew here
            theirs = self.first(attn.to_k(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2))
            other = factor.reshape(-1, 1, 1, 1) * (q @ theirs.transpose(2, 3)) / math.sqrt(q.shape[-1]) + self.shift
            logits = other if self.swap else torch.cat([logits, other], -1)
            v = self.first(v) if self.swap else torch.cat([v, self.first(v)], 2)
        out = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2).reshape(rows, count, -1)
        return attn.to_out[1](attn.to_out[0](out))


def of_comfy(model):
    """diffusers' UNet with the weights of a micro MODEL, and the names of its modules there."""
    import comfy.utils
    from diffusers import UNet2DConditionModel

    names = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    weights = model.model.diffusion_model.state_dict()
    unet = UNet2DConditionModel(**CONFIG)
    unet.load_state_dict({theirs: weights[ours] for theirs, ours in names.items() if ours in weights})
    return unet.eval(), {theirs.removesuffix(".weight"): ours.removesuffix(".weight") for theirs, ours in names.items()}


@pytest.fixture
def unet(micro):
    return of_comfy(micro)[0]


def self_attention(unet) -> dict:
    return {name: module for name, module in unet.named_modules() if name.endswith("attn1")}


def with_published(unet, **settings):
    for module in self_attention(unet).values():
        module.set_processor(Published(**settings))
    return unet


def watched(modules: dict, run) -> dict[str, torch.Tensor]:
    """Outputs of the modules in one model call of ``run``, by name."""
    seen: dict[str, torch.Tensor] = {}

    def note(name: str):
        return lambda module, inputs, out: seen.__setitem__(name, out.clone())

    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def asked(unet, z: torch.Tensor, t: int, **more) -> torch.Tensor:
    """Noise predicted for both chunks, the negative one first."""
    text = torch.cat([TEXT["negative"], TEXT["positive"]])
    with torch.inference_mode():
        return unet(torch.cat([z, z]), t, encoder_hidden_states=text, **more).sample


def scheduler(steps: int = STEPS):
    from diffusers import DDIMScheduler

    made = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    made.set_timesteps(steps)
    return made


def ddim(unet) -> torch.Tensor:
    """A guided run of diffusers' own scheduler, from noise to pictures."""
    schedule, z = scheduler(), NOISE
    for t in schedule.timesteps.tolist():
        negative, positive = asked(unet, z, t).chunk(2)
        z = schedule.step(negative + CFG * (positive - negative), t, z).prev_sample
    return z


def euler(rig, model, steps: int = STEPS) -> torch.Tensor:
    """The same run by ComfyUI's guider and sampler; in model scale."""
    schedule = scheduler(steps)
    alphas = schedule.alphas_cumprod[schedule.timesteps]
    sigmas = [*((1 - alphas) / alphas).sqrt().tolist(), 0.0]
    conditionings = {half: [[text, {}]] for half, text in TEXT.items()}
    # sampled latents start at the variance of the first level: noise alone, rescaled
    noise = NOISE * math.sqrt(sigmas[0] ** 2 + 1) / sigmas[0]
    found = rig.ordinary.sample(
        model, torch.zeros_like(noise), sigmas=sigmas, cfg=CFG, conditionings=conditionings, noise=noise
    )
    return model.model.process_latent_in(found)


def shared_in_comfy(model, full: bool = False, **settings):
    from stylization.stylization_core.hosts.comfyui.attention.run import with_attention_run
    from stylization.stylization_core.hosts.comfyui.attention.settings import SHARED_BATCH, SharedBatch, Sharing
    from stylization.stylization_core.hosts.comfyui.model.attachments import attach_once
    from stylization.stylization_core.hosts.comfyui.model.layers import ALL, chosen_layers

    layers = chosen_layers(model.model.diffusion_model, ALL)
    return with_attention_run(attach_once(model, SHARED_BATCH, SharedBatch(Sharing(layers, **settings), full), "test"))


# parity


def test_both_hosts_have_the_same_network(rig, micro, unet):
    """Else the comparisons below would compare networks."""
    assert difference(euler(rig, micro), ddim(unet)) < 1e-4


@pytest.mark.parametrize("name", list(SETTINGS))
def test_every_layer_gives_what_the_published_operator_gives(name, rig, micro, adapter):
    """In one model call, where errors of one layer reach the next."""
    settings = SETTINGS[name]
    unet, names = of_comfy(micro)
    schedule = scheduler(1)
    step = lambda: asked(unet, NOISE, int(schedule.timesteps[0]))  # noqa: E731
    layers = self_attention(unet)
    plain = watched(layers, step)
    with adapter.SharedAttention(2, **settings).attach(unet):
        ours = watched(layers, step)
    with_published(unet, **settings)
    theirs = watched(layers, step)
    network = micro.model.diffusion_model
    twins = {layer: network.get_submodule(names[f"{layer}.to_q"].removesuffix(".to_q")) for layer in layers}
    comfys = watched(twins, lambda: euler(rig, shared_in_comfy(micro, **settings), steps=1))
    assert len(theirs) == 7
    for layer, expected in theirs.items():
        size = expected.abs().max().item()
        assert difference(expected, plain[layer]) > 0.02 * size
        assert difference(ours[layer], expected) < 1e-5 * size
        assert difference(comfys[layer], expected) < 1e-5 * size


@pytest.mark.parametrize("name", ["published", "both", "no adain", "swap", "full"])
def test_a_run_gives_what_the_published_operator_gives(name, rig, micro, unet, adapter):
    """Ten guided steps of DDIM with the published processors and with ours, and of ComfyUI's euler in batch mode."""
    settings = SETTINGS[name]
    plain = ddim(unet)
    with adapter.SharedAttention(2, **settings).attach(unet):
        ours = ddim(unet)
    theirs = ddim(with_published(unet, **settings))
    comfys = euler(rig, shared_in_comfy(micro, **settings))
    assert difference(theirs[1:], plain[1:]) > 0.3
    assert difference(ours, theirs) < 1e-4
    assert difference(comfys, theirs) < 1e-4
    if not settings.get("full"):
        assert difference(ours[:1], plain[:1]) < 1e-4


# what the adapter does


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_halves_share_apart(chunks, unet, adapter):
    """As many calls of one half each."""
    z, text = drawn(2 * chunks, 4, 12, 10, seed=8), drawn(2 * chunks, 7, 64, seed=9)
    together = adapter.SharedAttention(chunks, weight=1.5)
    alone = adapter.SharedAttention(1, weight=1.5)
    with torch.inference_mode():
        with together.attach(unet):
            found = unet(z, 500, encoder_hidden_states=text).sample
        with alone.attach(unet):
            parts = [
                unet(x, 500, encoder_hidden_states=c).sample for x, c in zip(z.split(2), text.split(2), strict=True)
            ]
    assert difference(found, torch.cat(parts)) < 1e-5


def test_single_picture_is_what_it_would_be(unet, adapter):
    z, text = drawn(2, 4, 12, 10), drawn(2, 7, 64, seed=1)
    with torch.inference_mode():
        plain = unet(z, 500, encoder_hidden_states=text).sample
        with adapter.SharedAttention(2, weight=3.0).attach(unet):
            assert difference(unet(z, 500, encoder_hidden_states=text).sample, plain) < 1e-6


def state(unet) -> tuple:
    """Processors by identity, and everything that hangs on the attention modules."""
    return (
        unet.attn_processors,
        list(unet.state_dict()),
        {name: sorted([*vars(module), *module._modules]) for name, module in unet.named_modules()},
    )


class _Module(torch.nn.Module):
    """A processor with weights of its own, as adapters bring them."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        return self.gain * hidden_states


@pytest.mark.parametrize("layers", [("",), ("up_blocks.1",)])
def test_former_processors_come_back(layers, unet, adapter):
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.set_processor(_Module())
    before, plain = state(unet), asked(unet, NOISE, 500)
    with adapter.SharedAttention(2, layers=layers).attach(unet):
        assert state(unet) != before
        assert difference(asked(unet, NOISE, 500), plain) > 0.01
    assert state(unet) == before
    assert torch.equal(asked(unet, NOISE, 500), plain)


def test_former_processors_come_back_after_an_error(unet, adapter):
    before = state(unet)
    with pytest.raises(KeyError), adapter.SharedAttention(2).attach(unet):
        raise KeyError
    assert state(unet) == before


def test_no_weight_changes_nothing(unet, adapter):
    before = state(unet)
    with adapter.SharedAttention(2, weight=0.0).attach(unet) as names:
        assert names == ()
        assert state(unet) == before


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (("",), 7),
        (("up_blocks",), 4),
        (("up_blocks.1",), 2),
        (("up_blocks.1.attentions.0", "mid_block"), 2),
        (("up_blocks", "up_blocks.1"), 4),
    ],
)
def test_layers_are_chosen_by_the_names_above_them(layers, expected, unet, adapter):
    with adapter.SharedAttention(2, layers=layers).attach(unet) as names:
        ours = {name for name, one in unet.attn_processors.items() if type(one).__module__ == adapter.__name__}
        assert ours == {f"{name}.processor" for name in names}
        assert len(names) == expected
        assert all(name.startswith(layers) and name.endswith("attn1") for name in names)


def test_first_attention_that_is_cross_attention_stays_out(adapter):
    """Some UNets have no self-attention in some blocks."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**CONFIG, only_cross_attention=(True, False))
    with adapter.SharedAttention(2).attach(unet) as names:
        assert {name.split(".attentions")[0] for name in names} == {"down_blocks.1", "up_blocks.0", "mid_block"}
        asked(unet, NOISE, 500)


def refused(core, subject: str, act) -> str:
    from stylization.stylization_core.errors import StylizationError

    with pytest.raises(StylizationError) as caught:
        act()
    assert caught.value.subject == subject
    return str(caught.value)


@pytest.mark.parametrize(
    ("subject", "settings"),
    [
        ("chunks", {"chunks": 0}),
        ("weight", {"chunks": 2, "weight": -1.0}),
        ("weight", {"chunks": 2, "weight": math.nan}),
        ("weight", {"chunks": 2, "weight": math.inf}),
        ("adain_query", {"chunks": 2, "adain_query": 1.5}),
        ("adain_key", {"chunks": 2, "adain_key": -0.1}),
        ("swap", {"chunks": 2, "swap": True, "full": True}),
    ],
)
def test_values_outside_their_range_are_refused(subject, settings, core, adapter):
    refused(core, subject, lambda: adapter.SharedAttention(**settings))


def entered(sharing, unet) -> None:
    with sharing.attach(unet):
        pass


@pytest.mark.parametrize("word", ["up_blocks.10", "up_bl", "down_blocks.0.attentions.0.transformer_blocks.0.attn2"])
def test_names_without_self_attention_are_refused(word, core, unet, adapter):
    before = state(unet)
    message = refused(core, "layers", lambda: entered(adapter.SharedAttention(2, layers=("mid_block", word)), unet))
    assert f"'{word}'" in message
    assert "up_blocks.1.attentions.1" in message
    assert state(unet) == before


def test_other_networks_are_refused(core, adapter):
    refused(core, "unet", lambda: entered(adapter.SharedAttention(2), torch.nn.Linear(2, 2)))


def test_a_second_sharing_is_refused_and_the_first_stays(core, unet, adapter):
    with adapter.SharedAttention(2, layers=("mid_block",)).attach(unet):
        before = state(unet)
        refused(core, "unet", lambda: entered(adapter.SharedAttention(2), unet))
        assert state(unet) == before


def test_batches_that_do_not_divide_are_refused(core, unet, adapter):
    with adapter.SharedAttention(4).attach(unet):
        refused(core, "chunks", lambda: asked(unet, NOISE, 500))


def test_masks_of_self_attention_are_refused(core, unet, adapter):
    with adapter.SharedAttention(2).attach(unet):
        refused(core, "attention_mask", lambda: asked(unet, NOISE, 500, attention_mask=torch.ones(6, 120)))
