"""Samples without ComfyUI's sampler: DDIM steps with classifier-free guidance, for sheets and rulers."""

import torch

STEPS, CFG = 20, 3.0


@torch.no_grad()
def sample(
    model, prompts, seed=0, steps=STEPS, cfg=CFG, start=None, denoise=1.0, same_noise=False, control_of=None, side=16
):
    """Latents (N, 8, side, side) of prompts.

    Args:
        start: latents to begin from, at `denoise` of the way to noise.
        same_noise: all pictures begin from one noise.
        control_of: as for `StickerModel.loss`; it is asked with the conditional half first.
    """
    count = len(prompts)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1 if same_noise else count, 8, side, side), generator=generator).expand(count, -1, -1, -1)
    times = torch.linspace(999 * denoise, 0, max(4, round(steps * denoise)) + 1).round().long()
    alpha = model.schedule.alpha_bar[times]
    x = noise if start is None else alpha[0].sqrt() * start + (1 - alpha[0]).sqrt() * noise
    context = model.context([*prompts, *[""] * count])
    for k in range(len(times) - 1):
        both, at = torch.cat([x, x]), times[k].expand(2 * count)
        control = control_of(both, at, context) if control_of else None
        yes, no = model.predict(both, at, context, control).chunk(2)
        v = no + cfg * (yes - no)
        clean = alpha[k].sqrt() * x - (1 - alpha[k]).sqrt() * v
        rest = (1 - alpha[k]).sqrt() * x + alpha[k].sqrt() * v
        x = alpha[k + 1].sqrt() * clean + (1 - alpha[k + 1]).sqrt() * rest
    return clean


def in_parts(model, prompts, seed=0, part=32, **how):
    """`sample` for many prompts, with a seed of its own for each part."""
    found = [sample(model, prompts[k : k + part], seed + k, **how) for k in range(0, len(prompts), part)]
    return torch.cat(found)
