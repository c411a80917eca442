"""Stylize a photograph with the pack in a real ComfyUI: the shipped workflow, through the server's API.

The picture is written beside the photograph as <photo>_<style>.png, with a before-and-after sheet. The scores say how
much content stayed and how far the style came; read them against the two columns beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import load

load.host_package()
load.pack()

from PIL import Image, UnidentifiedImageError  # noqa: E402
from safetensors import safe_open  # noqa: E402
from stylization_host import comfy_base, scores  # noqa: E402
from stylization_host.api_form import api_form  # noqa: E402
from stylization_host.comfy_client import ComfyClient, PromptRefused, RunResult  # noqa: E402
from stylization_host.comfy_host import BootError, ComfyServer  # noqa: E402
from tqdm import tqdm  # noqa: E402

WORKFLOW = comfy_base.WORKFLOWS / "sms_photo.json"
PHOTO = comfy_base.PHOTOS / "neuschwanstein_castle.jpg"
LORAS = comfy_base.POCKET_MODELS / "loras"
EXEMPLARS = comfy_base.ROOT / "samples" / "styles"
LORA_PREFIX = "pocket_"
STYLE = "starry"
TRIGGER = "stylization_pocket.trigger_words"
LANDSCAPE = (384, 256)
"""Width and height the pocket model was trained at; turned for upright photographs."""


class Refused(RuntimeError):
    """The photograph or a model file cannot be used; the message says why."""


def styles() -> list[str]:
    """The styles that a LoRA of the pocket model was trained for."""
    return sorted(path.stem.removeprefix(LORA_PREFIX) for path in LORAS.glob(f"{LORA_PREFIX}*.safetensors"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--photo", type=Path, default=PHOTO, help="any photograph")
    parser.add_argument("--style", choices=styles(), default=STYLE, help="which LoRA of the pocket model")
    parser.add_argument("--content", default="", help="what the photo shows; if empty, the words of its file name")
    parser.add_argument("--steps", type=int, help="iterations; default as in the workflow")
    parser.add_argument("--out", type=Path, help="folder for the pictures; default the photo's own")
    chosen = parser.parse_args()
    if not chosen.photo.is_file():
        parser.error(f"--photo: there is no file {chosen.photo}")
    chosen.out = chosen.out or chosen.photo.parent
    chosen.content = chosen.content or chosen.photo.stem.replace("_", " ").replace("-", " ")
    return chosen


def trigger_words(lora: Path) -> str:
    """What the LoRA's own metadata says starts its style."""
    with safe_open(lora, framework="numpy") as file:
        words = (file.metadata() or {}).get(TRIGGER)
    if not words:
        raise Refused(f"{lora.name} has no {TRIGGER} in its metadata.")
    return words


def cut(path: Path) -> Image.Image:
    """The photograph at the pocket model's size, from its centre."""
    try:
        upright = scores.opened(path)
    except UnidentifiedImageError as error:
        raise Refused(f"{path} is no picture that can be read.") from error
    return scores.opened(path, LANDSCAPE if upright.width >= upright.height else LANDSCAPE[::-1])


def prompt_for(
    schemas: dict[str, Any], photo: str, size: tuple[int, int], style: str, content: str, **settings: Any
) -> dict[str, dict[str, Any]]:
    """The shipped workflow in API form, with photo, size, style and content put in; ``settings`` are those of SMS."""
    graph = api_form(json.loads(WORKFLOW.read_text(encoding="utf-8")), schemas)
    inputs = {node["class_type"]: node["inputs"] for node in graph.values()}
    lora = f"{LORA_PREFIX}{style}.safetensors"
    words = trigger_words(LORAS / lora)
    inputs["LoadImage"]["image"] = photo
    inputs["ImageScale"].update(width=size[0], height=size[1])
    inputs["StylizeStyleLoRA"]["lora_name"] = lora
    stylize = inputs["StylizeSMS"]
    stylize.update({name: value for name, value in settings.items() if value is not None})
    graph[stylize["positive"][0]]["inputs"]["text"] = f"{words}, {content}"
    graph[stylize["edit"][0]]["inputs"]["text"] = f"turn into {words}"
    return graph


def followed(client: ComfyClient, prompt: dict[str, dict[str, Any]]) -> RunResult:
    """Run the prompt with a progress bar over the stylizing node."""
    node = next(key for key, value in prompt.items() if value["class_type"] == "StylizeSMS")
    settings = prompt[node]["inputs"]
    with tqdm(total=settings["steps"], desc="Stylize SMS", unit="step", disable=settings["strength"] == 0) as bar:

        def show(kind: str, data: dict[str, Any]) -> None:
            if kind == "progress" and str(data.get("node")) == node:
                bar.update(data["value"] - bar.n)

        result = client.run(prompt, on_message=show, timeout=3600)
    if result.status != "success":
        raise Refused(f"The workflow ended with {result.status}: {result.error.message if result.error else ''}")
    return result


def stylized(server: ComfyServer, photo: Image.Image, style: str, content: str, **settings: Any) -> Image.Image:
    """The photo, which has the model's size already, in a style of the pocket model; at ``strength=0`` the VAE only."""
    client = server.client()
    sent = server.base / "photo_to_stylize.png"
    photo.save(sent)
    name = client.upload_image(sent)
    result = followed(client, prompt_for(client.object_info(), name, photo.size, style, content, **settings))
    return client.images(result)[0].convert("RGB")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def stylize(chosen: argparse.Namespace) -> None:
    photo = cut(chosen.photo)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"{chosen.photo.stem}_{chosen.style}.png"
    with ComfyServer("stylize", keep_base=False) as server:
        say(f"ComfyUI is up after {server.boot_time:.0f} s.")
        started = time.monotonic()
        picture = stylized(server, photo, chosen.style, chosen.content, steps=chosen.steps)
        seconds = time.monotonic() - started
        decoded = stylized(server, photo, chosen.style, chosen.content, strength=0)
    picture.save(path)
    say(f"{path} after {seconds:.0f} s\n")
    report(chosen.style, photo, decoded, picture, path.with_name(f"{path.stem}_sheet.png"))


def exemplars_of(style: str) -> list[Image.Image]:
    """Pictures of a style to measure by; none shows what a test photograph shows."""
    return [scores.opened(path) for path in sorted((EXEMPLARS / style).glob("*.jpg"))]


def report(style: str, photo: Image.Image, decoded: Image.Image, picture: Image.Image, sheet: Path) -> None:
    """Print the scores and write the sheet."""
    exemplars = exemplars_of(style)
    shown = {"photo": photo, f"{style}, by SMS": picture, "an exemplar of the style": exemplars[0]}
    scores.sheet(shown).save(sheet)
    say(scores.lines(scores.table(photo, decoded, picture, exemplars)))
    say("\nContent: structure and edges up to 1, low band and shift down to 0. Style: 0 at the photo, up towards 1.")
    say(f"Before and after: {sheet}")


def main() -> int:
    try:
        stylize(arguments())
    except (BootError, PromptRefused, Refused) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
