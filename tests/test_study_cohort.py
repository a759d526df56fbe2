"""The patients of the reading study: exact totals, skewed burdens, lesions that are what their form says."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms.ageing import TEMPLATE_YEARS, aged, iron_load, with_calcified_plexus
from phantoms.anatomy import head
from phantoms.atlas import LABEL, TISSUES
from phantoms.lesions import Lesion
from phantoms.pathology import STAGE_PPM, Bleed, Calcium, calcification, hemorrhage, mixed, radius_mm
from phantoms.shapes import Axes
from phantoms.study.cohort import PAPER, QUICK, ROOM_MM, Finding, Patient, Plan, burdens, patient


def grid(lesion: Lesion, step_mm: float) -> Axes:
    """A grid around a lesion."""
    reach = lesion.reach_mm + 2 * step_mm
    x, y, z = (np.arange(c - reach, c + reach, step_mm, dtype=np.float32) for c in lesion.centre_mm)
    return x, y, z


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    """Four patients of a tuning cohort: blood, both, calcium in nuclei."""
    return [patient(1, burden) for burden in burdens(1, QUICK)]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**31), plan=st.sampled_from([PAPER, QUICK]))
def test_totals_are_exact_and_nobody_is_healthy(seed: int, plan: Plan) -> None:
    planned = burdens(seed, plan)
    assert len(planned) == plan.patients
    assert sum(b.bleeds for b in planned) == plan.hemorrhages
    assert sum(len(b.calcium_mm3) for b in planned) == plan.calcifications - plan.in_nuclei
    assert sum(b.in_nuclei for b in planned) == plan.in_nuclei
    assert sum(b.mixed for b in planned) == plan.mixed
    assert min(b.bleeds + len(b.calcium_mm3) + b.in_nuclei + b.mixed for b in planned) >= 1
    assert burdens(seed, plan) == planned


def test_burdens_are_skewed_so_that_clustering_is_real() -> None:
    for seed in (1, 2, 3):
        counts = [b.bleeds + len(b.calcium_mm3) + b.in_nuclei + b.mixed for b in burdens(seed)]
        assert max(counts) >= 12
        assert np.median(counts) <= 4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_calcifications_have_the_volumes_of_the_paper(seed: int) -> None:
    """Lognormal, median 0.2 cm3, sigma 1.8: 16th and 84th percentile at factors of exp(1.8), but for the cut."""
    volumes_cm3 = np.array([v for b in burdens(seed) for v in b.calcium_mm3]) / 1000
    assert np.median(volumes_cm3) == pytest.approx(0.22, rel=0.1)
    assert np.log(np.percentile(volumes_cm3, [16, 84]) / 0.22) == pytest.approx([-1.6, 1.7], abs=0.2)
    assert volumes_cm3.min() > 0.01
    assert 4 < volumes_cm3.max() < 35


def test_lesions_lie_apart_in_the_brain_and_calcium_in_nuclei_lies_there(patients: list[Patient]) -> None:
    for person in patients:
        for index, finding in enumerate(person.findings):
            centre = np.array(finding.lesion.centre_mm)
            assert person.head.depth_mm(centre[None])[0] > 0
            for other in person.findings[:index]:
                apart = np.linalg.norm(centre - other.lesion.centre_mm)
                sizes = sum(np.cbrt(np.prod(f.lesion.radii_mm)) for f in (finding, other))
                inside = finding.in_nucleus and other.in_nucleus
                assert apart >= sizes + (1.0 if inside else ROOM_MM)
    buried = [(p, f) for p in patients for f in p.findings if f.in_nucleus]
    assert len(buried) == QUICK.in_nuclei
    for person, finding in buried:
        axes = grid(finding.lesion, 0.5)
        bare = head(person.head.seed, (), person.age_years).paint(axes)
        inside = finding.lesion.distance_mm(axes) < 0
        nuclei = [LABEL[name] for name in ("pallidum", "putamen", "dentate nucleus")]
        assert np.isin(bare.chi_label[inside], nuclei).mean() > 0.8


def test_grains_add_to_the_iron_that_they_lie_in(patients: list[Patient]) -> None:
    person, finding = next((p, f) for p in patients for f in p.findings if f.in_nucleus)
    axes = grid(finding.lesion, 0.5)
    bare, whole = head(person.head.seed, (), person.age_years).paint(axes), person.head.paint(axes)
    grains = person.head.where_lesion(person.findings.index(finding), whole.chi_label)
    of_tissue = np.array([t.chi_ppm for t in person.head.healthy])
    expected = of_tissue[bare.chi_label[grains]] + finding.lesion.chi_ppm
    np.testing.assert_allclose(whole.chi_ppm[grains], expected, atol=1e-6)


def test_equal_seeds_give_equal_patients_and_others_give_others(patients: list[Patient]) -> None:
    planned = burdens(1, QUICK)
    again, other = patient(1, planned[2]), patient(2, planned[2])
    assert again.findings == patients[2].findings
    assert (again.b0_dir, again.snr, again.age_years) == (
        patients[2].b0_dir,
        patients[2].snr,
        patients[2].age_years,
    )
    assert other.findings != again.findings
    assert not np.array_equal(other.head.charts["fold"].values, again.head.charts["fold"].values)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**31), form=st.sampled_from(get_args(Bleed)), stage=st.sampled_from(list(STAGE_PPM)))
def test_blood_is_paramagnetic_all_through(seed: int, form: Bleed, stage: str) -> None:
    lesion = hemorrhage(np.random.default_rng(seed), form, stage, (0, 0, 0), 600.0)  # type: ignore[arg-type]
    assert lesion.kind == "hemorrhage"
    assert lesion.chi_ppm > 0
    assert lesion.core is None or 0 < lesion.core.chi_ppm < lesion.chi_ppm
    assert np.cbrt(np.prod(lesion.radii_mm)) == pytest.approx(radius_mm(600.0))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**31), form=st.sampled_from(get_args(Calcium)), volume_mm3=st.floats(10, 30_000))
def test_calcium_is_diamagnetic(seed: int, form: Calcium, volume_mm3: float) -> None:
    lesion = calcification(np.random.default_rng(seed), form, (0, 0, 0), volume_mm3)
    assert lesion.kind == "calcification"
    assert -3 <= lesion.chi_ppm < 0
    assert lesion.dispersed == (form == "in iron")
    if form == "faint":
        assert lesion.chi_ppm > -0.36


@pytest.mark.parametrize(("stage", "expected"), STAGE_PPM.items())
def test_stages_have_their_published_susceptibility(stage: str, expected: tuple[float, float]) -> None:
    rng = np.random.default_rng(5)
    chi = [hemorrhage(rng, "hematoma", stage, (0, 0, 0), 3000.0).chi_ppm for _ in range(400)]  # type: ignore[arg-type]
    mean, spread = expected
    # What lies below the faintest is raised to it, which lifts the mean of the widest stages a little.
    assert np.mean(chi) == pytest.approx(mean, abs=0.25 * spread)


def test_a_mixed_lesion_is_blood_around_a_dense_core() -> None:
    lesion = mixed(np.random.default_rng(3), (10.0, -20.0, 30.0), 1500.0)
    whole = head(1, (lesion,))
    axes = grid(lesion, 0.4)
    chi = whole.paint(axes).chi_ppm
    assert lesion.core is not None
    assert chi[tuple(n // 2 for n in chi.shape)] == pytest.approx(lesion.core.chi_ppm)
    edge = np.abs(lesion.distance_mm(axes) + 0.2 * min(lesion.radii_mm)) < 0.2
    assert np.median(chi[edge]) == pytest.approx(lesion.chi_ppm)


def test_iron_rises_with_age_and_is_the_atlas_at_its_own() -> None:
    loads = [iron_load("putamen", years) for years in (10, 20, 40, TEMPLATE_YEARS, 60, 80)]
    assert loads == sorted(loads)
    assert loads[3] == 1
    assert iron_load("white matter", 80) == 1
    young, old = (aged(TISSUES, years, np.random.default_rng(1))[LABEL["putamen"]] for years in (20, 80))
    assert young.chi_ppm < TISSUES[LABEL["putamen"]].chi_ppm * 1.2 < old.chi_ppm * 1.2
    assert young.r2s_hz < old.r2s_hz


@pytest.mark.parametrize(("years", "share"), [(0, 0.0), (50, 0.67), (86, 0.95)])
def test_the_choroid_plexus_calcifies_with_age(years: float, share: float) -> None:
    plexus = [
        with_calcified_plexus(TISSUES, years, np.random.default_rng(seed))[LABEL["choroid plexus"]]
        for seed in range(300)
    ]
    assert np.mean([t.chi_ppm < -0.09 for t in plexus]) == pytest.approx(share, abs=0.08)
    assert {t.chi_ppm for t in plexus if t.chi_ppm > 0} <= {TISSUES[LABEL["choroid plexus"]].chi_ppm}


def test_thirty_eight_heads_differ_in_size_fold_and_iron() -> None:
    sizes = [np.prod(head(2000 + n, (), 40.0 + n).scale) for n in range(6)]
    assert np.ptp(sizes) > 0.03
    irons = [head(2000 + n, (), 60.0).tissues[LABEL["pallidum"]].chi_ppm for n in range(6)]
    assert np.std(irons) / np.mean(irons) > 0.05


def test_forms_of_a_cohort_are_all_there(patients: list[Patient]) -> None:
    forms = Counter(f.form for p in patients for f in p.findings)
    assert {"microbleed", "in iron"} <= set(forms)
    assert all(isinstance(f, Finding) for p in patients for f in p.findings)
