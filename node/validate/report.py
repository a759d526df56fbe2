"""The report of a validation run: one HTML file with its pictures inside. Says what was found, decides nothing."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from node.drawing import PHASE_WINDOW_MRAD, QSM_WINDOW_PPB
from node.validate import charts, figures, paper, tables
from node.validate.panels import Panels, Plane
from node.validate.promises import COMPARISONS, PromiseRow
from node.validate.results import Results
from phantoms.study.record import FindingRecord, Image, Reading
from phantoms.study.tables import GROUPS

ABSENT = "\N{EN DASH}"
IMAGE_NAMES: dict[Image, str] = {
    "qsm": "QSM, default recipe", "tkd": "QSM by TKD", "phase": "GRE phase", "truth": "True map (ceiling)"
}  # fmt: skip
SCORE_NAMES = {
    "seconds": "Time of the reconstruction [s]",
    "nrmse_percent": "Error of the whole brain, NRMSE [%]",
    "detrended_percent": "The same after a straight line is fitted, detrended NRMSE [%]",
    "tissue_percent": "Error away from lesions [%]",
    "lesion_percent": "Error in lesions [%]",
    "hfen_percent": "Error of fine detail, HFEN [%]",
    "xsim": "Similarity of structure, XSIM (1 is the truth)",
    "tissue_rmse_ppb": "Error away from lesions [ppb]",
    "lesion_slope": "Measured against true lesion means, slope (1 is the truth)",
    "lesion_bias_ppb": "Mean error of lesion means [ppb]",
    "shadow_ppb": "Shadow: error within 8 mm of strong lesions [ppb]",
    "halo_percent": "Halo of the other sign around strong lesions [%]",
    "moment_deviation_percent": "Error of the moment of calcifications [%]",
    "streak_level": "Streaks around calcifications (0 is none)",
}
"""Scores that are not here are written by their own names."""


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Everything that the page says: the results, and the slices of the lesions that are shown."""

    results: Results
    panels: tuple[Panels, ...]


@dataclass(frozen=True, slots=True)
class Illustration:
    """One lesion: the paper's figure that it is the counterpart of, its slices, its record and its pictures."""

    figure: int
    title: str
    panels: Panels
    finding: FindingRecord
    pngs: dict[Plane, bytes]


def render(report: Report) -> str:
    """The page as HTML; draws all of its pictures."""
    environment = Environment(
        loader=PackageLoader("node"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: dict[str, Callable[..., str]] = {
        "png": lambda data: "data:image/png;base64," + b64encode(data).decode("ascii"),
        "number": _number,
        "signed": lambda value, digits=0: _number(value, digits, "+"),
        "percent": lambda value, digits=1: _number(value, digits, scale=100),
        "p": _p,
        "measured": _measured,
        "limit": _limit,
        "score": _score_name,
    }
    environment.filters.update(filters)
    results, study = report.results, report.results.study
    recipes, scores = tables.scores(results.scores)
    return environment.get_template("validate.html").render(
        results=results,
        study=study,
        paper=paper,
        names=IMAGE_NAMES,
        cohort=tables.cohort(results.patients),
        beside={group: tables.beside(study, group) for group in GROUPS},
        measurement=tables.measurement(study),
        by_reader={group: tables.by_reader(study, group) for group in GROUPS},
        appearances=tables.appearances(study),
        in_nuclei=tables.in_nuclei(results.patients),
        misses=tables.misses(results.patients),
        recipes=recipes,
        scores=scores,
        patient_seconds=tables.patient_seconds(results.patients),
        through_network=tables.through_network(results.patients),
        illustrations=list(_illustrations(report)),
        accuracy=charts.accuracy_png(study, "all"),
        appearance=charts.appearance_png(study),
        loads=charts.loads_png(study.loads),
        volumes=charts.volumes_png(results.patients),
        heads=sorted({head.head_seed for head in results.scores}),
        calls=_calls,
        digits=_digits,
        windows={"qsm": QSM_WINDOW_PPB, "phase": PHASE_WINDOW_MRAD},
    )


def _illustrations(report: Report) -> Iterator[Illustration]:
    """Counterparts of the paper's figures 1-3, of the lesions that there are."""
    findings = {patient.number: patient.findings for patient in report.results.patients}

    def figure(panels: Panels) -> tuple[int, str]:
        if panels.kind == "mixed":
            return 3, "Mixed lesion, calcium in blood"
        if panels.in_nucleus:
            return 3, "Calcification in a deep nucleus"
        return (1, "Hemorrhage") if panels.kind == "hemorrhage" else (2, "Calcification")

    for panels in sorted(report.panels, key=figure):
        pngs = {plane: figures.lesion_png(panels, plane) for plane in panels.planes}
        yield Illustration(*figure(panels), panels, findings[panels.number][panels.finding], pngs)


def _number(value: float | None, digits: int = 0, sign: str = "", scale: float = 1) -> str:
    """A number with a true minus; a dash for what does not exist."""
    if value is None or not math.isfinite(value):
        return ABSENT
    text = f"{scale * value:{sign}.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "\N{MINUS SIGN}")


def _score_name(name: str) -> str:
    if name in SCORE_NAMES:
        return SCORE_NAMES[name]
    measure, _, of = name.partition(" ")
    unit = {"percent": " [%]", "ppb": " [ppb]"}.get(measure.rpartition("_")[2], "")
    words = f"{measure.removesuffix('_percent').removesuffix('_ppb')} {of}".replace("_", " ").strip()
    return f"{words[0].upper()}{words[1:]}{unit}"


def _digits(cell: tuple[float, float, float]) -> int:
    """Decimals that leave about three digits of a score."""
    largest = max((abs(value) for value in cell if math.isfinite(value)), default=0.0)
    return 0 if largest >= 100 else 1 if largest >= 10 else 2 if largest >= 0.1 else 3


def _calls(readings: tuple[Reading, ...]) -> str:
    """What the readers said, in as few words as it takes."""
    said = list(dict.fromkeys(reading.outcome for reading in readings))
    return said[0] if len(said) == 1 else ", ".join(reading.outcome for reading in readings)


def _p(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _measured(row: PromiseRow) -> str:
    if row.unit == "" or not math.isfinite(row.measured):
        return _number(row.measured, 3)
    return f"{_number(row.measured, 1, scale=100)}\N{NO-BREAK SPACE}{row.unit}"


def _limit(row: PromiseRow) -> str:
    exact = f"{row.limit:g}" if row.unit == "" else f"{100 * row.limit:g}\N{NO-BREAK SPACE}{row.unit}"
    return f"{COMPARISONS[row.compare]} {exact}"
