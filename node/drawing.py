"""What all pictures share: colours, the grey window, bars of grey and of length, and PNG bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from recon.types import FloatArray

QSM_WINDOW_PPB = (-200.0, 200.0)
PHASE_WINDOW_MRAD = (-1000.0, 1000.0)
"""The windows in which the node's series open."""

COLOURS = {"hemorrhage": "#ff8a5c", "calcification": "#5cc8ff"}
BACKGROUND = "#0b0e12"
INK = "#e8ecf1"
FAINT = "#8b97a6"
GRID = "#2a3542"
OUTLINE = [patheffects.withStroke(linewidth=2.2, foreground="black")]


def plain(axes: Axes) -> None:
    """Axes of a chart: faint numbers and labels, no frame."""
    axes.set_facecolor(BACKGROUND)
    axes.tick_params(which="both", colors=FAINT, length=0, labelsize=10)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(FAINT)
    for spine in axes.spines.values():
        spine.set_visible(False)


def png(figure: Figure) -> bytes:
    """The figure on the pictures' background."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=BACKGROUND, metadata={"Software": "qsm-node"})
    return buffer.getvalue()


def white(magnitude: FloatArray) -> float:
    """Grey level of white: above nearly all tissue, so that fluid and veins do not set the window."""
    tissue = magnitude[magnitude > 0.1 * magnitude.max()]
    return float(np.percentile(tissue, 99))


def head_box(magnitude: FloatArray, margin: int = 4) -> tuple[slice, slice]:
    """The part along the first two axes that holds the head, on a slice or on any slice of a volume."""
    head = magnitude > 0.15 * white(magnitude)
    box = []
    for axis in (0, 1):
        other = tuple(a for a in range(magnitude.ndim) if a != axis)
        hit = np.flatnonzero(head.mean(axis=other) > 0.005)
        box.append(slice(max(0, int(hit[0]) - margin), min(magnitude.shape[axis], int(hit[-1]) + 1 + margin)))
    return box[0], box[1]


def grey_bar(figure: Figure, axes: Axes, shown: AxesImage, ticks: npt.NDArray[np.float64]) -> None:
    """The window of an image as a bar below it."""
    bar = figure.colorbar(shown, cax=axes, orientation="horizontal", ticks=ticks)
    bar.outline.set_visible(False)
    axes.set_xticklabels([f"{tick:+.0f}" if tick else "0" for tick in ticks])
    axes.tick_params(colors=FAINT, labelsize=9, length=0, pad=3)
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[-1].set_horizontalalignment("right")


def length_bar(axes: Axes, height_mm: float, length_mm: float = 50.0) -> None:
    """A bar in the lower left corner of an image whose axes are in mm."""
    y = height_mm - 4
    axes.plot([4, 4 + length_mm], [y, y], color=INK, lw=2, solid_capstyle="butt")
    axes.text(
        4 + length_mm / 2, y - 3, f"{length_mm / 10:.0f} cm",
        color=INK, fontsize=9, ha="center", va="bottom", path_effects=OUTLINE,
    )  # fmt: skip


def side_letters(axes: Axes, left: str, right: str, top: str, bottom: str) -> None:
    """Letters of the patient's sides at the four edges of an image."""
    places: tuple[tuple[str, float, float, dict[str, Any]], ...] = (
        (left, 0.015, 0.5, {"ha": "left", "va": "center"}),
        (right, 0.985, 0.5, {"ha": "right", "va": "center"}),
        (top, 0.5, 0.985, {"ha": "center", "va": "top"}),
        (bottom, 0.5, 0.015, {"ha": "center", "va": "bottom"}),
    )
    for letter, x, y, align in places:
        axes.text(x, y, letter, transform=axes.transAxes, color=INK, fontsize=10, path_effects=OUTLINE, **align)
