"""One line of progress on standard output, at once."""

import sys


def log(*parts):
    sys.stdout.write(" ".join(str(part) for part in parts) + "\n")
    sys.stdout.flush()
