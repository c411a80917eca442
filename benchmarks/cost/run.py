"""Measure what an operator takes.

    .host/env/environment/bin/python benchmarks/cost/run.py sms
    .host/env/environment/bin/python benchmarks/cost/run.py holistic --growth
    .host/env/environment/bin/python benchmarks/cost/run.py shared_attention --family sdxl --device cuda --latent 128

`--help` after a name says what it measures. Use the environment that `nox -s environment` builds.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]  # our names would hide others'
sys.path.append(str(HERE.parent))
import load  # noqa: E402

sys.path.remove(str(HERE.parent))

NAMES = ("sms", "holistic", "shared_attention")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"{__doc__}\nNames: {', '.join(NAMES)}")
    load.module(f"cost.{sys.argv.pop(1)}").main()
