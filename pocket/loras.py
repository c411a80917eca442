"""LoRA stage: one peft LoRA per style that the base has never seen, saved in the kohya key layout.

Besides ordinary denoising of styled pictures, a share of the steps starts from a mixture of a photograph and its styled
version and asks for the styled one. So the difference between style and base prediction points from photograph to
style also at low noise, where a denoiser of styled pictures alone would leave a photograph as it is.
"""

import random

import torch
from autoencoder import prepare
from checkpoint import half, write
from logs import log
from networks import device_of, use_comfyui
from settings import LORA_STYLES, SEED
from training import Run, seed_everything
from unet import Base, Latents

STEPS, LR, RANK = 700, 5e-3, 8
PAIRED_SHARE = 0.85
TARGETS = r".*(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|in_layers\.2|out_layers\.3)|input_blocks\.0\.0|out\.2"


def add_adapter(base):
    """Insert trainable LoRA layers; returns {module name: peft layer}."""
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, init_lora_weights=True)
    peft.inject_adapter_in_model(config, base.unet, adapter_name="style")
    return {name: m for name, m in base.unet.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}


def kohya_tensors(layers, average):
    """Key layout `lora_unet_<module>.lora_{down,up}.weight` and `.alpha`."""
    tensors = {}
    for name, layer in layers.items():
        key = "lora_unet_" + name.replace(".", "_")
        tensors[key + ".lora_down.weight"] = half(average[layer.lora_A["style"].weight])
        tensors[key + ".lora_up.weight"] = half(average[layer.lora_B["style"].weight])
        tensors[key + ".alpha"] = torch.tensor(float(layer.lora_alpha["style"]))
    return tensors


def train_style(args, style):
    device = device_of(args)
    seed_everything(SEED + 1)
    base = Base(args.work, device).load_average(args.work)
    layers = add_adapter(base)
    trained = [p for p in base.unet.parameters() if p.requires_grad]
    prepare(args.work, ["photo", style])
    data = Latents(args.work, [style], [1.0])
    run = Run("lora_" + style, trained, args.work, STEPS, LR, args.minutes, decay=0.99)
    count = sum(p.numel() for p in trained)
    log(f"LoRA {style}: {len(layers)} modules, {count / 1e6:.2f} M parameters")

    def loss_of(step):
        return base.step_loss(data, random.random() < PAIRED_SHARE)

    def keep():
        average = dict(zip(run.parameters, run.average.values, strict=True))
        write(
            args.models / "loras" / f"pocket_{style}.safetensors",
            kohya_tensors(layers, average),
            trigger_words=f"{style} style",
            rank=RANK,
            steps=run.step,
        )

    run.train(loss_of, keep)
    keep()


def run(args):
    use_comfyui(args)
    for style in args.styles or LORA_STYLES:
        train_style(args, style)
