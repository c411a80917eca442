"""The second, very small denoiser of drawn scenes: its words name things, and looks are left to self-attention.

It shares autoencoder and text tower with the base model; only a UNet is trained and written, as a file for the stock
node Load Diffusion Model.
"""

import random
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from autoencoder import load
from checkpoint import CHECKPOINT, half, write
from drawings import SIZE, THINGS, Look, drawing
from logs import log
from networks import TEXT_PREFIX, Schedule, TextTower, build_unet, device_of, token_ids, use_comfyui
from safetensors.torch import load_file
from settings import BASE_STYLES, DRAWN_UNET, SEED
from training import Run, seed_everything
from unet import Latents

FILE = "stylization_pocket_drawings.safetensors"
STEPS, LR, BATCH = 40000, 2e-3, 32
LOOKS, PER_LOOK = 4000, 6  # of the training pictures
PICTURE_SHARE = 0.06  # steps on photographs and their styles instead of drawings
DROP_PROMPT = 0.12
FORMS = ("{}", "a {}", "a picture of a {}", "view of the {}", "{} painting")


def render_looks(looks):
    """(things, pictures) of some looks by number: names (n, PER_LOOK) and uint8 (n, PER_LOOK, SIZE, SIZE, 3)."""
    names, pictures = [], []
    for number in looks:
        rng = np.random.default_rng((SEED, number))
        look = Look(rng)
        chosen = [str(name) for name in rng.choice(list(THINGS), PER_LOOK, replace=False)]
        names.append(chosen)
        pictures.append([drawing(name, look, rng) for name in chosen])
    return names, np.array(pictures)


def prepare(args):
    """drawn.npz in the work folder: float16 latents (LOOKS, PER_LOOK, C, h, w) and the names of the things."""
    path = args.work / "drawn.npz"
    if path.is_file():
        return
    net, things, latents = load(args.work), [], []
    with ProcessPoolExecutor(args.workers) as pool:
        for names, pictures in pool.map(render_looks, np.array_split(np.arange(LOOKS), 40)):
            with torch.no_grad():
                pixels = torch.from_numpy(pictures).flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
                found = net.encode(pixels)
            latents.append(found.view(len(pictures), PER_LOOK, *found.shape[1:]).half().numpy())
            things += names
            log(f"drew {len(things)} looks")
    np.savez(path, latents=np.concatenate(latents), things=np.array(things))


class Drawings:
    """Latents of the training pictures, by look."""

    def __init__(self, work):
        with np.load(work / "drawn.npz") as kept:
            self.latents, self.things = kept["latents"], kept["things"]

    def batch(self, count):
        """(latents, things)."""
        looks = np.random.randint(0, self.latents.shape[0], count)
        places = np.random.randint(0, self.latents.shape[1], count)
        return torch.from_numpy(self.latents[looks, places]).float(), [str(t) for t in self.things[looks, places]]


class Words:
    """The frozen text tower of the base checkpoint, with its answers kept."""

    def __init__(self, args, device):
        from stylization_pocket.words import WordTokenizer

        tensors = load_file(str(args.models / "checkpoints" / CHECKPOINT))
        self.tokenizer = WordTokenizer.from_pretrained(tensors["cond_stage_model.pocket_vocab"])
        self.tower = TextTower(self.tokenizer.size)
        self.tower.load_state_dict(
            {k[len(TEXT_PREFIX) :]: v.float() for k, v in tensors.items() if k.startswith(TEXT_PREFIX)}
        )
        self.device, self.kept = device, {}

    @torch.no_grad()
    def __call__(self, prompts):
        for prompt in set(prompts) - set(self.kept):
            self.kept[prompt] = self.tower(token_ids(self.tokenizer, [prompt], "cpu"))[0].to(self.device)
        return torch.stack([self.kept[prompt] for prompt in prompts])


def prompt_of(words):
    return "" if random.random() < DROP_PROMPT else random.choice(FORMS).format(words)


def attend(q, k, v, options):
    """Fused self-attention, which ComfyUI does not choose on a CPU."""
    b, n, c = q.shape
    heads = options["n_heads"]
    q, k, v = (t.reshape(b, n, heads, c // heads).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)


BLOCKS = [("middle", 0), *((name, k) for name in ("input", "output") for k in range(12))]
FUSED = {"patches_replace": {"attn1": dict.fromkeys(BLOCKS, attend)}}


def random_times(count, device):
    """Half evenly spread, half towards noise, where things and their places are decided."""
    if random.random() < 0.5:
        u = (torch.rand(1) + torch.randperm(count) / count) % 1
    else:
        u = torch.sigmoid(torch.randn(count) * 1.2 + 0.8)
    return (u * 1000).long().clamp(0, 999).to(device)


class Drawn:
    """UNet, words, data and schedule of the stage and of its ControlNet."""

    def __init__(self, args, device):
        self.device, self.words = device, Words(args, device)
        self.unet = build_unet(**DRAWN_UNET).to(device)
        for name, m in self.unet.named_modules():
            if name.endswith((".attn1.to_q", ".attn1.to_k")):
                with torch.no_grad():
                    m.weight *= 6**0.5  # attention that is not uniform at the start has something to learn from
        self.schedule = Schedule(device, zero_terminal=True)
        self.drawings = Drawings(args.work)
        styles = ["photo", *BASE_STYLES]
        self.pictures = Latents(args.work, styles, [1.0] * len(styles))
        self.side = SIZE // 8

    def batch(self):
        """(latents, prompts)."""
        if random.random() < PICTURE_SHARE:
            _, latents, tags = self.pictures.batch(self.side, self.side, BATCH)
            return latents, [prompt_of(view["content"]) for _, view in tags]
        latents, things = self.drawings.batch(BATCH)
        return latents, [prompt_of(thing) for thing in things]

    def loss(self):
        """Squared v error of one training step."""
        latents, prompts = self.batch()
        times = random_times(BATCH, self.device)
        x = latents.to(self.device)
        noise = torch.randn(x.shape).to(self.device)
        xt, v = self.schedule.noised(x, noise, times)
        return F.mse_loss(self.predict(xt, times, self.words(prompts)), v)

    def predict(self, xt, times, context, control=None):
        with torch.autocast(self.device.type, torch.bfloat16):
            found = self.unet(xt, times.float(), context=context, control=control, transformer_options=FUSED)
        return found.float()


def run(args):
    use_comfyui(args)
    device = device_of(args)
    seed_everything(SEED + 3)
    prepare(args)
    drawn = Drawn(args, device)
    parameters = list(drawn.unet.parameters())
    log(f"UNet {sum(p.numel() for p in parameters) / 1e6:.2f} M parameters")
    training = Run("drawn", parameters, args.work, STEPS, LR, args.minutes)

    def keep():
        names = [name for name, _ in drawn.unet.named_parameters()]
        tensors = {n: half(v) for n, v in zip(names, training.average.values, strict=True)}
        write(args.models / "diffusion_models" / FILE, tensors, steps=training.step)

    training.train(lambda step: drawn.loss(), keep)
    keep()
