"""The networks in a trainable form, with the parameter names under which ComfyUI loads them."""

import os
import sys
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from settings import BETA_END, BETA_START, CONTEXT_DIM, HEAD_CHANNELS, LATENT_CHANNELS, TEXT_LAYERS, TEXT_LENGTH, UNET

PLUGIN = Path(__file__).resolve().parents[1] / "tests" / "host" / "plugins" / "stylization_pocket"
ALPHA_BAR_END = 4.8973451890853435e-08
TEXT_PREFIX = "cond_stage_model.clip_l.transformer.text_model."


def use_comfyui(args):
    """Make the ComfyUI tree and the registration plug-in importable; must run before any comfy import."""
    tree = args.comfyui or os.environ.get("COMFYUI")
    if not tree or not (Path(tree) / "comfy").is_dir():
        raise SystemExit("Give the ComfyUI source tree: --comfyui FOLDER, or the environment variable COMFYUI.")
    for path in (str(tree), str(PLUGIN.parent)):
        if path not in sys.path:
            sys.path.insert(0, path)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    if not torch.cuda.is_available():
        import comfy.cli_args

        comfy.cli_args.args.cpu = True


def device_of(args):
    if args.threads:
        torch.set_num_threads(args.threads)
    return torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def reset(module):
    """Ordinary initial weights: ComfyUI's layers come uninitialised and frozen."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.Conv2d.reset_parameters(m)
        elif isinstance(m, nn.Linear):
            nn.Linear.reset_parameters(m)
        elif isinstance(m, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
    return module.requires_grad_(True)


def light_group_norm(net):
    """Group norms that stay in bfloat16 under autocast: on a CPU that saves a fifth of a training step."""

    def forward_of(m):
        def forward(x):
            with torch.autocast(x.device.type, enabled=False):
                return F.group_norm(x, m.num_groups, m.weight.to(x.dtype), m.bias.to(x.dtype), m.eps)

        return forward

    for m in net.modules():
        if isinstance(m, nn.GroupNorm):
            m.forward = forward_of(m)
    return net


def unet_arguments(**changes):
    return {
        "image_size": 32,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "context_dim": CONTEXT_DIM,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "num_heads": -1,
        "num_head_channels": HEAD_CHANNELS,
        **{k: list(v) if isinstance(v, list) else v for k, v in UNET.items()},
        **changes,
    }


def build_unet(**changes):
    """ComfyUI's UNetModel with residual exits at zero, as the original training code has them."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    net = UNetModel(
        **unet_arguments(**changes), dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    reset(net)
    for name, m in net.named_modules():
        if name.endswith(("out_layers.3", ".proj_out")) or name == "out.2":
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)
    return light_group_norm(net)


class TextAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.heads = max(1, width // 32)

    def forward(self, x):
        b, length, width = x.shape
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (p(x).view(b, length, self.heads, -1).transpose(1, 2) for p in projections)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).reshape(b, length, width))


class TextFeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class TextLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn, self.mlp = TextAttention(width), TextFeedForward(width)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextTower(nn.Module):
    """Trainable twin of ComfyUI's CLIP text model (that one adds in place, which autograd refuses)."""

    def __init__(self, vocabulary_size, width=CONTEXT_DIM, layers=TEXT_LAYERS):
        super().__init__()
        self.embeddings, self.encoder = nn.Module(), nn.Module()
        self.embeddings.token_embedding = nn.Embedding(vocabulary_size, width)
        self.embeddings.position_embedding = nn.Embedding(TEXT_LENGTH, width)
        nn.init.normal_(self.embeddings.token_embedding.weight, std=0.5)
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.05)
        self.encoder.layers = nn.ModuleList([TextLayer(width) for _ in range(layers)])
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, ids):
        x = self.embeddings.token_embedding(ids) + self.embeddings.position_embedding.weight
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)


def token_ids(tokenizer, texts, device):
    """Ids of prompts, shape (prompts, TEXT_LENGTH), filled with the end token as CLIP is for SD 1.x."""
    rows = [tokenizer(text)["input_ids"][: TEXT_LENGTH - 1] for text in texts]
    return torch.tensor([row + [2] * (TEXT_LENGTH - len(row)) for row in rows], device=device)


class Schedule:
    """alpha-bar of the discrete VP schedule, and what v-prediction needs.

    Args:
        zero_terminal: the last level is pure noise, as ComfyUI's ``zsnr`` has it.
    """

    def __init__(self, device, zero_terminal=False):
        beta = torch.linspace(BETA_START**0.5, BETA_END**0.5, 1000, dtype=torch.float64) ** 2
        root = torch.cumprod(1 - beta, 0).sqrt()
        if zero_terminal:
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        # the last value as ComfyUI sets it, so that the level has a finite sigma
        self.alpha_bar = (root**2).clamp_min(ALPHA_BAR_END).float().to(device)

    def noised(self, x, noise, t):
        """(x_t, v target) at integer times t."""
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt() * x + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * x

    def time_of_sigma(self, sigma):
        """The nearest integer time to a k-diffusion sigma."""
        sigmas = ((1 - self.alpha_bar) / self.alpha_bar).sqrt()
        return int((sigmas.log() - torch.tensor(sigma).log()).abs().argmin())
