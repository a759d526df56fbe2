"""Simulated readers and the measured extent of lesions, on maps drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phantoms.study.extent import component, phase_extent, susceptibility_extent
from phantoms.study.reading import READERS, Reader, Site, read, site
from phantoms.study.record import Outcome
from recon.types import BadInput

SHAPE = (40, 40, 30)
EXACT = Reader(1, outline_voxels=0.0, threshold_spread=0.0, decision_spread=0.0)
BRAIN = np.ones(SHAPE, dtype=np.bool_)
NOTHING = np.zeros(SHAPE, dtype=np.bool_)


def ball(radius: float, centre: tuple[int, int, int] = (20, 20, 15)) -> npt.NDArray[np.bool_]:
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return np.asarray((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 <= radius**2)


LESION = ball(5)
PLACE = site(LESION, BRAIN, NOTHING)


def painted(value: float, where: npt.NDArray[np.bool_] = LESION) -> npt.NDArray[np.float32]:
    return np.where(where, value, 0).astype(np.float32)


@pytest.mark.parametrize(("value", "expected"), [(300.0, "hemorrhage"), (-300.0, "calcification"), (20.0, "neither")])
def test_qsm_is_read_by_its_sign(value: float, expected: Outcome) -> None:
    reading = read("qsm", painted(value), PLACE, EXACT, 0)
    assert reading.outcome == expected
    assert reading.contrast == pytest.approx(value)
    assert reading.appearance == ("inconspicuous" if expected == "neither" else "homogeneous")


def test_on_phase_blood_is_dark() -> None:
    assert read("phase", painted(-800.0), PLACE, EXACT, 0).outcome == "hemorrhage"
    assert read("phase", painted(800.0), PLACE, EXACT, 0).outcome == "calcification"


@pytest.mark.parametrize(
    ("share", "appearance", "outcome"),
    [
        (0.97, "homogeneous", "hemorrhage"),
        (0.85, "primarily one sign", "hemorrhage"),
        (0.65, "heterogeneous", "neither"),
        (0.35, "heterogeneous", "neither"),
        (0.1, "primarily one sign", "calcification"),
    ],
)
def test_the_share_of_the_dominant_sign_decides(share: float, appearance: str, outcome: Outcome) -> None:
    section = np.argwhere(LESION[:, :, 15])
    values = painted(-300.0)
    bright = section[: round(share * len(section))]
    values[bright[:, 0], bright[:, 1], 15] = 300.0
    reading = read("qsm", values, PLACE, EXACT, 0)
    assert reading.positive == pytest.approx(share, abs=0.01)
    assert (reading.appearance, reading.outcome) == (appearance, outcome)


def test_voxels_below_the_threshold_of_perception_do_not_count() -> None:
    values = painted(300.0)
    values[LESION & (np.arange(SHAPE[0])[:, None, None] < 20)] = -30.0  # fainter than 40 ppb
    reading = read("qsm", values, PLACE, EXACT, 0)
    assert (reading.positive, reading.outcome) == (1.0, "hemorrhage")


def test_what_another_slice_shows_does_not_count() -> None:
    values = painted(300.0)
    values[:, :, :13] = np.where(LESION[:, :, :13], -300, 0)
    assert read("qsm", values, PLACE, EXACT, 0).appearance == "homogeneous"


def test_a_lesion_that_only_differs_from_nothing_is_not_seen() -> None:
    """In surroundings as bright as itself a lesion has no contrast."""
    values = np.full(SHAPE, 150, dtype=np.float32)
    assert read("qsm", values, PLACE, EXACT, 0).appearance == "inconspicuous"


@settings(deadline=None, max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**31), case=st.integers(0, 10_000), reader=st.sampled_from(READERS))
def test_a_map_upside_down_is_read_the_other_way(seed: int, case: int, reader: Reader) -> None:
    values = np.random.default_rng(seed).normal(0, 150, SHAPE).astype(np.float32)
    swapped: dict[Outcome, Outcome] = {
        "hemorrhage": "calcification",
        "calcification": "hemorrhage",
        "neither": "neither",
    }
    one, other = read("qsm", values, PLACE, reader, case), read("qsm", -values, PLACE, reader, case)
    assert other.outcome == swapped[one.outcome]
    assert other.appearance == one.appearance
    assert other.contrast == pytest.approx(-one.contrast, abs=1e-3)


def test_readers_differ_and_repeat_themselves() -> None:
    rng = np.random.default_rng(7)
    values = (painted(60.0) + rng.normal(0, 60, SHAPE)).astype(np.float32)
    first, second = ([read("qsm", values, PLACE, reader, case) for case in range(40)] for reader in READERS)
    assert first == [read("qsm", values, PLACE, READERS[0], case) for case in range(40)]
    assert first != second
    assert len({r.positive for r in first}) > 5  # from lesion to lesion the outline differs


@pytest.mark.parametrize("reader", READERS)
def test_an_outline_is_never_more_than_a_voxel_off(reader: Reader) -> None:
    """Voxels deeper than one voxel always count, those farther than one never do."""
    wild = replace(reader, outline_voxels=3.0)
    deep, far = PLACE.distance < -1, PLACE.distance > 1
    values = np.zeros(SHAPE, dtype=np.float32)
    inner, outer = values.copy(), values.copy()
    inner[PLACE.box][deep], outer[PLACE.box][far] = 1000, 1000
    for case in range(20):
        assert read("qsm", inner, PLACE, wild, case).outcome == "hemorrhage"
        assert read("qsm", outer, PLACE, wild, case).outcome == "neither"


def test_signs_that_cancel_have_no_contrast() -> None:
    """Half bright and half dark is no feature to a reader who compares means."""
    values = painted(300.0)
    values[20:][LESION[20:]] = -300.0
    values[20, :, :] = 0
    reading = read("qsm", values, PLACE, EXACT, 0)
    assert (reading.outcome, reading.appearance) == ("neither", "inconspicuous")


def test_what_is_outside_the_brain_is_not_read() -> None:
    """A loose outline of a lesion at the surface ends there: bone is no part of it."""
    brain = np.arange(SHAPE[0])[:, None, None] < 26
    place = site(LESION, np.broadcast_to(brain, SHAPE), NOTHING)
    values = painted(-300.0)
    values[26:] = 9000.0
    loose = replace(EXACT, outline_voxels=5.0)
    assert {read("qsm", values, place, loose, case).outcome for case in range(20)} == {"calcification"}


def test_a_lesion_of_one_voxel_is_read() -> None:
    lesion = ball(0.5)
    place = site(lesion, BRAIN, NOTHING)
    outcomes = {read("qsm", painted(-500.0, ball(1.5)), place, READERS[0], case).outcome for case in range(30)}
    assert outcomes == {"calcification"}


def test_a_lesion_without_voxels_is_refused() -> None:
    with pytest.raises(BadInput, match="no voxel"):
        site(NOTHING, BRAIN, NOTHING)


def test_readers_need_sensible_thresholds() -> None:
    with pytest.raises(BadInput):
        Reader(1, qsm_ppb=0)
    with pytest.raises(BadInput):
        Reader(1, decision=0.4)


VOXEL_MM = (1.0, 1.0, 2.0)


def test_volume_and_total_of_a_plain_lesion() -> None:
    extent = susceptibility_extent(painted(-400.0), PLACE, VOXEL_MM)
    assert extent.volume_cm3 == pytest.approx(LESION.sum() * 0.002)
    assert extent.total == pytest.approx(-400 * LESION.sum() * 0.002)


def test_the_threshold_is_half_way_to_the_surroundings() -> None:
    """On a ground of 100 a lesion of 500 ends at 300: what blooms to 290 around it is not counted, 310 is."""
    ground = np.full(SHAPE, 100, dtype=np.float32)
    ground[ball(6)] = 290
    ground[LESION] = 500
    assert susceptibility_extent(ground, PLACE, VOXEL_MM).volume_cm3 == pytest.approx(LESION.sum() * 0.002)
    ground[ball(6) & ~LESION] = 310
    assert susceptibility_extent(ground, PLACE, VOXEL_MM).volume_cm3 == pytest.approx(ball(6).sum() * 0.002)


def test_only_the_component_at_the_lesion_and_within_5_mm_counts() -> None:
    values = painted(-400.0)
    values[ball(2, (28, 20, 15))] = -400  # apart from the lesion, though near
    values[26:34, 20, 15] = -400  # a tail: 5 mm of it are the lesion's
    values[ball(2, (28, 20, 15))] = 0
    found = component(values[PLACE.box], PLACE, VOXEL_MM)
    whole = np.zeros(SHAPE, dtype=np.bool_)
    whole[PLACE.box] = found
    assert not whole[31:].any()
    assert whole[LESION].all()


def test_phase_counts_by_its_absolute_value_between_0_and_2_pi() -> None:
    values = painted(1000.0)
    values[20:][LESION[20:]] = -1000.0
    extent = phase_extent(values, PLACE, VOXEL_MM)
    assert extent.volume_cm3 == pytest.approx(LESION.sum() * 0.002)
    dark = LESION[20:].sum()
    expected = 0.002 * (dark * (2 * np.pi - 1) + (LESION.sum() - dark))
    assert extent.total == pytest.approx(expected, rel=1e-5)


def test_another_lesion_is_neither_surroundings_nor_part() -> None:
    other = ball(3, (29, 20, 15))
    values = painted(-400.0) + painted(-400.0, other)
    place: Site = site(LESION, BRAIN, other)
    assert not (place.shell & other[place.box]).any()
    assert susceptibility_extent(values, place, VOXEL_MM).volume_cm3 == pytest.approx(LESION.sum() * 0.002)
