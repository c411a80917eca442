"""Stylize Report through a real server."""

from __future__ import annotations

import io
import json

from PIL import Image
from stylization_host.graphs import node

PHOTO, OTHER = "neuschwanstein_castle.jpg", "rocamadour.jpg"


def graph(width: int = 192) -> dict:
    scale = {"upscale_method": "area", "height": 128, "crop": "center"}
    return {
        "photo": node("LoadImage", image=PHOTO),
        "content": node("ImageScale", image=["photo", 0], width=192, **scale),
        "other": node("LoadImage", image=OTHER),
        "style": node("ImageScale", image=["other", 0], width=160, **scale),
        "inverted": node("ImageInvert", image=["content", 0]),
        "result": node("ImageScale", image=["inverted", 0], width=width, **scale),
        "report": node(
            "StylizeReport",
            content=["content", 0],
            result=["result", 0],
            chart="radar",
            theme="light",
            sequence=False,
            filename_prefix="reports/castle",
            save=True,
            style=["style", 0],
        ),
        "shown": node("PreviewImage", images=["report", 3]),
    }


def test_a_photo_is_judged_and_saved_with_its_scores(client, server):
    result = client.run(graph()).expect_success()
    shown = result.outputs["report"]
    assert "edge agreement" in shown["text"][0]
    (chart,) = client.images(result, "report")
    assert chart.size == (760, 520)
    (saved,) = shown["saved"]
    with Image.open(io.BytesIO(client.view(saved))) as image:
        assert image.size == (192, 128)
        scores, prompt = (json.loads(image.text[key]) for key in ("stylization.report", "prompt"))
    # a negative: every edge in its place, every up turned into a down
    assert scores["rulers"]["edges"]["mean"] > 0.99 and scores["rulers"]["structure"]["mean"] < -0.3
    assert prompt["report"]["class_type"] == "StylizeReport"
    assert (server.output / "reports" / saved["filename"]).is_file()
    steps = [(value, total) for name, value, total in result.progress if name == "report"]
    # newer ComfyUI tells of some of the steps only
    assert steps == sorted(steps) and len(steps) > 2 and steps[-1][0] == steps[-1][1] > 10


def test_another_size_is_an_error_that_says_what_to_do(client):
    found = client.run(graph(width=160))
    assert found.status == "error"
    assert "Stylize Report, content and result: content is 192x128 pixels, result 160x128" in found.error.message
    assert "'Upscale Image'" in found.error.message
