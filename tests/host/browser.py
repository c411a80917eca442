"""ComfyUI's real frontend in a headless Chromium: load graphs, drop files, see what it complains about."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


# What the stock frontend reports by itself on every first visit, with no custom node at all.
STOCK_NOISE = (
    # files of a user who has none yet, and the browser's own wish for an icon
    r"status of 404 .*/(user\.css|favicon\.ico|api/userdata[/?])",
    # looks up the packs of nodes on the network, which --disable-api-nodes forbids
    r"violates the following Content Security Policy directive: \"connect-src 'self'\"",
    # sets a setting before the setting is registered (1.32)
    r"Cannot read properties of undefined \(reading 'id'\)\s+at onChange .*/assets/",
    # its own start-up code asks for the graph too early (1.49)
    r"^ComfyApp graph accessed before initialization .*/assets/",
)


class NoBrowser(RuntimeError):
    """No Chromium on this machine."""


def executable() -> str:
    """The path of the machine's Chromium or Chrome.

    :raises NoBrowser: where there is none; the message says how to get one.
    """
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    raise NoBrowser(
        f"No Chromium found on PATH (looked for {', '.join(NAMES)}). Install it with the machine's package manager, "
        f"for instance `apt-get install chromium`; the browser tests need it."
    )


@contextmanager
def running() -> Iterator[Browser]:
    """A headless Chromium; it ends with the block."""
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, url: str, node: str = "KSampler") -> Iterator[Page]:
    """A page of the frontend that has registered ``node``; console errors are collected from the first moment on."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    try:
        page = context.new_page()
        _collect_errors(page)
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(
            "node => window.LiteGraph?.registered_node_types?.[node] && window.app?.canvas && window.app.graph",
            arg=node,
            timeout=90_000,
        )
        yield page
    finally:
        context.close()


# The errors of a page, kept on the page object itself, so that they live as long as it does.
_ERRORS = "_stylization_errors"


def _collect_errors(page: Page) -> None:
    errors: list[str] = []
    setattr(page, _ERRORS, errors)
    page.on("pageerror", lambda error: errors.append(f"page error: {error}"))
    page.on("console", lambda message: errors.append(_described(message)) if message.type == "error" else None)


def _described(message) -> str:
    place = message.location or {}
    return f"{message.text} ({place.get('url', '')}:{place.get('lineNumber', '')})"


def console_errors(page: Page) -> list[str]:
    """What went wrong on the page so far: uncaught exceptions and console errors, without :data:`STOCK_NOISE`."""
    noise = re.compile("|".join(STOCK_NOISE))
    return [error for error in getattr(page, _ERRORS) if not noise.search(error)]


def load_workflow(page: Page, workflow: Mapping[str, Any] | Path) -> None:
    """Load a graph as saved by the frontend (with ``nodes``) or in API form, as opening the file would."""
    graph = json.loads(workflow.read_text(encoding="utf-8")) if isinstance(workflow, Path) else dict(workflow)
    if "nodes" in graph:
        page.evaluate("async graph => { await window.app.loadGraphData(graph) }", graph)
    else:
        page.evaluate("async graph => { await window.app.loadApiJson(graph, 'test') }", graph)
    page.wait_for_timeout(300)


def drop_file(page: Page, path: Path, seconds: float = 20.0) -> None:
    """Drop a file (a PNG with a graph inside, a JSON file) on the canvas and wait until its graph is there."""
    kinds = {".png": "image/png", ".webp": "image/webp", ".json": "application/json"}
    page.evaluate("() => window.app.graph.clear()")
    page.evaluate(
        """async ({name, kind, bytes}) => {
            const file = new File([new Uint8Array(bytes)], name, {type: kind})
            const data = new DataTransfer()
            data.items.add(file)
            const options = {dataTransfer: data, bubbles: true, cancelable: true, clientX: 800, clientY: 500}
            const canvas = document.querySelector('#graph-canvas') ?? document.querySelector('canvas')
            for (const type of ['dragenter', 'dragover', 'drop']) canvas.dispatchEvent(new DragEvent(type, options))
        }""",
        {"name": path.name, "kind": kinds[path.suffix.lower()], "bytes": list(path.read_bytes())},
    )
    page.wait_for_function("() => window.app.graph._nodes.length > 0", timeout=seconds * 1000)
    page.wait_for_timeout(300)


def node_types(page: Page) -> list[str]:
    """The types of all nodes on the canvas, in the order of their ids."""
    return page.evaluate(
        "() => [...window.app.graph._nodes].sort((a, b) => Number(a.id) - Number(b.id)).map(node => node.type)"
    )


def missing_nodes(page: Page) -> list[str]:
    """Types on the canvas that no node of the server stands behind."""
    return page.evaluate(
        """() => window.app.graph._nodes
            .filter(node => !window.LiteGraph.registered_node_types[node.type])
            .map(node => node.type)"""
    )


def serialize(page: Page) -> dict[str, Any]:
    """The graph as the frontend saves it."""
    return page.evaluate("() => window.app.graph.serialize()")


def api_prompt(page: Page) -> dict[str, Any]:
    """The graph in API form, as the frontend would send it to ``/prompt``."""
    return page.evaluate("async () => (await window.app.graphToPrompt()).output")


def dialogs(page: Page) -> list[str]:
    """The texts of the dialogs that stand over the canvas, for instance the one that names missing nodes."""
    return [text.strip() for text in page.locator("[role=dialog]").all_inner_texts() if text.strip()]
