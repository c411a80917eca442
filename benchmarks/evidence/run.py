"""Make an evidence, or what is missing of it, and its page in docs/.

    .host/env/environment/bin/python benchmarks/evidence/run.py --help          # the names there are
    .host/env/environment/bin/python benchmarks/evidence/run.py sms             # make what is missing, then the page
    .host/env/environment/bin/python benchmarks/evidence/run.py sms --only page     # from what is kept
    .host/env/environment/bin/python benchmarks/evidence/run.py sms --only rulers   # anew on what is kept
    .host/env/environment/bin/python benchmarks/evidence/run.py sms --only cells --methods full --cases 0 1

A cell is one case by one method. Its pictures and its record stay in .host/evidence/NAME and are not made again, so a
run can be stopped at any point and resumed by the same command; remove that folder after the weights changed. Use the
environment that `nox -s environment` builds.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]  # our names would hide others'
sys.path.append(str(HERE.parent))
import load  # noqa: E402

sys.path.remove(str(HERE.parent))

if __name__ == "__main__":
    load.module("evidence.command").main(__doc__)
