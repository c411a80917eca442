"""python pocket/stickers STAGE --work FOLDER: the stages of the sticker model, each resumable (see README.md)."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder of the pocket models, not this one

from stickers.stages import main  # noqa: E402

main()
