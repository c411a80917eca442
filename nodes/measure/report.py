"""StylizeReport: how much content stayed and how far the style came, as numbers, chart and pictures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import io, ui
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ...stylization_core.charts import DARK, THEMES
from ...stylization_core.errors import StylizationError, naming
from ...stylization_core.hosts.comfyui.measure import token_material
from ...stylization_core.hosts.comfyui.model import check_prefix
from ...stylization_core.report.charts import BARS, KINDS, drawn
from ...stylization_core.report.material import checked
from ...stylization_core.report.measure import measurements, report
from ...stylization_core.report.pictures import before_after, overlay
from ...stylization_core.report.scores import Report
from ...stylization_core.tensor_files import write_whole
from ..inputs import check_installed

DISPLAY_NAME = "Stylize Report"
CHUNK = "stylization.report"
"""Name of the PNG text that holds the scores."""


class StylizeReport(io.ComfyNode):
    """Content and result -> scores, chart, overlay, before and after; results saved with their scores inside."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="StylizeReport",
            display_name=DISPLAY_NAME,
            category="stylization/measure",
            description=(
                "Measures how much of a photo's content stayed in its stylization and how far the style came, beside "
                "two anchors: the photo itself, and pictures of the style. Saves results with their scores inside."
            ),
            is_output_node=True,
            inputs=[
                io.Image.Input("content", tooltip="The photo, or one for each result. As large as the results."),
                io.Image.Input("result", tooltip="What is judged: one picture or a batch."),
                io.Combo.Input(
                    "chart",
                    options=list(KINDS),
                    default=BARS,
                    tooltip="bars: every number between its anchors. radar: one shape to take in at a glance.",
                ),
                io.Combo.Input("theme", options=list(THEMES), default=DARK, tooltip="Colours of chart and legends."),
                io.Boolean.Input(
                    "sequence",
                    default=False,
                    tooltip="The results are frames of a sequence, in their order: flicker is measured too.",
                ),
                io.String.Input(
                    "filename_prefix", default="stylize/report", tooltip="Of the saved results, in the output folder."
                ),
                io.Boolean.Input(
                    "save",
                    default=True,
                    tooltip="Save each result as a PNG that holds the workflow and the scores.",
                ),
                io.Image.Input(
                    "style",
                    optional=True,
                    tooltip="Pictures of the style, of any size, two or more for all anchors. Without: content only.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="A region that is measured by itself too. One for all results, or one for each.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP, SigLIP or DINOv2: adds rulers on its patches, of layout and of style.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="SCORES", tooltip="JSON with all numbers of every ruler and result."),
                io.String.Output(display_name="TEXT", tooltip="The same as a table, and how to read it."),
                io.Image.Output(display_name="CHART", tooltip="The chart that the node shows."),
                io.Image.Output(display_name="OVERLAY", tooltip="Each result, bright where its content changed."),
                io.Image.Output(display_name="BEFORE_AFTER", tooltip="Each content beside its result."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls,
        content,
        result,
        chart,
        theme,
        sequence,
        filename_prefix,
        save,
        style=None,
        mask=None,
        clip_vision=None,
    ) -> io.NodeOutput:
        with naming(DISPLAY_NAME):
            check_installed()
            if save:
                check_prefix(filename_prefix, ".png")
            given = checked(content, result, style, mask)
            # one more for the overlay of each result
            tick = _ticking(measurements(given, sequence, clip_vision is not None) + len(given.result))
            tokens = None if clip_vision is None else token_material(clip_vision, given, _check_interrupt)
            measured = report(given, sequence=sequence, tokens=tokens, tick=tick)
        scores, picture = measured.as_json(), torch.from_numpy(drawn(measured, chart, theme))
        pictures = (torch.from_numpy(array) for array in (overlay(given, theme, tick), before_after(given, theme)))
        saved = _save(given.result, filename_prefix, measured, cls.hidden) if save else []
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (measured.as_text(),), "saved": saved}
        return io.NodeOutput(scores, measured.as_text(), picture, *pictures, ui=shown)


def _check_interrupt() -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _ticking(total: int):
    bar = comfy.utils.ProgressBar(total)

    def tick() -> None:
        _check_interrupt()
        bar.update(1)

    return tick


def _save(results: np.ndarray, prefix: str, found: Report, hidden) -> list[dict]:
    """PNGs in the output folder with numbers of their own; what ComfyUI calls them."""
    height, width = results.shape[1:3]
    output = folder_paths.get_output_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    saved = []
    for number, one in enumerate(results):
        file = f"{name.replace('%batch_num%', str(number))}_{counter + number:05}_.png"
        image = Image.fromarray((255.0 * one).clip(0, 255).astype(np.uint8))
        write = partial(image.save, format="PNG", pnginfo=_metadata(found, number, hidden), compress_level=4)
        try:
            write_whole(Path(folder) / file, write)
        except OSError as error:
            found_there = f"{file} could not be saved: {error}"
            raise StylizationError("filename_prefix", found_there, "Free space, or switch save off") from error
        saved.append({"filename": file, "subfolder": subfolder, "type": "output"})
    return saved


def _metadata(found: Report, number: int, hidden) -> PngInfo | None:
    """What the stock node saves, and the scores; ``image`` says which of the results this is."""
    if args.disable_metadata:
        return None
    texts = {CHUNK: {"image": number, **json.loads(found.as_json())}}
    if hidden is not None and hidden.prompt is not None:
        texts["prompt"] = hidden.prompt
    texts.update((hidden and hidden.extra_pnginfo) or {})
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, json.dumps(value))
    return info
