"""LoRA stage: one peft LoRA for each rendering that the base has never seen, saved in the kohya key layout.

Its trigger is a word that the base does not know, such as `glass style`. A sixth of the things is kept from it, so that
it can be told whether the rendering or only its pictures were learned.
"""

import torch
from checkpoint import half

from .denoiser import load as load_denoiser
from .denoiser import random_times
from .pool import Pool, grow
from .settings import BASE_MAKERS, HELD_OUT_RENDERINGS, OF_THE_MAKER, TRAINED_THINGS
from .training import Run, average_of, log
from .weights import write

RANK, BATCH, RATE = 8, 24, 3e-3
SHARDS = 2
KEPT_FROM_LORAS = TRAINED_THINGS[::6]
TARGETS = r".*(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|in_layers\.2|out_layers\.3)|input_blocks\.0\.0|out\.2"


def file_of(rendering):
    return f"sticker_{rendering}.safetensors"


def add_adapter(unet):
    """Inserts trainable LoRA layers; returns {module name: peft layer}."""
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS, init_lora_weights=True)
    peft.inject_adapter_in_model(config, unet, adapter_name="style")
    return {name: m for name, m in unet.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}


def weights_of(layers):
    return [p for layer in layers.values() for p in (layer.lora_A["style"].weight, layer.lora_B["style"].weight)]


def kohya_tensors(layers, values):
    """Key layout `lora_unet_<module>.lora_{down,up}.weight` and `.alpha`."""
    tensors, values = {}, iter(values)
    for name, layer in layers.items():
        key = "lora_unet_" + name.replace(".", "_")
        tensors[key + ".lora_down.weight"] = half(next(values))
        tensors[key + ".lora_up.weight"] = half(next(values))
        tensors[key + ".alpha"] = torch.tensor(float(layer.lora_alpha["style"]))
    return tensors


def makers_of(rendering):
    return ("fluent",) if rendering in OF_THE_MAKER else BASE_MAKERS


def prepare(work, rendering, shards=SHARDS):
    things = [thing for thing in TRAINED_THINGS if thing not in KEPT_FROM_LORAS]
    cells = [(thing, rendering) for thing in things]
    grow(work, f"pool_{rendering}", shards, cells, makers=makers_of(rendering))


def load(work, rendering):
    """The frozen model with a trained LoRA in it."""
    model, _ = load_denoiser(work)
    weights = weights_of(add_adapter(model.unet))
    with torch.no_grad():
        for p, value in zip(weights, average_of(work / f"lora_{rendering}.state")[0], strict=True):
            p.copy_(value)
            p.requires_grad_(False)
    return model


def train(work, rendering, minutes):
    model, counts = load_denoiser(work)
    torch.manual_seed(4)
    layers = add_adapter(model.unet)
    weights, pool = weights_of(layers), Pool(work / f"pool_{rendering}")
    run = Run(work / f"lora_{rendering}.state", [{"params": weights, "lr": RATE}], minutes, 0.99, 0.6, BATCH)
    log(f"LoRA {rendering}: {len(layers)} modules, {sum(p.numel() for p in weights) / 1e6:.2f} M parameters")

    def loss_of():
        latents, prompts = pool.prompted(BATCH)
        return model.loss(latents, prompts, random_times(BATCH)).mean()

    if run.train(loss_of):
        path = work / "models" / "loras" / file_of(rendering)
        write(
            path,
            kohya_tensors(layers, run.values),
            trigger_words=f"{rendering} style",
            rank=RANK,
            base_seen=counts["seen"],
        )
        log("wrote", path.name)


def train_all(work, minutes, names=()):
    for rendering in names or HELD_OUT_RENDERINGS:
        train(work, rendering, minutes)
