"""The report of the validation run: promises, results for machines, figures and page, from records made up here."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import matplotlib.image
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter

from node.drawing import PHASE_WINDOW_MRAD, QSM_WINDOW_PPB
from node.validate import charts, figures, paper
from node.validate.panels import Panels, Shown, from_npz, to_npz
from node.validate.promises import QUANTITIES, Evidence, Level, check, promises
from node.validate.report import Report, render
from node.validate.results import Results, as_json
from node.validate.scores import SolverScores
from phantoms.lesions import Kind
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.study import tables
from phantoms.study.reading import READERS
from phantoms.study.record import IMAGES, Extent, FindingRecord, Image, Outcome, PatientRecord, Reading
from phantoms.study.tables import tabulate
from recon.types import FloatArray

RIGHT: dict[Image, float] = {"qsm": 0.98, "tkd": 0.85, "phase": 0.5, "truth": 1.0}
"""How often the readers made up here are right."""


def finding(rng: np.random.Generator, kind: Kind, in_nucleus: bool, right: dict[Image, float]) -> FindingRecord:
    """A lesion whose volumes and totals are near the truth and whose readings are right as often as asked for."""
    sign = 1 if kind == "hemorrhage" else -1
    volume_cm3 = float(np.exp(rng.normal(np.log(0.3), 1.0)))
    mean_ppb = sign * float(rng.uniform(200, 1200))

    def reading(image: Image) -> Reading:
        if kind == "mixed" or rng.uniform() > right[image]:
            return Reading("neither", "heterogeneous", 0.5, 0.0)
        said: Outcome = "hemorrhage" if kind == "hemorrhage" else "calcification"
        return Reading(said, "homogeneous" if rng.uniform() < 0.7 else "primarily one sign", 0.9, mean_ppb)

    def extent(image: Image) -> Extent:
        measured_cm3 = volume_cm3 * {"qsm": 0.99, "tkd": 0.9, "phase": 1.7, "truth": 1.0}[image]
        measured_cm3 *= 1 if image == "truth" else float(np.exp(rng.normal(0, 0.02)))
        return Extent(measured_cm3, 2.0 * measured_cm3 if image == "phase" else mean_ppb * measured_cm3)

    return FindingRecord(
        kind=kind,
        form="mixed" if kind == "mixed" else "hematoma" if kind == "hemorrhage" else "solid",
        in_nucleus=in_nucleus,
        true_volume_cm3=volume_cm3,
        centre=(10, 11, 12),
        mean_ppb={"qsm": 0.95 * mean_ppb, "tkd": 0.7 * mean_ppb, "truth": mean_ppb},
        readings={image: (reading(image), reading(image)) for image in IMAGES},
        extents={image: extent(image) for image in IMAGES},
    )


def cohort(patients: int = 38, right: dict[Image, float] = RIGHT, seed: int = 0) -> list[PatientRecord]:
    """Patients with two hemorrhages and two calcifications each, every fourth with calcium in a nucleus and mixed."""
    rng = np.random.default_rng(seed)
    return [
        PatientRecord(
            number=number,
            cause="trauma",
            age_years=50.0,
            snr=60.0,
            b0_dir=(0.0, 0.0, 1.0),
            head_seed=1000 + number,
            findings=tuple(
                finding(rng, kind, in_nucleus, right)
                for kind, in_nucleus in (
                    ("hemorrhage", False), ("hemorrhage", False), ("calcification", False), ("calcification", False),
                    *((("calcification", True), ("mixed", False)) if number % 4 == 1 else ()),
                )
            ),
            seconds={"simulate": 12.0, "reconstruct": 20.0},
            through_network={"qsm": 0.5, "phase": 0.4},
        )
        for number in range(1, patients + 1)
    ]  # fmt: skip


def made_up(patients: int = 38, right: dict[Image, float] = RIGHT) -> Results:
    """A run of the level that has so many patients."""
    records = cohort(patients, right)
    study = tabulate(records)
    level: Level = "full" if patients == 38 else "quick"
    scores = tuple(
        SolverScores(
            recipe, head, 60.0, 21.0, {"nrmse_percent": 30.0 + head, "lesion_slope": 0.9, "shadow_ppb": 12.0}
        )
        for recipe in ("default", "fast")
        for head in (1, 2)
    )
    return Results(
        versions={"qsm-node": "1.2.3", "Python": "3.11.7", "numpy": "2.4.6", "scipy": "1.17.1", "numba": "0.68.1"},
        level=level,
        through_dicom=False,
        study_seed=7,
        protocol=SMALL_PROTOCOL,
        readers=READERS,
        recipe={"name": "default"},
        finished=datetime(2026, 11, 26, 17, 0, tzinfo=UTC),
        cores=2,
        seconds={"solver part": 120.0, "reading study": 900.0},
        promises=check(Evidence(study, records, scores), level),
        study=study,
        scores=scores,
        patients=tuple(records),
    )


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Intervals of kappa from fewer draws than in a run: they need not be exact here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "DRAWS", 200)
        yield


@pytest.fixture(scope="module")
def full() -> Results:
    """The whole cohort, with readers who are good on QSM and poor on phase."""
    return made_up()


@pytest.fixture(scope="module")
def quick() -> Results:
    """Two patients: too few for a regression of their totals."""
    return made_up(2)


# -------------------------------------------------------------------------------------------------------- promises


def test_every_promise_is_of_a_level_and_every_quantity_has_a_value(full: Results) -> None:
    evidence = Evidence(full.study, full.patients, full.scores)
    for promise in promises().values():
        assert promise.limit
        assert promise.sentence.endswith(".")
        assert math.isfinite(QUANTITIES[promise.quantity](evidence))
    assert {name for name, function in QUANTITIES.items() if not math.isfinite(function(evidence))} == set()


def test_full_asks_for_what_the_paper_reached() -> None:
    limits = {p.quantity: p.limit["full"] for p in promises().values() if "full" in p.limit}
    accuracy = [f"{m}.{k}" for k in ("hemorrhage", "calcification") for m in ("sensitivity", "specificity")]
    assert [limits[name] for name in accuracy] == [0.895, 0.945, 0.805, 0.935]
    assert (limits["one_sign"], limits["kappa"]) == (0.967, 0.91)


def test_good_readers_keep_every_promise() -> None:
    results = made_up(right={"qsm": 1.0, "tkd": 0.85, "phase": 0.5, "truth": 1.0})
    assert results.broken == ()
    assert len(results.promises) == sum("full" in promise.limit for promise in promises().values())


def test_what_is_broken_is_named_with_its_measure() -> None:
    """Readers who are right on 60 % of QSM and on all of phase break accuracy, agreement and hardness, not volume."""
    results = made_up(right={"qsm": 0.6, "tkd": 0.85, "phase": 1.0, "truth": 1.0})
    broken = {row.id: row for row in results.broken}
    assert {"hemorrhage-sensitivity", "agreement", "phase-heterogeneous", "kappa-above-phase"} <= broken.keys()
    assert not {"volume", "total-susceptibility"} & broken.keys()
    row = broken["hemorrhage-sensitivity"]
    assert row.measured == results.study.diagnosis("outside nuclei", "hemorrhage", "sensitivity", "qsm")
    assert row.measured < row.limit == 0.895


@pytest.mark.parametrize(
    ("kind", "in_nucleus", "volume_cm3", "counts"),
    [
        ("hemorrhage", False, 0.060, True),
        ("calcification", False, 0.060, True),
        ("hemorrhage", False, 0.059, False),
        ("calcification", True, 0.500, False),
        ("mixed", False, 0.500, False),
    ],
)
def test_quick_asks_for_the_sign_of_readable_lesions(
    kind: Kind, in_nucleus: bool, volume_cm3: float, counts: bool
) -> None:
    records = cohort(4)
    first, *others = records[0].findings
    turned = dict.fromkeys(first.mean_ppb, -100.0 if kind == "hemorrhage" else 100.0)
    wrong = replace(first, kind=kind, in_nucleus=in_nucleus, true_volume_cm3=volume_cm3, mean_ppb=turned)
    patients = [replace(records[0], findings=(wrong, *others)), *records[1:]]
    (row,) = (r for r in check(Evidence(tabulate(records), patients, ()), "quick") if r.id == "right-sign")
    assert row.held != counts
    assert (row.measured < 1) == counts


def test_a_promise_without_a_number_is_broken() -> None:
    records = cohort(2)
    rows = {row.id: row for row in check(Evidence(tabulate(records), records, ()), "full")}
    assert math.isnan(rows["total-susceptibility"].measured)
    assert not rows["total-susceptibility"].held


def test_a_figure_that_is_missing_breaks_its_promise_wherever_it_stands(full: Results) -> None:
    """Neither a head without a figure nor a patient whose total has the wrong sign drops out unseen."""
    for place in (0, 1):
        scores = list(full.scores[:2])
        scores[place] = replace(scores[place], scores=dict.fromkeys(scores[place].scores, math.nan))
        rows = {row.id: row for row in check(Evidence(full.study, full.patients, scores), "full")}
        assert [rows[name].held for name in ("solver-brain", "solver-lesions", "solver-shadow")] == [False] * 3
    loads = tuple(replace(row, without_logarithm=1) if row.image == "qsm" else row for row in full.study.loads)
    rows = {r.id: r for r in check(Evidence(replace(full.study, loads=loads), full.patients, ()), "full")}
    assert not rows["total-susceptibility"].held


def test_the_network_is_asked_for_where_it_was_taken(full: Results) -> None:
    evidence = Evidence(full.study, full.patients, full.scores)
    asked = [row for row in check(evidence, "full", through_network=True) if row.id == "network"]
    assert [(row.measured, row.held) for row in asked] == [(0.5, True)]
    assert "network" not in {row.id for row in full.promises}
    stayed = (replace(full.patients[0], through_network={}), *full.patients[1:])
    row = next(r for r in check(Evidence(full.study, stayed, ()), "full", True) if r.id == "network")
    assert not row.held


def test_solver_scores_are_those_of_the_worst_head(full: Results) -> None:
    assert QUANTITIES["solver.nrmse_percent"](Evidence(full.study, full.patients, full.scores)) == 32
    assert math.isnan(QUANTITIES["solver.nrmse_percent"](Evidence(full.study, full.patients, ())))


# --------------------------------------------------------------------------------------------------------- results


def test_results_hold_all_that_the_tables_are_made_of(full: Results) -> None:
    content = json.loads(as_json(full))
    patients = TypeAdapter(tuple[PatientRecord, ...]).validate_python(content["patients"], strict=False)
    assert patients == full.patients
    assert tabulate(patients) == full.study
    assert content["study"] == json.loads(TypeAdapter(type(full.study)).dump_json(full.study))
    assert list(content)[:3] == ["versions", "level", "through_dicom"]
    assert as_json(full) == as_json(made_up())


def test_a_number_that_does_not_exist_is_null(quick: Results) -> None:
    assert {row.regression for row in quick.study.loads} == {None}
    row = replace(quick.promises[0], measured=math.nan)
    text = as_json(replace(quick, promises=(row,)))
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["promises"][0]["measured"] is None
    assert [row["regression"] for row in content["study"]["loads"]] == [None] * 3


# ---------------------------------------------------------------------------------------------------------- panels


def panels(kind: Kind = "hemorrhage", in_nucleus: bool = False, value: float = 0.0) -> Panels:
    """A head of 160 x 192 mm with a disc of 40 mm of this value on every image, in the middle."""
    rows, columns = np.mgrid[-96:96:1.2, -80:80:1.2].astype(np.float32)
    disc = np.hypot(rows, columns) < 40
    head = (rows / 90) ** 2 + (columns / 72) ** 2 < 1
    images: dict[Shown, FloatArray] = {"magnitude": np.where(head, 100, 0).astype(np.float32)}
    for name in ("phase", "qsm", "tkd", "truth"):
        images[name] = np.where(disc, value, 0).astype(np.float32)
    centre = ((head.shape[1] - 1) / 2, (head.shape[0] - 1) / 2)
    return Panels(
        number=1, finding=0, kind=kind, form="mixed" if kind == "mixed" else "solid", in_nucleus=in_nucleus,
        volume_cm3=0.5, planes={"axial": images, "coronal": images},
        spacing_mm={"axial": (1.2, 1.2), "coronal": (1.2, 1.2)}, centre={"axial": centre, "coronal": centre},
    )  # fmt: skip


def test_panels_survive_their_file(tmp_path: Path) -> None:
    written = panels("calcification", in_nucleus=True, value=-300)
    to_npz(written, tmp_path / "lesion.npz")
    found = from_npz(tmp_path / "lesion.npz")
    for plane, images in written.planes.items():
        assert found.planes[plane].keys() == images.keys()
        for name, values in images.items():
            np.testing.assert_array_equal(found.planes[plane][name], values)
            assert found.planes[plane][name].dtype == np.float32
    about = [f.name for f in fields(Panels) if f.name != "planes"]
    assert [getattr(found, name) for name in about] == [getattr(written, name) for name in about]


# --------------------------------------------------------------------------------------------------------- figures

WIDTH, GAP, TITLE, BAR = 1560, 12, 48, 60
PANEL = (WIDTH - 4 * GAP) / 3


def pixels(png: bytes) -> npt.NDArray[np.float32]:
    return np.asarray(matplotlib.image.imread(io.BytesIO(png)))[..., :3]


@pytest.mark.parametrize("shares", [(-2.0, -0.5, 0.0, 1.0), (0.5, 0.0, -1.0, -0.5)])
def test_a_grey_level_means_the_same_number_in_every_figure(shares: tuple[float, ...]) -> None:
    """A disc at a share of the window is that grey, and 0 around it mid-grey; a panel has 260 pixels or more."""
    places: dict[Shown, tuple[tuple[float, float], int, int]] = {
        "phase": (PHASE_WINDOW_MRAD, 0, 1),
        "truth": (QSM_WINDOW_PPB, 0, 2),
        "qsm": (QSM_WINDOW_PPB, 1, 0),
        "tkd": (QSM_WINDOW_PPB, 1, 1),
    }
    disc = panels(value=1.0).planes["coronal"]
    images = {name: disc[name] * share * places[name][0][1] for name, share in zip(places, shares, strict=True)}
    picture = pixels(figures.lesion_png(replace(panels(), planes={"coronal": disc | images}), "coronal"))
    height = picture.shape[0] / 2
    for (name, (window, row, column)), share in zip(places.items(), shares, strict=True):
        assert window[0] == -window[1]
        panel = picture[int(row * height) : int((row + 1) * height), int(column * PANEL + GAP * (column + 1)) :]
        panel = panel[TITLE:-BAR, : int(PANEL)]
        rows, columns, _ = panel.shape
        assert columns >= 260
        assert panel[rows // 2 + 40, columns // 2 + 40] == pytest.approx(np.clip(0.5 + share / 2, 0, 1), abs=0.01), (
            name
        )
        assert panel[rows // 10, columns // 4] == pytest.approx(0.5, abs=0.01), name


def test_lesion_is_circled_where_it_is() -> None:
    """The only colour on a panel: a circle around the lesion's middle, off the middle of the slice."""
    shown = panels("calcification")
    moved = replace(shown, centre={"axial": (100.0, 40.0), "coronal": (30.0, 120.0)})
    for plane, (column, row) in moved.centre.items():
        picture = pixels(figures.lesion_png(moved, plane))
        head = shown.planes[plane]["magnitude"]
        inside = np.argwhere(head > 0)
        (top, left), (bottom, right) = inside.min(axis=0) - 4, inside.max(axis=0) + 5
        panel = picture[TITLE : picture.shape[0] // 2 - BAR, GAP : GAP + int(PANEL)]
        coloured = np.argwhere(np.ptp(panel, axis=2) > 0.3).mean(axis=0) / panel.shape[:2]
        expected = ((row + 0.5 - top) / (bottom - top), (column + 0.5 - left) / (right - left))
        assert coloured == pytest.approx(expected, abs=0.02)


def test_charts_are_as_wide_as_the_page_at_least(full: Results, quick: Results) -> None:
    for results in (full, quick):
        for png in (
            charts.accuracy_png(results.study, "all"),
            charts.appearance_png(results.study),
            charts.loads_png(results.study.loads),
            charts.volumes_png(results.patients),
        ):
            assert pixels(png).shape[1] >= 1240


# ------------------------------------------------------------------------------------------------------------ page


def text_of(html: str) -> str:
    """What a person reads: no pictures, no marks, single spaces."""
    body = html[html.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)).replace("&nbsp;", " ")


@pytest.fixture(scope="module")
def page(full: Results) -> str:
    """The page of the whole cohort, with one lesion of each figure."""
    shown = (panels("mixed"), panels("calcification", in_nucleus=True), panels("calcification"), panels())
    axial = tuple(replace(lesion, planes={"axial": lesion.planes["axial"]}) for lesion in shown)
    return render(Report(full, axial))


def test_page_opens_offline(page: str) -> None:
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page) == []
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)


def test_page_has_the_paper_beside_this_run(page: str, full: Results) -> None:
    text = text_of(page)
    for kind in ("hemorrhage", "calcification"):
        for measure in ("sensitivity", "specificity"):
            row = text[text.index(f"{kind.capitalize()}, {measure}") :][:120]
            theirs = [100 * (paper.mean(image, kind, measure) or 0) for image in ("qsm", "phase")]
            ours = [
                100 * full.study.diagnosis("all", kind, measure, image) for image in ("qsm", "phase", "tkd", "truth")
            ]
            expected = [theirs[0], ours[0], theirs[1], *ours[1:]]
            assert re.findall(r"\d+\.\d", row)[:6] == [f"{value:.1f}" for value in expected]
    for said in ("0.91", "0.55", "96.7 %", "50.3 %", "1.78", "0.93", "0.74", "0.53", "docs/validation.md"):
        assert said in text
    for name, version in full.versions.items():
        assert f"{name} {version}" in text
    assert "not a medical device" in text


def test_page_says_first_what_is_broken(full: Results) -> None:
    broken = replace(full.promises[0], measured=0.852, held=False)
    held = tuple(replace(row, held=True) for row in full.promises[1:])
    text = text_of(render(Report(replace(full, promises=(broken, *held)), ())))
    verdict = text[: text.index("simulated patients with")]
    assert f"1 of {len(full.promises)} promises is broken" in verdict
    assert f"{broken.sentence} 85.2 %" in verdict
    assert "at least 89.5" in verdict
    assert broken.id in verdict

    text = text_of(render(Report(replace(full, promises=held), ())))
    assert f"All {len(held)} promises are held" in text[: text.index("simulated patients with")]
    assert "broken" not in text


def test_page_says_what_the_network_changed(full: Results) -> None:
    patients = tuple(
        replace(patient, through_network={"qsm": 0.25 + patient.number / 1000, "phase": 0.5})
        for patient in full.patients
    )
    text = text_of(render(Report(replace(full, patients=patients, through_dicom=True), ())))
    assert "QSM, default recipe [ppb] 0.288" in text
    assert "GRE phase [mrad] 0.500" in text
    assert "full, through DICOM" in text


def test_figures_come_in_the_order_of_the_paper_with_what_readers_said(page: str, full: Results) -> None:
    titles = re.findall(r"<h2>Figure (\d)", page)
    assert titles == ["1", "2", "3", "4", "5"]
    assert re.findall(r'alt="([A-Z][^:]+), axial:', page) == [
        "Hemorrhage", "Calcification", "Calcification in a deep nucleus", "Mixed lesion, calcium in blood"
    ]  # fmt: skip
    first = full.patients[0].findings[0]
    assert f"The readers said on QSM: {first.readings['qsm'][0].outcome}" in text_of(page)


def test_what_does_not_exist_is_a_dash(quick: Results) -> None:
    rows = (replace(quick.promises[0], measured=math.nan, held=False),)
    study = replace(quick.study, volumes=tuple(replace(v, mean_cm3=math.nan) for v in quick.study.volumes))
    text = text_of(render(Report(replace(quick, study=study, promises=rows, scores=()), ())))
    assert "\N{EN DASH} , promised" in text
    slope = text[text.index("slope of logarithms") :][:60]
    assert slope.split()[3:9] == ["0.93", "\N{EN DASH}", "0.74", "\N{EN DASH}", "\N{EN DASH}", "\N{EN DASH}"]
    assert not re.search(r"\b(nan|None|inf)\b", text)
    assert "Scores of the recipes" not in text
