"""Charts as pictures for graph nodes: one look, light or dark, readable at the size a node shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

LIGHT, DARK = "light", "dark"
THEMES = (DARK, LIGHT)
INK = {LIGHT: "#1d1f23", DARK: "#e9eaec"}
PAPER = {LIGHT: "#ffffff", DARK: "#202226"}
FAINT = {LIGHT: "#c9ccd2", DARK: "#4a4e57"}
COLORS = ("#2f80ed", "#e2711d", "#2a9d6f", "#b5479f", "#c8a100", "#7a7f8a")
"""Told apart on both papers."""

DPI = 100


@contextmanager
def chart(theme: str, width: int = 760, height: int = 520) -> Iterator:
    """A matplotlib figure of that many pixels in a theme's colours; draw on it, then take :func:`as_picture`."""
    import matplotlib
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
