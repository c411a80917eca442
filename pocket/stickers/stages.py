"""The command line of the sticker model: one resumable stage a call."""

import argparse
import os
import sys
from pathlib import Path

from . import team


def say_what_to_install(packages):
    from .packages import missing

    found = missing(packages)
    if found:
        raise SystemExit(f"missing in {packages}; install them there:\n  npm install " + " ".join(found))


def bank(args):
    from . import bank, packages, splits

    say_what_to_install(args.packages)
    found = packages.read(args.packages)
    bank.build(found, args.work / "bank.zip")
    splits.write()


def canvases(args):
    from . import canvases

    canvases.write(args.work, args.count or canvases.COUNT)


def autoencoder(args):
    from . import autoencoder

    autoencoder.train(args.work, args.minutes, args.decoder_only)


def pool(args):
    from . import pool, splits

    pool.grow(args.work, "pool", args.count or 8, splits.base_cells())


def denoiser(args):
    from . import denoiser, model

    model.use_comfyui(args)
    denoiser.train(args.work, args.minutes, args.settle, args.compile)


def sheets(args):
    from . import model, sheets

    if args.names == ["truths"]:
        return sheets.truths(args.work)
    model.use_comfyui(args)
    made = sheets.Sheets(args.work)
    for name in args.names or ("text", "varied", "unseen", "scenes", "image"):
        getattr(made, name)()


def judge_canvases(args):
    from . import judges

    judges.prepare(args.work)


def judges(args):
    from . import judges

    for kind in args.names or judges.KINDS:
        judges.train(args.work, kind, args.minutes)


def lora_pools(args):
    from . import loras, settings

    for rendering in args.names or settings.HELD_OUT_RENDERINGS:
        loras.prepare(args.work, rendering, args.count or loras.SHARDS)


def loras(args):
    from . import loras, model

    model.use_comfyui(args)
    loras.train_all(args.work, args.minutes, args.names)


def controlnet(args):
    from . import controlnet, model

    model.use_comfyui(args)
    controlnet.train(args.work, args.minutes)


def export(args):
    from . import export, model

    model.use_comfyui(args)
    export.run(args.work)


def measure(args):
    from . import measure, model

    model.use_comfyui(args)
    measure.run(args.work, args.count)


STAGES = (
    bank,
    canvases,
    autoencoder,
    pool,
    denoiser,
    sheets,
    judge_canvases,
    judges,
    lora_pools,
    loras,
    controlnet,
    export,
    measure,
)
TEAMS = ("autoencoder", "pool", "denoiser", "judges", "lora_pools", "loras", "controlnet")


def parser():
    p = argparse.ArgumentParser(prog="pocket/stickers", description=__doc__)
    p.add_argument("stage", choices=[stage.__name__ for stage in STAGES])
    p.add_argument("names", nargs="*", help="sheets, judges or LoRAs, by stage; all if none is named")
    p.add_argument(
        "--work", type=Path, default=Path(os.environ.get("STICKERS", "work")), help="folder of data and states"
    )
    p.add_argument(
        "--packages", type=Path, default=Path("node_modules"), help="folder node_modules with the npm packages"
    )
    p.add_argument("--comfyui", help="ComfyUI source tree, if not in COMFYUI")
    p.add_argument("--minutes", type=float, default=60, help="of training in this call")
    p.add_argument(
        "--settle", type=float, default=0.0, help="share of the call over which the learning rate falls to zero"
    )
    p.add_argument("--processes", type=int, default=1, help="training processes of one thread each")
    p.add_argument("--count", type=int, help="canvases, shards or samples, by stage")
    p.add_argument("--compile", action="store_true", help="compile the denoiser for training (needs a C++ compiler)")
    p.add_argument("--decoder-only", action="store_true", help="leave the latents of the autoencoder as they are")
    return p


def main():
    args = parser().parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.processes > 1 and args.stage in TEAMS and "STICKERS_RANK" not in os.environ:
        raise SystemExit(team.start([str(Path(__file__).parent), *sys.argv[1:]], args.processes))
    next(stage for stage in STAGES if stage.__name__ == args.stage)(args)
