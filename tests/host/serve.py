"""Leave a server running with the pack, the pocket model and the shipped photographs in place."""

from __future__ import annotations

import argparse
import sys

import load

load.host_package()

from stylization_host.comfy_host import BootError, ComfyServer  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8188, help="the port to listen on; 0 takes a free one")
    arguments, for_comfyui = parser.parse_known_args()
    try:
        with ComfyServer("serve", port=arguments.port, extra_arguments=for_comfyui) as server:
            sys.stdout.write(f"ComfyUI runs at {server.url} (Ctrl+C ends it). Its log is {server.log}.\n")
            sys.stdout.flush()
            return server.wait()
    except KeyboardInterrupt:
        return 0
    except BootError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
