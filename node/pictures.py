"""Pictures of lesions in magnitude, GRE phase and QSM: arrays in, PNG bytes out.

Volumes are ``[x, y, z]`` with x along the image rows and y down the columns, as a viewer shows them: an axial
slice has the patient's right on the left. Windows are fixed, never fitted to the data: a grey level means the
same number on every picture. Knows no DICOM, no disk, and neither true values nor scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from node.drawing import (
    BACKGROUND,
    COLOURS,
    FAINT,
    GRID,
    INK,
    OUTLINE,
    PHASE_WINDOW_MRAD,
    QSM_WINDOW_PPB,
    grey_bar,
    head_box,
    length_bar,
    plain,
    png,
    side_letters,
    white,
)
from recon.types import BoolArray, FloatArray, Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Three aligned volumes, float32 (X, Y, Z), on one grid."""

    magnitude: FloatArray
    phase_mrad: FloatArray
    qsm_ppb: FloatArray
    geometry: Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A lesion to point at: its number in the table, its kind and its voxels, bool (X, Y, Z)."""

    number: int
    kind: str
    mask: BoolArray


def levels(marks: Iterable[Mark]) -> list[int]:
    """The fewest slices (greedily) that show every lesion at half its largest cross-section or more."""
    areas = {mark.number: mark.mask.sum(axis=(0, 1)) for mark in marks}
    shown = {number: area / area.max() for number, area in areas.items()}
    chosen = []
    while shown:
        share = np.array(list(shown.values()))
        share[share < 0.5] = 0
        z = int(np.lexsort((share.sum(axis=0), (share > 0).sum(axis=0)))[-1])
        chosen.append(z)
        shown = {number: of for number, of in shown.items() if of[z] < 0.5}
    return sorted(chosen)


def level_png(views: Views, z: int, marks: Sequence[Mark]) -> bytes:
    """One slice, three panels side by side, with every lesion that the slice cuts circled and numbered."""
    box = head_box(views.magnitude)
    x_mm, y_mm, _ = views.geometry.voxel_mm
    width_mm, height_mm = (box[0].stop - box[0].start) * x_mm, (box[1].stop - box[1].start) * y_mm
    panel_in = 4.4
    figure = Figure(figsize=(3 * panel_in, panel_in * height_mm / width_mm + 0.92), dpi=150, facecolor=BACKGROUND)
    panels = (
        ("Magnitude", views.magnitude, (0.0, white(views.magnitude))),
        ("GRE phase [mrad]", views.phase_mrad, PHASE_WINDOW_MRAD),
        ("QSM [ppb]", views.qsm_ppb, QSM_WINDOW_PPB),
    )
    grid = figure.add_gridspec(
        2, 3, height_ratios=(panel_in * height_mm / width_mm, 0.12),
        left=0.008, right=0.992, top=1 - 0.36 / figure.get_figheight(), bottom=0.30 / figure.get_figheight(),
        wspace=0.02, hspace=0.04,
    )  # fmt: skip
    for column, (title, volume, (low, high)) in enumerate(panels):
        axes = figure.add_subplot(grid[0, column])
        shown = axes.imshow(
            volume[box[0], box[1], z].T,
            cmap="gray", vmin=low, vmax=high, interpolation="bicubic",
            extent=(0, width_mm, height_mm, 0),
        )  # fmt: skip
        axes.set_axis_off()
        axes.set_title(title, color=INK, fontsize=14, pad=7)
        _orientation(axes, views.geometry)
        for mark in marks:
            if mark.mask[:, :, z].any():
                _circle(axes, mark, box, z, (x_mm, y_mm))
        below = figure.add_subplot(grid[1, column])
        if column == 0:
            length_bar(axes, height_mm)
            _legend(below)
        else:
            grey_bar(figure, below, shown, np.linspace(low, high, 5))
    return png(figure)


def thumbnails(views: Views, mark: Mark, half_mm: float = 18.0) -> tuple[bytes, bytes, bytes]:
    """Magnitude, GRE phase and QSM around a lesion, on the slice where it is widest."""
    area = mark.mask.sum(axis=(0, 1))
    z = int(area.argmax())
    x, y = (np.argwhere(mark.mask[:, :, z]).mean(axis=0)).round().astype(int)
    x_mm, y_mm, _ = views.geometry.voxel_mm
    reach = np.round(half_mm / np.array([x_mm, y_mm])).astype(int)
    windows = ((0.0, white(views.magnitude)), PHASE_WINDOW_MRAD, QSM_WINDOW_PPB)
    pictures = []
    for volume, (low, high) in zip((views.magnitude, views.phase_mrad, views.qsm_ppb), windows, strict=True):
        padded = np.pad(volume[:, :, z], [(r, r) for r in reach], constant_values=min(0.0, low))
        patch = padded[x : x + 2 * reach[0] + 1, y : y + 2 * reach[1] + 1]
        figure = Figure(figsize=(1.2, 1.2), dpi=150)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(patch.T, cmap="gray", vmin=low, vmax=high, interpolation="bicubic", aspect="auto")
        axes.set_axis_off()
        pictures.append(png(figure))
    magnitude, phase, qsm = pictures
    return magnitude, phase, qsm


def agreement_png(points: Sequence[tuple[int, str, float, float]]) -> bytes:
    """Measured against true susceptibility; points are ``(number, kind, true ppb, measured ppb)``."""
    figure = Figure(figsize=(5.4, 4.6), dpi=150, facecolor=BACKGROUND)
    axes = figure.add_axes((0.16, 0.13, 0.81, 0.83), facecolor=BACKGROUND)
    reach = 1.15 * max(max(abs(true), abs(measured)) for _, _, true, measured in points)
    line = np.array([-reach, 0.0, reach])
    axes.fill_between(line, line - 0.2 * abs(line), line + 0.2 * abs(line), color="#1d2733", lw=0)
    axes.plot(line, line, color=FAINT, lw=1)
    axes.axhline(0, color=GRID, lw=1, zorder=0)
    axes.axvline(0, color=GRID, lw=1, zorder=0)
    for kind, colour in COLOURS.items():
        of_kind = [(true, measured) for _, k, true, measured in points if k == kind]
        if of_kind:
            true, measured = np.array(of_kind).T
            axes.scatter(true, measured, s=46, color=colour, label=kind, zorder=3)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="true [ppb]", ylabel="measured [ppb]")
    plain(axes)
    for number, _, true, measured in points:
        axes.annotate(
            str(number), (true, measured), xytext=(6, -10), textcoords="offset points", color=INK, fontsize=9
        )
    axes.legend(loc="upper left", frameon=False, labelcolor=INK, fontsize=10, handletextpad=0.2)
    axes.text(0.98, 0.03, "band: 20 %", transform=axes.transAxes, ha="right", color=FAINT, fontsize=9)
    return png(figure)


def _circle(axes: Axes, mark: Mark, box: tuple[slice, slice], z: int, voxel_mm: tuple[float, float]) -> None:
    cut = np.argwhere(mark.mask[:, :, z])
    size = (np.ptp(cut, axis=0) + 1) * voxel_mm + 12.0
    x, y = ((cut.min(axis=0) + cut.max(axis=0)) / 2 + 0.5 - (box[0].start, box[1].start)) * voxel_mm
    colour = COLOURS[mark.kind]
    axes.add_patch(Ellipse((x, y), *size, fill=False, edgecolor=colour, linewidth=1.1))
    axes.text(
        x + size[0] * 0.42, y - size[1] * 0.42, str(mark.number),
        color=colour, fontsize=11, fontweight="bold", ha="left", va="bottom", path_effects=OUTLINE,
    )  # fmt: skip


def _orientation(axes: Axes, geometry: Geometry) -> None:
    """Letters of the patient's sides at the four edges (LPS: +x is left, +y posterior, +z head)."""
    names = (("L", "R"), ("P", "A"), ("H", "F"))

    def letter(direction: npt.NDArray[np.float64]) -> str:
        axis = int(np.abs(direction).argmax())
        return names[axis][0 if direction[axis] > 0 else 1]

    right, down = geometry.affine_mm[:3, 0], geometry.affine_mm[:3, 1]
    side_letters(axes, letter(-right), letter(right), letter(-down), letter(down))


def _legend(axes: Axes) -> None:
    axes.set_axis_off()
    handles = [
        Line2D([], [], ls="", marker="o", ms=9, markerfacecolor="none", markeredgecolor=colour, label=kind)
        for kind, colour in COLOURS.items()
    ]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.02, 1.9), ncols=2, frameon=False,
        labelcolor=INK, fontsize=10, handletextpad=0.1,
    )  # fmt: skip
