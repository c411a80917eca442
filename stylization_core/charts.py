"""Charts as pictures for graph nodes: one look, light or dark, readable at the size a node shows them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

LIGHT, DARK = "light", "dark"
THEMES = (DARK, LIGHT)
INK = {LIGHT: "#1d1f23", DARK: "#e9eaec"}
PAPER = {LIGHT: "#ffffff", DARK: "#202226"}
FAINT = {LIGHT: "#c9ccd2", DARK: "#4a4e57"}
COLORS = ("#2f80ed", "#e2711d", "#2a9d6f", "#b5479f", "#c8a100", "#7a7f8a")
"""Told apart on both papers."""

DPI = 100
FOLDER = "MPLCONFIGDIR"

caches_below: Callable[[], str] | None = None
"""Gives the folder below which matplotlib keeps what it writes; None leaves that to matplotlib."""


def prepared() -> ModuleType:
    """The module matplotlib, imported so that it writes nothing below the home folder.

    It makes a folder for settings when it is imported, and a list of fonts at the first chart. Both go where
    :data:`caches_below` says, unless the user has named a folder, or matplotlib has chosen its own already. The
    environment is as before afterwards, and settings of the user's that are there stay in force.
    """
    if caches_below is not None and not os.environ.get(FOLDER) and "matplotlib.font_manager" not in sys.modules:
        if any(folder.is_dir() for folder in _settings()):
            import matplotlib

            matplotlib.get_configdir()
        os.environ[FOLDER] = str(Path(caches_below()) / "matplotlib")
        try:
            import matplotlib
            import matplotlib.font_manager

            # asked for once, remembered by matplotlib
            matplotlib.get_configdir(), matplotlib.get_cachedir()
        finally:
            del os.environ[FOLDER]
    import matplotlib
    import matplotlib.colors

    return matplotlib


def _settings() -> list[Path]:
    """Where matplotlib looks for the user's settings."""
    if sys.platform.startswith(("linux", "freebsd")):
        return [Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "matplotlib"]
    local = os.environ.get("LOCALAPPDATA")
    return [Path(os.path.expanduser("~/.matplotlib")), *([Path(local) / "matplotlib"] if local else [])]


@contextmanager
def chart(theme: str, width: int = 760, height: int = 520) -> Iterator:
    """A matplotlib figure of that many pixels in a theme's colours; draw on it, then take :func:`as_picture`."""
    matplotlib = prepared()
    from matplotlib.figure import Figure

    ink, paper, faint = INK[theme], PAPER[theme], FAINT[theme]
    look = {
        "figure.facecolor": paper,
        "axes.facecolor": paper,
        "savefig.facecolor": paper,
        "legend.facecolor": paper,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": faint,
        "xtick.color": ink,
        "ytick.color": ink,
        "grid.color": faint,
        "legend.edgecolor": faint,
        "font.size": 14,
        "font.family": "DejaVu Sans",
    }
    with matplotlib.rc_context(look):
        yield Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")


def as_picture(figure) -> np.ndarray:
    """float32 (1, H, W, 3) in [0, 1], as an IMAGE; call it inside :func:`chart`, whose colours it takes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.float32)[None, ..., :3] / 255
