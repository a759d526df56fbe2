"""The charts of the report: records and tables in, PNG bytes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from node.drawing import BACKGROUND, COLOURS, FAINT, GRID, INK, plain, png
from node.validate import paper
from phantoms.study.record import APPEARANCES, IMAGES, Appearance, Image, PatientRecord
from phantoms.study.tables import KINDS, MEASURES, Group, LoadRow, Study, measured

DPI = 150
WIDTH_IN = 10.4
NAMES: dict[Image, str] = {
    "qsm": "QSM", "tkd": "TKD", "phase": "GRE phase", "truth": "True map"
}  # fmt: skip
IMAGE_COLOURS: dict[Image, str] = {"qsm": "#ffd166", "tkd": "#7fa7ff", "phase": "#b9c2cf", "truth": "#5fd39a"}
VOLUMES_CM3 = (0.005, 60.0)
PAPER_COLOUR = "#ff6b9d"
APPEARANCE_COLOURS: dict[Appearance, str] = {
    "homogeneous": "#3fae7c", "primarily one sign": "#8ad6b0", "inconspicuous": "#3a4654", "heterogeneous": "#e2795b"
}  # fmt: skip
"""In the order of the bars: one sign grows from the left, heterogeneous from the right."""


def accuracy_png(study: Study, group: Group) -> bytes:
    """Sensitivity and specificity of both kinds: every reader's with its interval, and the paper's mean."""
    figure = Figure(figsize=(WIDTH_IN, 4.3), dpi=DPI, facecolor=BACKGROUND)
    panels = figure.subplots(1, 4, sharey=True)
    figure.subplots_adjust(left=0.095, right=0.985, top=0.885, bottom=0.20, wspace=0.08)
    asked = [(kind, measure) for kind in KINDS for measure in MEASURES]
    for axes, (kind, measure) in zip(panels, asked, strict=True):
        plain(axes)
        axes.set_title(f"{kind.capitalize()}: {measure}", color=COLOURS[kind], fontsize=11.5, pad=8)
        axes.grid(axis="x", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        for place, image in enumerate(IMAGES):
            rows = [
                row
                for row in study.diagnoses
                if (row.group, row.kind, row.measure, row.image) == (group, kind, measure, image)
            ]
            for offset, row in zip(np.linspace(-0.14, 0.14, len(rows)), rows, strict=True):
                share, y = row.value, place + offset
                axes.plot([100 * share.low, 100 * share.high], [y, y], color=IMAGE_COLOURS[image], lw=1.6, alpha=0.65)
                axes.plot(100 * share.value, y, "o", ms=6, color=IMAGE_COLOURS[image])
            if (mean := paper.mean(image, kind, measure)) is not None:
                axes.plot([100 * mean] * 2, [place - 0.36, place + 0.36], color=PAPER_COLOUR, lw=2.2)
        axes.set_xlim(0, 102)
        axes.set_xticks([0, 25, 50, 75, 100], ["", "25", "50", "75", "100"])
        axes.set_xlabel("%")
    panels[0].set_yticks(range(len(IMAGES)), [NAMES[image] for image in IMAGES], color=INK, fontsize=11)
    panels[0].set_ylim(len(IMAGES) - 0.45, -0.55)
    marks = [
        Line2D([], [], color=INK, marker="o", ms=6, lw=1.6, label="reader 1, reader 2 with 95 % interval"),
        Line2D([], [], color=PAPER_COLOUR, lw=2.2, label="mean of the paper's two readers"),
    ]
    figure.legend(handles=marks, loc="lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=10.5)
    return png(figure)


def appearance_png(study: Study) -> bytes:
    """How lesions look: shares of the four appearances on every image, of all lesions and by kind."""
    groups: dict[str, list[str]] = {
        "All but mixed": ["hemorrhage", "calcification outside nuclei", "calcification in nuclei"],
        "Hemorrhages": ["hemorrhage"],
        "Calcifications outside deep nuclei": ["calcification outside nuclei"],
        "Calcifications in deep nuclei": ["calcification in nuclei"],
        "Mixed lesions": ["mixed"],
    }
    figure = Figure(figsize=(WIDTH_IN, 7.2), dpi=DPI, facecolor=BACKGROUND)
    axes = figure.add_axes((0.095, 0.11, 0.885, 0.86))
    plain(axes)
    places, names, top = [], [], 0.0
    for title, members in groups.items():
        shares = {image: _appearance_shares(study, members, image) for image in IMAGES}
        if not any(shares["qsm"].values()):
            continue
        axes.text(0, top, title, color=INK, fontsize=11.5, fontweight="bold", va="center")
        for image in IMAGES:
            top += 1
            left = 0.0
            for appearance, colour in APPEARANCE_COLOURS.items():
                percent = 100 * shares[image][appearance]
                axes.barh(top, percent, left=left, height=0.78, color=colour, lw=0)
                if percent >= 5:
                    dark = appearance != "inconspicuous"
                    axes.text(left + percent / 2, top, f"{percent:.0f}", ha="center", va="center", fontsize=9.5,
                              color=BACKGROUND if dark else INK)  # fmt: skip
                left += percent
            places.append(top)
            names.append(NAMES[image])
        if title == "All but mixed":
            borders: dict[Image, float] = {"qsm": paper.ONE_SIGN["qsm"], "phase": 1 - paper.HETEROGENEOUS["phase"]}
            for image, border in borders.items():
                y = top - len(IMAGES) + 1 + IMAGES.index(image)
                axes.plot([100 * border] * 2, [y - 0.48, y + 0.48], color=PAPER_COLOUR, lw=2.6)
        top += 1.5
    axes.set_yticks(places, names, color=INK, fontsize=10)
    axes.set(ylim=(top - 0.9, -0.7), xlim=(0, 100))
    axes.set_xlabel("% of lesions, mean of the two readers")
    marks = [Patch(color=colour, label=appearance) for appearance, colour in APPEARANCE_COLOURS.items()]
    marks.append(Line2D([], [], color=PAPER_COLOUR, lw=2.6, label="the paper's border"))  # type: ignore[arg-type]
    figure.legend(handles=marks, loc="lower center", ncols=5, frameon=False, labelcolor=INK, fontsize=10.5)
    return png(figure)


def _appearance_shares(study: Study, members: Sequence[str], image: Image) -> dict[Appearance, float]:
    rows = [row for row in study.appearances if row.lesions in members and row.image == image]
    counts = {appearance: sum(row.counts[appearance] for row in rows) for appearance in APPEARANCES}
    total = sum(counts.values())
    return {appearance: count / total if total else 0.0 for appearance, count in counts.items()}


def loads_png(loads: Sequence[LoadRow]) -> bytes:
    """Figure 4: total susceptibility, and total phase, of a patient against the true load of calcium."""
    figure = Figure(figsize=(WIDTH_IN, 4.7), dpi=DPI, facecolor=BACKGROUND)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.91, bottom=0.125, wspace=0.2)
    drawn: tuple[tuple[Image, str, str], ...] = (
        ("qsm", "Total susceptibility on QSM", "\N{MINUS SIGN}total susceptibility [ppb cm\N{SUPERSCRIPT THREE}]"),
        ("phase", "Total phase on GRE phase", "total phase [rad cm\N{SUPERSCRIPT THREE}]"),
    )
    for axes, (image, title, label) in zip(figure.subplots(1, 2), drawn, strict=True):
        plain(axes)
        axes.set_title(title, color=INK, fontsize=12.5, pad=8)
        axes.set(xscale="log", yscale="log", ylabel=label)
        axes.set_xlabel("true load: \N{MINUS SIGN}susceptibility x volume [ppb cm\N{SUPERSCRIPT THREE}]")
        axes.grid(color=GRID, lw=0.8)
        _load(axes, next(row for row in loads if row.image == image))
    return png(figure)


def _load(axes: Axes, row: LoadRow) -> None:
    """Points, the fitted line, and the paper's slope through the middle of the points."""
    image = row.image
    said = f"paper: slope {paper.SLOPE[image]:.2f}, R\N{SUPERSCRIPT TWO} {paper.R2[image]:.2f}"
    x = np.array([point.load for point in row.points])
    axes.plot(x, [point.total for point in row.points], "o", ms=6.5, color=COLOURS["calcification"], alpha=0.85)
    if row.regression is not None:
        fit = row.regression
        ends = np.array([x.min(), x.max()])
        middle = np.log10(x).mean()
        height = fit.intercept + fit.slope.value * middle
        as_paper = height + paper.SLOPE[image] * (np.log10(ends) - middle)
        axes.plot(ends, 10**as_paper, color=PAPER_COLOUR, lw=1.6, ls="--")
        axes.plot(ends, 10 ** (fit.intercept + fit.slope.value * np.log10(ends)), color=INK, lw=1.8)
        here = f"slope {fit.slope.value:.2f} ({fit.slope.low:.2f} to {fit.slope.high:.2f}), "
        here += f"R\N{SUPERSCRIPT TWO} {fit.r2:.3f}, n = {fit.n}"
    else:
        here = f"{len(row.points)} patients: too few for a line"
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.2)
    axes.text(0.03, 0.965, here, transform=axes.transAxes, color=INK, fontsize=11, va="top")
    axes.text(0.03, 0.90, said, transform=axes.transAxes, color=PAPER_COLOUR, fontsize=11, va="top")


def volumes_png(patients: Sequence[PatientRecord]) -> bytes:
    """Figure 5: the volume of calcifications on QSM and on phase against the true one."""
    figure = Figure(figsize=(WIDTH_IN, 4.7), dpi=DPI, facecolor=BACKGROUND)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.91, bottom=0.125, wspace=0.2)
    findings = [finding for patient in patients for finding in measured(patient)]
    true = np.array([finding.extents["truth"].volume_cm3 for finding in findings])
    drawn: tuple[Image, ...] = ("qsm", "phase")
    for axes, image in zip(figure.subplots(1, 2), drawn, strict=True):
        shown = np.array([finding.extents[image].volume_cm3 for finding in findings])
        plain(axes)
        axes.set_title(f"Volume on {NAMES[image]}", color=INK, fontsize=12.5, pad=8)
        axes.set(xscale="log", yscale="log", xlim=VOLUMES_CM3, ylim=VOLUMES_CM3)
        axes.set_xlabel("true volume [cm\N{SUPERSCRIPT THREE}]")
        axes.set_ylabel("measured [cm\N{SUPERSCRIPT THREE}]")
        axes.grid(color=GRID, lw=0.8)
        axes.plot(VOLUMES_CM3, VOLUMES_CM3, color=FAINT, lw=1.2)
        axes.plot(true, shown, "o", ms=6, color=COLOURS["calcification"], alpha=0.75)
        if findings:
            said = f"mean {shown.mean():.2f}, true {true.mean():.2f} cm\N{SUPERSCRIPT THREE}, n = {len(findings)}"
            axes.text(0.03, 0.965, said, transform=axes.transAxes, color=INK, fontsize=11, va="top")
        ct = f"paper: {paper.VOLUME_CM3[image]:.2f}, CT {paper.VOLUME_CM3['truth']:.2f} cm\N{SUPERSCRIPT THREE}"
        axes.text(0.03, 0.90, ct, transform=axes.transAxes, color=PAPER_COLOUR, fontsize=11, va="top")
    return png(figure)
