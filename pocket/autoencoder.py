"""Autoencoder stage: principal components for the encoder, latents of every picture, a trained decoder.

The encoder is fixed by the principal components, so the UNet can train on the latents before the decoder is trained.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from logs import log
from networks import device_of, reset, use_comfyui
from settings import BASE_STYLES, LATENT_CHANNELS, LORA_STYLES, SEED, VIEW
from training import Run, seed_everything

EXPONENT = 0.7  # a channel of pixel-space deviation s gets a latent deviation ~ s^0.7: between raw and whitened
STEPS, BATCH, CROP = 2600, 12, 96
LATENT_NOISE = 0.12  # the decoder also cleans latents that a sampler left slightly noisy


SEEN = ("photo", *BASE_STYLES)


def open_pictures(work, styles):
    return {s: np.load(work / f"pictures_{s}.npy", mmap_mode="r") for s in styles}


def to_tensor(pictures):
    """uint8 (N, H, W, 3) -> float (N, 3, H, W) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def principal_components(pictures, rng, samples=1200):
    """Mean, basis (192, C) and latent gains (C,) of 8x8 pixel blocks of the pictures."""
    blocks = []
    for style, array in pictures.items():
        for k in rng.integers(0, len(array), samples // 4 if style != "photo" else samples):
            y, x = rng.integers(0, VIEW[0] - 7), rng.integers(0, VIEW[1] - 71)
            blocks.append(np.stack([array[k, y : y + 8, x + 8 * j : x + 8 * j + 8] for j in range(8)]))
    flat = F.pixel_unshuffle(to_tensor(np.concatenate(blocks)), 8).flatten(1).double()
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    deviation = values.flip(0)[:LATENT_CHANNELS].sqrt()
    gain = deviation ** (1 - EXPONENT)
    gain = gain * ((deviation / gain) ** 2).mean().sqrt()  # mean latent variance 1
    log("latent deviations", [round(v, 2) for v in (deviation / gain).tolist()])
    return mean.float(), vectors.flip(1)[:, :LATENT_CHANNELS].float(), gain.float()


def build(work):
    """The autoencoder with its linear maps set from the stored principal components."""
    from stylization_pocket.autoencoder import PocketAutoencoder

    parts = torch.load(work / "components.pt", weights_only=True)
    mean, basis, gain = parts["mean"], parts["basis"], parts["gain"]
    net = reset(PocketAutoencoder(LATENT_CHANNELS))
    with torch.no_grad():
        for block in (*net.blocks8, *net.blocks4, *net.blocks2):
            block.conv2.weight.mul_(0.2)
        net.outlet.weight.zero_()
        net.outlet.bias.zero_()
        net.analysis.weight.copy_((basis / gain).T[:, :, None, None])
        net.analysis.bias.copy_(-(basis / gain).T @ mean)
        net.synthesis.weight.copy_((basis * gain)[:, :, None, None])
        net.synthesis.bias.copy_(mean)
    net.analysis.requires_grad_(False)
    net.synthesis.requires_grad_(False)
    return net


@torch.no_grad()
def encode_all(work, pictures, net):
    """latents_<style>.npy: float16 (views, 2, C, 32, 48); index 1 is the mirrored picture."""
    for style, array in pictures.items():
        path = work / f"latents_{style}.npy"
        if path.is_file():
            continue
        out = []
        for k in range(0, len(array), 64):
            x = to_tensor(array[k : k + 64])
            out.append(torch.stack([net.encode(x), net.encode(x.flip(-1))], 1).half().numpy())
        np.save(path, np.concatenate(out))


def psnr(a, b):
    """Peak signal-to-noise ratio in dB of -1..1 images."""
    return -10 * math.log10(float(F.mse_loss(a.clamp(-1, 1), b)) / 4)


def sharp_loss(output, target):
    """L1 + L2 + L1 of gradients at two scales."""
    d = output - target
    loss = d.abs().mean() + (d * d).mean()
    for _ in range(2):
        loss = loss + 0.5 * ((d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean())
        d = F.avg_pool2d(d, 2)
    return loss


def random_crops(pictures):
    names = list(pictures)
    crops = []
    for _ in range(BATCH):
        style = "photo" if torch.rand(1) < 0.4 else names[int(torch.randint(len(names), (1,)))]
        array = pictures[style]
        k = int(torch.randint(len(array), (1,)))
        y, x = int(torch.randint(VIEW[0] - CROP + 1, (1,))), int(torch.randint(VIEW[1] - CROP + 1, (1,)))
        crop = array[k, y : y + CROP, x : x + CROP]
        crops.append(crop[:, ::-1] if torch.rand(1) < 0.5 else crop)
    return to_tensor(np.stack(crops))


def train_decoder(args, pictures, net, device):
    net.to(device, memory_format=torch.channels_last)
    trained = [p for p in net.parameters() if p.requires_grad]
    run = Run("autoencoder", trained, args.work, STEPS, 1.5e-3, args.minutes, decay=0.99, betas=(0.9, 0.99))

    def loss_of(step):
        x = random_crops(pictures).to(device)
        with torch.no_grad():
            z = net.encode(x)
            z = z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1, device=device) * LATENT_NOISE
        with torch.autocast(device.type, torch.bfloat16):
            y = net.decode(z.contiguous(memory_format=torch.channels_last))
        return sharp_loss(y.float(), x)

    def keep():
        state = {k: v.detach().clone() for k, v in net.state_dict().items()}
        names = [k for k, p in net.named_parameters() if p.requires_grad]
        state.update(zip(names, run.average.values, strict=True))
        torch.save(state, args.work / "autoencoder.pt")

    run.train(loss_of, keep)


def load(work):
    """The trained autoencoder, or the untrained one (block edges and all) when the decoder is not there yet."""
    net = build(work)
    if (work / "autoencoder.pt").is_file():
        net.load_state_dict(torch.load(work / "autoencoder.pt", weights_only=True))
    return net.train(False).requires_grad_(False)


def prepare(work, styles):
    """Latents of some styles; the principal components are computed once, from photographs and base styles."""
    if not (work / "components.pt").is_file():
        mean, basis, gain = principal_components(open_pictures(work, SEEN), np.random.default_rng(SEED))
        torch.save({"mean": mean, "basis": basis, "gain": gain}, work / "components.pt")
    encode_all(work, open_pictures(work, styles), build(work))


def run(args):
    use_comfyui(args)
    device = device_of(args)
    seed_everything(SEED)
    styles = (*SEEN, *LORA_STYLES)
    prepare(args.work, styles)
    train_decoder(args, open_pictures(args.work, styles), build(args.work), device)
