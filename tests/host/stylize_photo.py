"""Boot ComfyUI with the pack and the pocket model, run a workflow on a photograph and keep the result.

The workflow is a file in API form (in the frontend: Workflow, Export (API)). Its first LoadImage takes the photograph,
the first picture of its first SaveImage is the result; what its output nodes say as text is kept beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import load

load.host_package()

from stylization_host import comfy_base  # noqa: E402
from stylization_host.comfy_client import ComfyClient, PromptRefused, RunResult  # noqa: E402
from stylization_host.comfy_host import BootError, ComfyServer  # noqa: E402
from tqdm import tqdm  # noqa: E402


class Refused(RuntimeError):
    """The photograph or the workflow cannot be used; the message says why."""


def first(folder: Path, pattern: str) -> Path | None:
    return min(folder.glob(pattern), default=None)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    photo, workflow = first(comfy_base.PHOTOS, "*.[jp][pn]*g"), first(comfy_base.WORKFLOWS, "*.api.json")
    parser.add_argument("--photo", type=Path, default=photo, help=f"the photograph (default: {photo})")
    parser.add_argument("--workflow", type=Path, default=workflow, help=f"a graph in API form (default: {workflow})")
    parser.add_argument("--output", type=Path, help="the picture to write (default: <photo>.stylized.png)")
    chosen = parser.parse_args()
    for name in ("photo", "workflow"):
        path = getattr(chosen, name)
        if path is None or not path.is_file():
            parser.error(f"--{name}: no such file: {path}")
    chosen.output = chosen.output or chosen.photo.with_name(f"{chosen.photo.stem}.stylized.png")
    return chosen


def prompt_for(workflow: Path, photo: str) -> dict[str, dict[str, Any]]:
    """The workflow with its first LoadImage set to ``photo``, a name in the server's input folder."""
    graph = json.loads(workflow.read_text(encoding="utf-8"))
    if "nodes" in graph:
        raise Refused(f"{workflow} is a graph as the frontend saves it; export it in API form first.")
    loader = next((node for node in graph.values() if node["class_type"] == "LoadImage"), None)
    if loader is None:
        raise Refused(f"{workflow} has no LoadImage node that could take the photograph.")
    loader["inputs"]["image"] = photo
    return graph


def followed(client: ComfyClient, prompt: Mapping[str, Mapping[str, Any]]) -> RunResult:
    """Run the prompt with one progress bar per node that reports progress."""
    bars: dict[str, tqdm] = {}

    def show(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress":
            name = str(data.get("node"))
            if name not in bars:
                title = prompt.get(name, {}).get("class_type", name)
                bars[name] = tqdm(total=data["max"], desc=title, unit="step")
            bars[name].update(data["value"] - bars[name].n)

    try:
        return client.run(prompt, on_message=show, timeout=3600)
    finally:
        for bar in bars.values():
            bar.close()


def texts(result: RunResult) -> dict[str, Any]:
    """What the output nodes say, by node id; JSON text becomes its value."""
    found = {}
    for node, shown in result.outputs.items():
        for text in shown.get("text", []):
            try:
                found[node] = json.loads(text)
            except json.JSONDecodeError:
                found[node] = text
    return found


def stylize(chosen: argparse.Namespace) -> None:
    with ComfyServer("stylize", plugins=True) as server:
        sys.stdout.write(f"ComfyUI is up after {server.boot_time:.0f} s.\n")
        client = server.client()
        prompt = prompt_for(chosen.workflow, client.upload_image(chosen.photo))
        started = time.monotonic()
        result = followed(client, prompt)
        if result.status != "success":
            raise Refused(f"The workflow ended with {result.status}: {result.error.message if result.error else ''}")
        pictures = client.images(result)
        if not pictures:
            raise Refused(f"{chosen.workflow} saved no picture; it needs a SaveImage node.")
        pictures[0].save(chosen.output)
        sys.stdout.write(f"{chosen.output} after {time.monotonic() - started:.0f} s\n")
        said = texts(result)
        if said:
            chosen.output.with_suffix(".json").write_text(json.dumps(said, indent=2), encoding="utf-8")
            sys.stdout.write(json.dumps(said, indent=2) + "\n")


def main() -> int:
    try:
        stylize(arguments())
    except (BootError, PromptRefused, Refused) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
