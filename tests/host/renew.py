"""Write the frozen schemas of the pack's nodes anew, from a running server; see snapshots.py."""

from __future__ import annotations

import sys

import load

load.host_package()

from stylization_host import snapshots  # noqa: E402
from stylization_host.comfy_host import ComfyServer  # noqa: E402


def main() -> int:
    with ComfyServer("renew", keep_base=False) as server:
        snapshots.SCHEMAS.write_text(snapshots.written(snapshots.pack_schemas(server.client())), encoding="utf-8")
    sys.stdout.write(f"{snapshots.SCHEMAS}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
