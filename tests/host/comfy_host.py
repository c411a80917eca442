"""A real ComfyUI server on the CPU for tests and scripts.

    from stylization_host.comfy_host import ComfyServer
    with ComfyServer("trial") as server:
        result = server.client().run(prompt)

:mod:`.comfy_tree` gets ComfyUI, :mod:`.comfy_base` lays out its base directory, :mod:`.comfy_client` talks to it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import comfy_base, comfy_tree
from .comfy_client import ComfyClient

LAUNCHER = Path(__file__).resolve().with_name("launch.py")
# Flags with their values; a tree that does not know a flag is started without it.
FLAGS: tuple[tuple[str, ...], ...] = (
    ("--cpu",),
    ("--disable-auto-launch",),
    ("--disable-api-nodes",),
    ("--database-url", "sqlite:///:memory:"),
    ("--preview-method", "latent2rgb"),
)
_NEEDED = {"--cpu"}


class BootError(RuntimeError):
    """The server did not come up, or a custom node failed to import; the message holds the end of its log."""


def known_flags(tree: Path) -> list[str]:
    """:data:`FLAGS` as far as the tree's ``comfy/cli_args.py`` names them."""
    text = (tree / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    return [word for flag in FLAGS if flag[0] in _NEEDED or f'"{flag[0]}"' in text for word in flag]


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ComfyServer:
    """Context manager: boots ComfyUI with the pack and the test plug-ins, and ends it in any case.

    :param name: names the base directory ``.host/base-<name>`` and the log ``.host/logs/<name>.log``.
    :param model_roots: more folders laid out like ComfyUI's ``models``, see :func:`comfy_base.prepare`.
    :param plugins: whether the test plug-ins are linked beside the pack.
    :param extra_arguments: further arguments of ComfyUI's ``main.py``.
    :param port: the port to listen on; 0 takes a free one.
    :param keep_base: False removes the base directory, outputs included, at the end.
    :param boot_seconds: how long the start may take.

    Attributes once it is entered: ``url``, ``port``, ``base`` (the base directory), ``log`` (path), ``boot_time`` (s).
    """

    def __init__(
        self,
        name: str = "server",
        *,
        model_roots: Iterable[Path] = (),
        plugins: bool = True,
        extra_arguments: Sequence[str] = (),
        port: int = 0,
        keep_base: bool = True,
        boot_seconds: float = 300.0,
    ) -> None:
        self.name = name
        self.model_roots = tuple(model_roots)
        self.plugins = plugins
        self.extra_arguments = tuple(extra_arguments)
        self.port = port
        self.keep_base = keep_base
        self.boot_seconds = boot_seconds
        self.boot_time = 0.0
        self.tree = comfy_tree.find()
        self.log = comfy_tree.HOST / "logs" / f"{name}.log"
        self.base = comfy_tree.HOST / f"base-{name}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> Path:
        """The server's output folder."""
        return self.base / "output"

    def client(self) -> ComfyClient:
        """A new client of this server, with an id of its own."""
        return ComfyClient(self.url)

    def __enter__(self) -> ComfyServer:
        try:
            self._boot()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_reason: object) -> None:
        self.stop()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines that the server wrote."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        return "\n".join(text.splitlines()[-lines:])

    def wait(self) -> int:
        """Block until the server ends by itself and return its exit status."""
        if self._process is None:
            raise BootError("The server is not running.")
        return self._process.wait()

    def stop(self) -> None:
        """End the server; does nothing where it has ended already."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if not self.keep_base:
            shutil.rmtree(self.base, ignore_errors=True)

    def _boot(self) -> None:
        self.base = comfy_base.prepare(self.name, self.model_roots, self.plugins)
        self.port = self.port or free_port()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["--port", str(self.port), "--base-directory", str(self.base), *known_flags(self.tree)]
        command = [sys.executable, str(LAUNCHER), str(self.tree), *arguments, *self.extra_arguments]
        started = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                env=_environment(),
            )
        self._wait_until_ready(started)
        self.boot_time = time.monotonic() - started
        self._refuse_failed_imports()

    def _wait_until_ready(self, started: float) -> None:
        while not self._answers():
            status = self._process.poll() if self._process is not None else None
            if status is not None:
                raise BootError(f"ComfyUI ended with status {status} while starting.{self._shown_log()}")
            if time.monotonic() - started > self.boot_seconds:
                raise BootError(f"ComfyUI gave no answer within {self.boot_seconds:.0f} s.{self._shown_log()}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def _refuse_failed_imports(self) -> None:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        failed = [line.strip() for line in lines if "(IMPORT FAILED)" in line]
        if failed:
            raise BootError(f"Custom nodes failed to import: {'; '.join(failed)}{self._shown_log(120)}")

    def _shown_log(self, lines: int = 40) -> str:
        return f"\nThe end of {self.log}:\n{self.log_tail(lines)}"


def _environment() -> dict[str, str]:
    """The server's environment: nothing of ours on its module path, and no look-ups of models on the network."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSTARTUP")}
    # Threads that wait leave their core to others; where the machine has other work too, spinning is many times slower.
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
