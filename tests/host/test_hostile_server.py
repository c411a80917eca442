"""What a real server is sent by a script, or by a page with half an emoji: one clear error, and the server lives on."""

from __future__ import annotations

import json
import uuid

import pytest
import requests
from stylization_host.graphs import node

PHOTO = "neuschwanstein_castle.jpg"


def composite(**given) -> dict:
    inputs = {"original": ["small", 0], "styled": ["inverted", 0], "mask": ["white", 0], "feather": 2.0, **given}
    return {
        "photo": node("LoadImage", image=PHOTO),
        "small": node("ImageScale", image=["photo", 0], upscale_method="area", width=96, height=64, crop="center"),
        "inverted": node("ImageInvert", image=["small", 0]),
        "white": node("SolidMask", value=1.0, width=96, height=64),
        "merged": node("StylizeProtectComposite", **inputs),
        "shown": node("PreviewImage", images=["merged", 0]),
    }


def report(**given) -> dict:
    inputs = {"chart": "bars", "theme": "dark", "sequence": False, "filename_prefix": "hostile/x", "save": True}
    graph = composite()
    graph["report"] = node("StylizeReport", content=["small", 0], result=["inverted", 0], **{**inputs, **given})
    return {key: graph[key] for key in ("photo", "small", "inverted", "report")}


def card(name: str) -> dict:
    return {
        "card": node("StylizeLoadStyleCard", card_name=name, weight=1.0),
        "shown": node("PreviewAny", source=["card", 0]),
    }


@pytest.fixture(scope="module", autouse=True)
def forgotten(server):
    """The server tells its history with NaN as it came, which is no JSON: pages of later tests could not read it."""
    yield
    server.client().post("/history", {"clear": True})


HOSTILE = {
    "a factor that is no number": (composite(feather=float("nan")), "feather: it is nan"),
    "the mask of a photo without transparency": (composite(mask=["photo", 1]), "mask: it is empty, 64x64 zeros"),
    "half an emoji": (report(filename_prefix="hostile/\ud83d"), "filename_prefix: it holds "),
    "a theme that is none": (report(theme="neon"), "theme"),
    "half an emoji for a theme": (report(theme="neon\ud83d"), "theme"),
    "a prefix that leads out": (report(filename_prefix="../../out"), "filename_prefix: "),
    "a file that is none": (card("../../up.safetensors"), "card_name"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_one_clear_error_and_the_next_prompt_runs(client, server, case):
    graph, words = HOSTILE[case]
    body = {"prompt": graph, "client_id": uuid.uuid4().hex}
    # as scripts send it: JSON of Python knows NaN, and writes half an emoji as an escape
    answer = requests.post(f"{server.url}/prompt", data=json.dumps(body), timeout=60)
    if answer.status_code == 200:
        message = ended(client, answer.json()["prompt_id"])
        assert message.startswith("Stylize ") and words in message and message.isprintable(), message
    else:
        assert words in answer.text
    client.run(composite()).expect_success()


def ended(client, prompt_id: str) -> str:
    """The error of a prompt that was queued."""
    import time

    for _ in range(240):
        status = client.history(prompt_id).get("status", {})
        for name, data in status.get("messages", []):
            if name == "execution_error":
                return data["exception_message"].strip()
        assert not status.get("completed"), "it ran"
        time.sleep(0.5)
    pytest.fail("the server does not answer")
