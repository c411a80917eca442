"""The denoiser and its text tower: ComfyUI's own UNet class, v-prediction on a schedule that ends at pure noise."""

import sys
from pathlib import Path

import networks  # of the pocket models, which are on the path
import torch
import torch.nn as nn

from .prompts import vocabulary
from .settings import CONTEXT_DIM, HEAD_CHANNELS, LATENT_CHANNELS, TEXT_LAYERS, TEXT_LENGTH, UNET

HOST = Path(__file__).resolve().parents[2] / "tests" / "host"
ATTENTION_CONTRAST = 6**0.5  # attention that is not uniform at the start has something to learn from


def attend(q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs):
    """Plain attention: in training on a CPU faster than the fused one, whose backward pass is slow in bfloat16."""
    b, n, c = q.shape
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (
            t.reshape(b, -1, heads, c // heads).transpose(1, 2).reshape(b * heads, -1, c // heads)
            for t in (q * (c // heads) ** -0.5, k, v)
        )
        out = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return out.reshape(b, heads, n, c // heads).transpose(1, 2).reshape(b, n, c)


def use_comfyui(args):
    """Makes ComfyUI importable and lets its attention be the plain one; must run before the model is built."""
    sys.path.insert(1, str(HOST))
    import torch_shims

    torch_shims.install()
    networks.use_comfyui(args)
    import comfy.ldm.modules.attention as attention

    attention.optimized_attention = attention.optimized_attention_masked = attend


def text_tower(words):
    tower = networks.TextTower(words, CONTEXT_DIM, TEXT_LAYERS)
    tower.embeddings.position_embedding = nn.Embedding(TEXT_LENGTH, CONTEXT_DIM)
    nn.init.normal_(tower.embeddings.position_embedding.weight, std=0.05)
    return tower


def unet_arguments(**changes):
    """What ComfyUI's UNetModel is built with."""
    return {
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "num_head_channels": HEAD_CHANNELS,
        **UNET,
        **changes,
    }


class StickerModel:
    """UNet, text tower, tokenizer and noise schedule; `words` is the vocabulary of the prompts."""

    def __init__(self, device="cpu"):
        from stylization_pocket.words import WordTokenizer

        self.device, self.words = torch.device(device), vocabulary()
        self.tokenizer = WordTokenizer(self.words)
        self.unet = networks.build_unet(**unet_arguments()).to(self.device, memory_format=torch.channels_last)
        with torch.no_grad():
            for name, m in self.unet.named_modules():
                if name.endswith((".attn1.to_q", ".attn1.to_k")):
                    m.weight *= ATTENTION_CONTRAST
        self.text = text_tower(self.tokenizer.size).to(self.device)
        self.schedule = networks.Schedule(self.device, zero_terminal=True)
        self.forward = self.unet

    def compiled(self):
        """A training step takes a quarter less time; the first one minutes, unless torch's cache has it already."""
        self.forward = torch.compile(self.unet, dynamic=False)
        return self

    def named_parameters(self):
        """(name, parameter) of UNet and text tower; the text path is what carries the prompt."""
        yield from (("unet." + name, p) for name, p in self.unet.named_parameters())
        yield from (("text." + name, p) for name, p in self.text.named_parameters())

    def parameters(self):
        return [p for _, p in self.named_parameters()]

    def load(self, values):
        """Takes the values of `parameters()`, frozen."""
        with torch.no_grad():
            for p, value in zip(self.parameters(), values, strict=True):
                p.copy_(value)
                p.requires_grad_(False)
        return self

    def token_ids(self, prompts):
        rows = [self.tokenizer(prompt)["input_ids"][: TEXT_LENGTH - 1] for prompt in prompts]
        return torch.tensor([row + [2] * (TEXT_LENGTH - len(row)) for row in rows], device=self.device)

    def context(self, prompts):
        """(N, TEXT_LENGTH, CONTEXT_DIM)."""
        return self.text(self.token_ids(prompts))

    def predict(self, x, times, context, control=None):
        """v of latents (N, 8, h, w) at integer times (N,)."""
        with torch.autocast(self.device.type, torch.bfloat16):
            x = x.contiguous(memory_format=torch.channels_last)
            return self.forward(x, times.float(), context=context, control=control).float()

    def loss(self, latents, prompts, times, control_of=None):
        """Squared v error of each picture; `control_of(x, times, context)` gives the residuals of a ControlNet."""
        x = latents.to(self.device)
        noised, v = self.schedule.noised(x, torch.randn(x.shape).to(self.device), times)
        with torch.autocast(self.device.type, torch.bfloat16):
            context = self.context(prompts)
        control = control_of(noised, times, context) if control_of else None
        return (self.predict(noised, times, context, control) - v).square().mean((1, 2, 3))
