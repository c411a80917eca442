"""Write the frozen schemas and the API forms of the shipped graphs anew, from a running server and its frontend.

.host/env/environment/bin/python tests/host/renew.py
"""

from __future__ import annotations

import sys

import load

load.host_package()

from stylization_host import browser, snapshots  # noqa: E402
from stylization_host.comfy_host import ComfyServer  # noqa: E402


def main() -> int:
    with ComfyServer("renew", keep_base=False) as server, browser.running() as chromium:
        snapshots.SCHEMAS.write_text(snapshots.written(snapshots.pack_schemas(server.client())), encoding="utf-8")
        snapshots.API_FORMS.mkdir(exist_ok=True)
        for workflow in snapshots.workflows():
            with browser.opened(chromium, server.url) as page:
                browser.load_workflow(page, workflow)
                snapshots.api_form(workflow).write_text(snapshots.written(browser.api_prompt(page)), encoding="utf-8")
            sys.stdout.write(f"{snapshots.api_form(workflow).relative_to(snapshots.WORKFLOWS.parent)}\n")
    sys.stdout.write(f"{snapshots.SCHEMAS.relative_to(snapshots.WORKFLOWS.parent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
