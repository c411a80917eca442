"""Make the pocket model: `python pocket/make.py` runs every stage; each resumes where it was stopped."""

import argparse
import os
from importlib import import_module
from pathlib import Path

from logs import log

STAGES = (
    "data",
    "autoencoder",
    "unet",
    "loras",
    "controlnet",
    "drawn_model",
    "drawn_controlnet",
    "samples",
    "contact_sheet",
    "measure",
)
HERE = Path(__file__).resolve().parent


def arguments():
    env = os.environ.get
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("stages", nargs="*", metavar="STAGE", help=f"stages to run, of {', '.join(STAGES)}; default all")
    work, photos = env("POCKET_WORK", HERE / "work"), env("POCKET_PHOTOS", HERE.parents[1] / "shared" / "images")
    p.add_argument("--work", type=Path, default=Path(work), help="folder for data and state")
    p.add_argument("--photos", type=Path, default=Path(photos), help="folder with photos/ and LICENSES.md")
    p.add_argument("--comfyui", type=Path, default=env("COMFYUI"), help="ComfyUI source tree")
    p.add_argument("--models", type=Path, default=HERE / "models", help="where the weights go")
    p.add_argument("--device", default=env("POCKET_DEVICE"), help="torch device; default cuda when present, else cpu")
    p.add_argument("--threads", type=int, default=0, help="CPU threads of torch")
    p.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that render styles")
    p.add_argument("--minutes", type=float, default=None, help="end the training of the named stage after this time")
    p.add_argument("--styles", nargs="*", help="styles of the stage loras; default all")
    p.add_argument("--sheets", nargs="*", help="sheets of the stage contact_sheet; default all")
    args = p.parse_args()
    unknown = [s for s in args.stages if s not in STAGES]
    if unknown:
        p.error(f"no stage named {unknown[0]}; the stages are {', '.join(STAGES)}")
    if not (args.photos / "LICENSES.md").is_file():
        p.error(f"{args.photos} holds no LICENSES.md: give the folder of free photographs with --photos")
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def main():
    args = arguments()
    for stage in args.stages or STAGES:
        log("stage", stage)
        import_module(stage).run(args)


if __name__ == "__main__":
    main()
