"""UNet stage: the denoiser and the text tower, trained together on latents of photographs and of the base styles."""

import json
import random

import numpy as np
import torch
from autoencoder import prepare
from checkpoint import save_checkpoint
from logs import log
from networks import Schedule, TextTower, build_unet, device_of, token_ids, use_comfyui
from settings import BASE_STYLES, LORA_STYLES, SEED, TEMPLATE_WORDS
from training import Run, seed_everything

STEPS, LR = 20000, 6e-4
# (latent height, latent width, batch, share): details, larger details, whole views
SHAPES = ((16, 16, 16, 0.3), (24, 24, 7, 0.15), (24, 36, 5, 0.1), (32, 48, 3, 0.45))
DROP_PROMPT = 0.12
PAIRED_SHARE = 0.45  # steps that ask for the style of a photograph rather than for clean latents of a picture
UNKNOWN = [f"zq{k}" for k in range(400)]  # words that fill the hash buckets: the model learns to ignore them


class Latents:
    """Crops of the latents of a set of styles and of their photographs, with the words of their views."""

    def __init__(self, work, styles, weights):
        self.views = json.loads((work / "views.json").read_text(encoding="utf-8"))
        self.arrays = {s: np.load(work / f"latents_{s}.npy") for s in {"photo", *styles}}
        self.styles, self.weights = list(styles), list(weights)
        self.rows = [k for k, v in enumerate(self.views) for _ in range(2 if v["file"].startswith("photos/") else 1)]

    def batch(self, height, width, count):
        """(photographs, the same crops in a style, [(style, words of the view)]) of `count` random crops."""
        crops, tags = [], []
        full = self.arrays["photo"].shape[3:]
        for style in random.choices(self.styles, self.weights, k=count):
            k, flip = random.choice(self.rows), random.randint(0, 1)
            y, x = random.randint(0, full[0] - height), random.randint(0, full[1] - width)
            window = (k, flip, slice(None), slice(y, y + height), slice(x, x + width))
            crops.append([self.arrays["photo"][window], self.arrays[style][window]])
            tags.append((style, self.views[k]))
        both = torch.from_numpy(np.array(crops)).float()
        return both[:, 0], both[:, 1], tags


def vocabulary(views):
    words = set(TEMPLATE_WORDS.split()) | set(BASE_STYLES)
    for view in views:
        words |= {view["content"], *view["extra"]}
    return sorted(words)


def write_prompt(style, view, whole, always=False):
    """A prompt for a picture; details of a picture name their content less often than whole views.

    With `always` the style is named; without, a prompt can be empty or name no style or an unknown one.
    """
    if not always and random.random() < DROP_PROMPT:
        return ""
    if not always and random.random() < 0.1:
        style = random.choice(UNKNOWN)
    content = [view["content"]] if random.random() < (0.92 if whole else 0.6) else []
    content += [w for w in view["extra"] if random.random() < 0.5]
    random.shuffle(content)
    form = random.random()
    if form < 0.1 and content and not always:
        words = content
    elif form < 0.35:
        words = [*content, style]
    elif form < 0.6:
        words = [style, *content]
    elif style == "photo":
        words = ["a", "photo", "of", "a", *content] if content else ["a", "photo"]
    else:
        words = [style, "style", *content] if form < 0.8 else [*content, "in", style, "style"]
    if random.random() < 0.1:
        words.insert(random.randint(0, len(words)), random.choice(UNKNOWN))
    return " ".join(words)


def random_times(count, device, whole=False):
    """Times for a batch: half uniform, half near where it matters.

    For details that is below the middle, where image to image works; for whole views above it, where the things in a
    picture and their places are decided.
    """
    if random.random() < 0.5:
        u = (torch.rand(1) + torch.arange(count) / count) % 1
    elif whole:
        u = torch.sigmoid(torch.randn(count) * 0.9 + 1.0)
    else:
        u = torch.sigmoid(torch.randn(count) * 1.2 - 0.3)
    return (u * 1000).long().clamp(0, 999).to(device)


def pick_shape():
    return random.choices(SHAPES, [share for *_, share in SHAPES])[0][:3]


class Base:
    """The parts of the base model: UNet, text tower, tokenizer, schedule."""

    def __init__(self, work, device):
        from stylization_pocket.words import WordTokenizer

        self.views = json.loads((work / "views.json").read_text(encoding="utf-8"))
        self.words, self.device = vocabulary(self.views), device
        self.tokenizer = WordTokenizer(self.words)
        unknown = set(LORA_STYLES) & set(self.words)
        assert not unknown, f"trigger words {unknown} must not be in the vocabulary"
        self.unet = build_unet().to(device)
        self.text = TextTower(self.tokenizer.size).to(device)
        self.schedule = Schedule(device)

    def parameters(self):
        return [*self.unet.parameters(), *self.text.parameters()]

    def text_path(self):
        """What carries the prompt: few tokens bear it, so these parameters learn faster than the rest."""
        attention = [p for n, p in self.unet.named_parameters() if ".attn2." in n]
        return [*attention, *self.text.parameters()]

    def named_averages(self, values):
        """({unet name: value}, {text name: value}) of a list in the order of `parameters`."""
        names, text_names = ([n for n, _ in part.named_parameters()] for part in (self.unet, self.text))
        unet = dict(zip(names, values[: len(names)], strict=True))
        return unet, dict(zip(text_names, values[len(names) :], strict=True))

    def load_average(self, work):
        """Take the averaged weights of the training state, frozen."""
        state = torch.load(work / "unet.state", weights_only=True, map_location="cpu")
        unet, text = self.named_averages(state["average"])
        self.unet.load_state_dict(unet)
        self.text.load_state_dict(text)
        self.unet.requires_grad_(False)
        self.text.requires_grad_(False)
        return self

    def context(self, prompts):
        return self.text(token_ids(self.tokenizer, prompts, self.device))

    def losses(self, latents, prompts, times, unet=None):
        """Squared v error per picture."""
        x = latents.to(self.device)
        noise = torch.randn(x.shape).to(self.device)
        xt, v = self.schedule.noised(x, noise, times)
        with torch.autocast(self.device.type, torch.bfloat16):
            out = (unet or self.unet)(xt, times.float(), context=self.context(prompts))
        return ((out.float() - v) ** 2).mean((1, 2, 3))

    def paired_losses(self, photo, styled, prompts, times):
        """Squared x0 error per picture when a noisy mixture is given and the styled picture is asked for.

        Weighted by the inverse noise deviation, so that styles act at low noise too.
        """
        photo, styled = photo.to(self.device), styled.to(self.device)
        share = (torch.rand(len(photo), 1, 1, 1) * 1.4 - 0.4).clamp(min=0).to(self.device)
        noise = torch.randn(photo.shape).to(self.device)
        xt, _ = self.schedule.noised(torch.lerp(photo, styled, share), noise, times)
        a = self.schedule.alpha_bar[times].view(-1, 1, 1, 1)
        with torch.autocast(self.device.type, torch.bfloat16):
            v = self.unet(xt, times.float(), context=self.context(prompts)).float()
        denoised = a.sqrt() * xt - (1 - a).sqrt() * v
        return ((denoised - styled) ** 2).mean((1, 2, 3)) / (1 - a).sqrt().clamp(min=0.2).flatten()

    def step_loss(self, data, paired):
        """The loss of one training step on a batch of `data`."""
        height, width, count = pick_shape()
        photo, styled, tags = data.batch(height, width, count)
        times = random_times(count, self.device, whole=height >= 32 and not paired)
        prompts = [write_prompt(style, view, height >= 24, always=paired) for style, view in tags]
        if paired:
            return self.paired_losses(photo, styled, prompts, times.clamp(10, 900)).mean()
        return self.losses(styled, prompts, times).mean()


def run(args):
    use_comfyui(args)
    device = device_of(args)
    seed_everything(SEED)
    base = Base(args.work, device)
    count = sum(p.numel() for p in base.unet.parameters()) / 1e6
    log(f"UNet {count:.2f} M parameters, {len(base.words)} words: {' '.join(base.words)}")
    styles = ["photo", *BASE_STYLES]
    prepare(args.work, styles)
    data = Latents(args.work, styles, [3.0] + [1.0] * len(BASE_STYLES))
    training = Run("unet", base.parameters(), args.work, STEPS, LR, args.minutes, fast=base.text_path())

    def loss_of(step):
        return base.step_loss(data, random.random() < PAIRED_SHARE)

    training.train(loss_of, lambda: save_checkpoint(args, base, training.average.values, training.step))
    save_checkpoint(args, base, training.average.values, training.step)
