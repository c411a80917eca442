"""A client of ComfyUI's HTTP and websocket API, as small as the tests and scripts allow."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import websocket

if TYPE_CHECKING:
    from PIL import Image

Prompt = Mapping[str, Mapping[str, Any]]
"""A graph in API form: ``{"1": {"class_type": …, "inputs": {…}}}``."""

_PREVIEWS = {1, 2, 4}  # PREVIEW_IMAGE, UNENCODED_PREVIEW_IMAGE, PREVIEW_IMAGE_WITH_METADATA


class PromptRefused(RuntimeError):
    """The server did not accept the prompt: validation failed. ``error`` and ``node_errors`` are its answer."""

    def __init__(self, error: Any, node_errors: Mapping[str, Any]) -> None:
        self.error = error
        self.node_errors = dict(node_errors)
        details = [
            f"node {node} ({what.get('class_type')}): {found.get('message')}: {found.get('details')}"
            for node, what in self.node_errors.items()
            for found in what.get("errors", [])
        ]
        stated = error.get("message") if isinstance(error, dict) else error
        super().__init__("; ".join([str(stated), *details]))


@dataclass(frozen=True)
class RunError:
    """What ``execution_error`` says: the exception a node raised."""

    node_id: str
    node_type: str
    exception_type: str
    message: str
    traceback: str


@dataclass
class RunResult:
    """How a prompt ended. ``status`` is ``"success"``, ``"error"`` or ``"interrupted"``."""

    prompt_id: str
    status: str = "running"
    error: RunError | None = None
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each output node showed, by node id: ``{"images": [...], "text": [...]}``."""
    progress: list[tuple[str, float, float]] = field(default_factory=list)
    """Progress messages in order: node id, value, maximum."""
    executed: list[str] = field(default_factory=list)
    """Ids of the nodes that ran, in order; cached ones are not among them."""
    cached: list[str] = field(default_factory=list)
    previews: int = 0
    last_preview: bytes = b""
    seconds: float = 0.0
    node_seconds: dict[str, float] = field(default_factory=dict)

    def expect_success(self) -> RunResult:
        """Return the result, or raise an AssertionError with the server's traceback."""
        if self.status != "success":
            shown = f"\n{self.error.traceback}\n{self.error.message}" if self.error else ""
            raise AssertionError(f"The prompt ended with {self.status}.{shown}")
        return self


class ComfyClient:
    """One client of one server; ``client_id`` is the one the server sends this client's messages to."""

    def __init__(self, url: str, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.client_id = uuid.uuid4().hex

    # -- plain requests ---------------------------------------------------------------------------------------------

    def get(self, path: str, **parameters: Any) -> requests.Response:
        answer = requests.get(f"{self.url}{path}", params=parameters, timeout=self.timeout)
        answer.raise_for_status()
        return answer

    def post(self, path: str, body: Mapping[str, Any]) -> requests.Response:
        answer = requests.post(f"{self.url}{path}", json=body, timeout=self.timeout)
        answer.raise_for_status()
        return answer

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """The schemas of all nodes, or ``{node: schema}`` of one; an unknown one gives ``{}``."""
        return self.get(f"/object_info/{node}" if node else "/object_info").json()

    def history(self, prompt_id: str) -> dict[str, Any]:
        return self.get(f"/history/{prompt_id}").json().get(prompt_id, {})

    def interrupt(self) -> None:
        """Ask the server to end the prompt that is running."""
        self.post("/interrupt", {})

    def free(self) -> None:
        """Have the server unload all models and forget cached outputs; it does so between prompts."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def upload_image(self, path: Path, overwrite: bool = True) -> str:
        """Send a picture to the server's input folder and return the name LoadImage knows it by."""
        with path.open("rb") as file:
            answer = requests.post(
                f"{self.url}/upload/image",
                files={"image": (path.name, file)},
                data={"overwrite": "true" if overwrite else "false"},
                timeout=self.timeout,
            )
        answer.raise_for_status()
        return answer.json()["name"]

    def view(self, entry: Mapping[str, str]) -> bytes:
        """The bytes of a file as an output node names it: ``filename``, ``subfolder``, ``type``."""
        wanted = {key: entry[key] for key in ("filename", "subfolder", "type") if key in entry}
        return self.get("/view", **wanted).content

    def images(self, result: RunResult, node: str | None = None) -> list[Image.Image]:
        """The pictures of a result, of one output node or of all in the order of their ids."""
        from PIL import Image

        nodes = [node] if node is not None else sorted(result.outputs)
        entries = [entry for key in nodes for entry in result.outputs.get(key, {}).get("images", [])]
        return [Image.open(io.BytesIO(self.view(entry))) for entry in entries]

    # -- prompts ----------------------------------------------------------------------------------------------------

    def queue(self, prompt: Prompt, extra_data: Mapping[str, Any] | None = None) -> str:
        """Queue a prompt and return its id.

        :raises PromptRefused: where the server's validation refuses it.
        """
        # Newer servers read `_meta` of every node.
        nodes = {key: {"_meta": {"title": node["class_type"]}, **node} for key, node in prompt.items()}
        body = {"prompt": nodes, "client_id": self.client_id, "extra_data": dict(extra_data or {})}
        answer = requests.post(f"{self.url}/prompt", json=body, timeout=self.timeout)
        if answer.status_code == 400:
            stated = answer.json()
            raise PromptRefused(stated.get("error"), stated.get("node_errors") or {})
        answer.raise_for_status()
        return answer.json()["prompt_id"]

    def run(
        self,
        prompt: Prompt,
        extra_data: Mapping[str, Any] | None = None,
        *,
        on_message: Callable[[str, dict[str, Any]], None] | None = None,
        timeout: float = 600.0,
    ) -> RunResult:
        """Queue a prompt and follow it over the websocket to its end.

        :param on_message: called with type and data of every message about this prompt; it may call
            :meth:`interrupt`.
        :param timeout: seconds after which a prompt without an end raises TimeoutError.
        """
        started = time.monotonic()
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        channel = websocket.create_connection(address, timeout=self.timeout)
        try:
            result = RunResult(self.queue(prompt, extra_data))
            _Follower(result, on_message).follow(channel, started + timeout)
        finally:
            channel.close()
        result.seconds = time.monotonic() - started
        result.outputs = self._outputs(result)
        return result

    def _outputs(self, result: RunResult) -> dict[str, dict[str, Any]]:
        """What the history holds; it is written a moment after the last message."""
        for _ in range(50):
            entry = self.history(result.prompt_id)
            if entry:
                return entry.get("outputs", {})
            time.sleep(0.05)
        return result.outputs


class _Follower:
    """Turns the websocket's messages about one prompt into a :class:`RunResult`."""

    def __init__(self, result: RunResult, on_message: Callable[[str, dict[str, Any]], None] | None) -> None:
        self.result = result
        self.on_message = on_message
        self._node = ""
        self._since = 0.0

    def follow(self, channel: websocket.WebSocket, deadline: float) -> None:
        while self.result.status == "running":
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"Prompt {self.result.prompt_id} did not end in time; at node {self._node or 'none'}."
                )
            channel.settimeout(max(0.1, min(5.0, deadline - time.monotonic())))
            try:
                message = channel.recv()
            except websocket.WebSocketTimeoutException:
                continue
            if isinstance(message, bytes):
                self._picture(message)
            elif message:
                self._text(json.loads(message))

    def _picture(self, message: bytes) -> None:
        if int.from_bytes(message[:4], "big") in _PREVIEWS:
            self.result.previews += 1
            self.result.last_preview = message[4:]

    def _text(self, message: dict[str, Any]) -> None:
        kind, data = message.get("type", ""), message.get("data") or {}
        if data.get("prompt_id") not in (None, self.result.prompt_id):
            return
        handle = getattr(self, f"_on_{kind}", None)
        if handle is not None:
            handle(data)
        if self.on_message is not None and "prompt_id" in data:
            self.on_message(kind, data)

    def _leave_node(self) -> None:
        if self._node:
            spent = time.monotonic() - self._since
            self.result.node_seconds[self._node] = self.result.node_seconds.get(self._node, 0.0) + spent
        self._node = ""

    def _on_execution_cached(self, data: dict[str, Any]) -> None:
        self.result.cached.extend(data.get("nodes") or [])

    def _on_executing(self, data: dict[str, Any]) -> None:
        self._leave_node()
        if data.get("node"):
            self._node, self._since = data["node"], time.monotonic()
            self.result.executed.append(self._node)

    def _on_progress(self, data: dict[str, Any]) -> None:
        self.result.progress.append((str(data.get("node")), float(data["value"]), float(data["max"])))

    def _on_executed(self, data: dict[str, Any]) -> None:
        if data.get("output"):
            self.result.outputs[data["node"]] = data["output"]

    def _on_execution_success(self, _data: dict[str, Any]) -> None:
        self._leave_node()
        self.result.status = "success"

    def _on_execution_interrupted(self, _data: dict[str, Any]) -> None:
        self._leave_node()
        self.result.status = "interrupted"

    def _on_execution_error(self, data: dict[str, Any]) -> None:
        self._leave_node()
        self.result.status = "error"
        self.result.error = RunError(
            node_id=str(data.get("node_id")),
            node_type=str(data.get("node_type")),
            exception_type=str(data.get("exception_type")),
            message=str(data.get("exception_message")).strip(),
            traceback="".join(data.get("traceback") or []),
        )
