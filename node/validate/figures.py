"""The pictures of lesions: one slice on every image, and what the maps say along a line through the lesion.

Arrays in, PNG bytes out. A grey level means the same number in every figure of every run.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from node.drawing import (
    BACKGROUND,
    COLOURS,
    GRID,
    INK,
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
from node.validate.charts import IMAGE_COLOURS
from node.validate.panels import Panels, Plane, Shown
from phantoms.pathology import radius_mm
from recon.types import FloatArray

LESION_COLOURS = COLOURS | {"mixed": "#d7a6ff"}
LINES: dict[Shown, tuple[str, str]] = {
    "truth": ("true", INK), "qsm": ("QSM", IMAGE_COLOURS["qsm"]), "tkd": ("TKD", IMAGE_COLOURS["tkd"])
}  # fmt: skip
"""Names and colours of the maps along the line."""

TITLES: dict[Shown, str] = {
    "magnitude": "T2* magnitude",
    "phase": "GRE phase [mrad]",
    "truth": "True susceptibility [ppb]",
    "qsm": "QSM, default recipe [ppb]",
    "tkd": "QSM by TKD [ppb]",
}
WIDTH_IN = 10.4
DPI = 150
GAP_IN, TITLE_IN, BAR_IN = 0.08, 0.32, 0.40
SIDES: dict[Plane, tuple[str, str, str, str]] = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "H", "F")}
FREE_MM = 6.0
"""The circle leaves so much of the surroundings free; the line goes on by ``REACH_MM``."""
REACH_MM = 36.0


def lesion_png(panels: Panels, plane: Plane) -> bytes:
    """Magnitude, phase and truth above, QSM of both inversions and the line below; 1560 pixels wide."""
    images = panels.planes[plane]
    box = head_box(images["magnitude"])
    across_mm, down_mm = panels.spacing_mm[plane]
    width_mm, height_mm = (box[1].stop - box[1].start) * across_mm, (box[0].stop - box[0].start) * down_mm
    panel_in = (WIDTH_IN - 4 * GAP_IN) / 3
    tall_in = panel_in * height_mm / width_mm
    row_in = TITLE_IN + tall_in + BAR_IN
    figure = Figure(figsize=(WIDTH_IN, 2 * row_in), dpi=DPI, facecolor=BACKGROUND)

    def place(index: int, below_in: float, height_in: float) -> Axes:
        """Axes of a panel (0-5), so far below the top of its row."""
        row, column = divmod(index, 3)
        left = GAP_IN + column * (panel_in + GAP_IN)
        bottom = (2 - row) * row_in - below_in - height_in
        whole = 2 * row_in
        return figure.add_axes((left / WIDTH_IN, bottom / whole, panel_in / WIDTH_IN, height_in / whole))

    x_mm, y_mm = (
        (panels.centre[plane][axis] + 0.5 - box[1 - axis].start) * panels.spacing_mm[plane][axis] for axis in (0, 1)
    )
    for index, (name, title) in enumerate(TITLES.items()):
        low, high = _window(name, images["magnitude"][box])
        axes = place(index, TITLE_IN, tall_in)
        shown = axes.imshow(
            images[name][box],
            cmap="gray", vmin=low, vmax=high, interpolation="bicubic", extent=(0, width_mm, height_mm, 0),
        )  # fmt: skip
        axes.set_axis_off()
        axes.set_title(title, color=INK, fontsize=11.5, pad=6)
        side_letters(axes, *SIDES[plane])
        axes.add_patch(
            Circle(
                (x_mm, y_mm),
                radius_mm(1000 * panels.volume_cm3) + FREE_MM,
                fill=False,
                lw=1.3,
                color=LESION_COLOURS[panels.kind],
            )
        )
        if name == "magnitude":
            length_bar(axes, height_mm)
        else:
            grey_bar(figure, place(index, TITLE_IN + tall_in + 0.05, 0.09), shown, np.linspace(low, high, 5))
    _line(place(5, TITLE_IN, tall_in), panels, plane)
    return png(figure)


def _window(name: Shown, magnitude: FloatArray) -> tuple[float, float]:
    if name == "magnitude":
        return 0.0, white(magnitude)
    return PHASE_WINDOW_MRAD if name == "phase" else QSM_WINDOW_PPB


def _line(axes: Axes, panels: Panels, plane: Plane) -> None:
    """True and measured susceptibility through the lesion's middle: along a row of axial, a column of coronal."""
    along = 0 if plane == "axial" else 1
    middle, across = panels.centre[plane][along], round(panels.centre[plane][1 - along])
    lesion_mm = radius_mm(1000 * panels.volume_cm3)
    reach_mm = lesion_mm + REACH_MM
    box = axes.get_position()
    axes.set_position((box.x0 + 0.05, box.y0 + 0.03, box.width - 0.06, box.height - 0.03))
    axes.set_title("Along a line through the lesion [ppb]", color=INK, fontsize=11.5, pad=6)
    axes.axhline(0, color=GRID, lw=1, zorder=0)
    within = []
    for image, (label, colour) in LINES.items():
        slice_ = panels.planes[plane][image]
        values = slice_[across] if plane == "axial" else slice_[:, across]
        mm = (np.arange(values.size) - middle) * panels.spacing_mm[plane][along]
        near = np.abs(mm) <= reach_mm
        within.append(values[np.abs(mm) <= lesion_mm + FREE_MM / 2])
        wide, alpha = (3.2, 0.75) if image == "truth" else (1.6, 1.0)
        axes.plot(mm[near], values[near], color=colour, lw=wide, alpha=alpha, label=label)
    first, last = ("right", "left") if plane == "axial" else ("head", "feet")
    # Bone and air on the way are ten times the lesion: its own range is shown.
    strongest = max(200.0, float(np.percentile(np.abs(np.concatenate(within)), 95)))
    low, high = -1.35 * strongest, 1.35 * strongest
    if panels.kind == "hemorrhage":
        low = -0.5 * strongest
    elif panels.kind == "calcification" and not panels.in_nucleus:
        high = 0.5 * strongest
    axes.set_ylim(low, high)
    axes.set_xlim(-reach_mm, reach_mm)
    axes.set_xlabel(f"{first}    \N{LEFTWARDS ARROW}    mm    \N{RIGHTWARDS ARROW}    {last}", fontsize=10)
    plain(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=10, loc="best")
