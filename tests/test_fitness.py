"""An acquisition beside the consensus recommendations: what is met, what is not, what is not stated."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from node import multiframe
from node.fitness import NOT_STATED, Scan, fitness
from node.load import load
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.scanner import Vendor, write_dicom
from phantoms.simulate import Phantom
from recon.types import GAMMA_MHZ_PER_T

GOOD = Scan(dimensions="3D", tr_ms=40.0, flip_deg=15.0, bandwidth_hz=200.0, slice_mm=1.0)
TE_S = (0.004, 0.012, 0.020, 0.028, 0.036)
F0_MHZ = 3 * GAMMA_MHZ_PER_T


def judged(te_s=TE_S, f0_mhz=F0_MHZ, voxel_mm=(1.0, 1.0, 1.0), **stated):
    """Findings by rule."""
    return {f.rule: f for f in fitness(te_s, f0_mhz, voxel_mm, replace(GOOD, **stated))}


def test_the_recommended_acquisition_meets_everything():
    found = judged()
    assert len(found) == 10
    assert {f.rule for f in found.values() if f.met is not True} == set()
    assert not any(f.warning for f in found.values())


@pytest.mark.parametrize(
    ("rule", "change", "measured"),
    [
        ("acquisition", {"dimensions": "2D"}, "2D"),
        ("echoes", {"te_s": (0.005, 0.035)}, "2"),
        ("echoes", {"te_s": (0.035,)}, "1"),
        ("echo spacing", {"te_s": (0.004, 0.012, 0.02003, 0.032)}, "8.00 to 11.97 ms"),
        ("first echo", {"te_s": (0.0101, 0.0221, 0.0341)}, "10.10 ms"),
        ("last echo", {"te_s": (0.004, 0.012, 0.020, 0.028)}, "28.00 ms"),
        ("bandwidth", {"bandwidth_hz": 240.0}, "240 Hz per pixel"),
        ("flip angle", {"flip_deg": 25.0}, "25 degrees"),
        ("flip angle", {"flip_deg": 5.0}, "5 degrees"),
        ("voxel shape", {"voxel_mm": (0.7, 0.7, 1.0)}, "0.70 x 0.70 x 1.00 mm"),
        ("voxel size", {"voxel_mm": (1.2, 1.2, 1.2), "slice_mm": 1.2}, "longest edge 1.20 mm"),
        ("slice gap", {"slice_mm": 0.8}, "0.20 mm"),
    ],
)
def test_what_is_not_met_is_measured_and_fails_no_other_rule(rule, change, measured):
    found = judged(**change)
    assert (found[rule].met, found[rule].measured) == (False, measured)
    late = {"first echo", "echo spacing"} if len(change.get("te_s", TE_S)) == 1 else set()
    assert {f.rule for f in found.values() if f.met is not True} == {rule} | late


@pytest.mark.parametrize("keyword", ["dimensions", "bandwidth_hz", "flip_deg", "slice_mm"])
def test_what_is_not_stated_is_neither_met_nor_unmet(keyword):
    found = judged(**{keyword: "" if keyword == "dimensions" else None})
    silent = [f for f in found.values() if f.met is None]
    assert [f.measured for f in silent] == [NOT_STATED]
    assert not any(f.warning for f in found.values())


def test_the_flip_angle_follows_the_ernst_angle():
    """At TR = T1 ln 2 of white matter the angle is 60 degrees; grey matter's is less."""
    tr_ms = 838 * math.log(2)
    found = judged(tr_ms=tr_ms, flip_deg=60.0)["flip angle"]
    assert found.met
    assert found.recommended.endswith("to 60 degrees (Ernst angle)")
    assert not judged(tr_ms=tr_ms, flip_deg=61.0)["flip angle"].met
    assert judged(tr_ms=None)["flip angle"].met is None


@pytest.mark.parametrize(
    ("b0_t", "last_ms"), [(1.5, "55.5 ms"), (2.8936, "31.5 ms"), (6.98, "16.1 ms"), (0.55, None), (4.7, None)]
)
def test_tissue_times_belong_to_the_field(b0_t, last_ms):
    found = judged(f0_mhz=b0_t * GAMMA_MHZ_PER_T)
    if last_ms is None:
        assert {rule for rule, f in found.items() if f.met is None} == {"last echo", "bandwidth", "flip angle"}
    else:
        assert found["last echo"].recommended.startswith(last_ms)
        assert (found["bandwidth"].met is None) == (last_ms != "31.5 ms")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"te_s": (0.0355,)}, "single echo"),
        ({"te_s": (0.005, 0.035)}, "two echoes"),
        ({"te_s": (0.002, 0.004, 0.006)}, "last echo at 6 ms, long before T2* (31.5 ms)"),
        ({"dimensions": "2D"}, "2D"),
        ({"voxel_mm": (1.0, 1.0, 3.0), "slice_mm": 3.0}, "voxels of 1.00 x 1.00 x 3.00 mm"),
        ({"slice_mm": 0.8}, "gaps of 0.20 mm"),
    ],
)
def test_what_limits_the_map_warns_its_reader(change, words):
    (warning,) = [f.warning for f in judged(**change).values() if f.warning]
    assert words in warning


@pytest.mark.parametrize(
    "change", [{"bandwidth_hz": 900.0}, {"flip_deg": 40.0}, {"voxel_mm": (0.6, 0.75, 2.0), "slice_mm": 2.0}]
)
def test_what_only_could_be_better_does_not_warn(change):
    found = judged(**change).values()
    assert any(f.met is False for f in found)
    assert not any(f.warning for f in found)


def test_echo_times_that_were_rounded_are_even():
    te_s = tuple(round(0.00517 + 0.006743 * echo, 5) for echo in range(8))
    assert judged(te_s=te_s)["echo spacing"].met


def test_zero_filling_is_undone_whatever_the_order_of_the_acquisition_matrix():
    ds = Dataset()
    ds.Rows, ds.Columns = 256, 256
    for matrix in ([0, 128, 128, 0], [128, 0, 0, 128], [0, 128, 0, 128]):
        ds.AcquisitionMatrix = matrix
        assert Scan.of(ds).zero_filling == 2
    for matrix in ([0, 256, 192, 0], [0, 0, 0, 0], None):
        ds.AcquisitionMatrix = matrix
        assert Scan.of(ds).zero_filling == 1
    edges = judged(voxel_mm=(0.5, 0.5, 1.0), zero_filling=2.0)
    assert (edges["voxel shape"].met, edges["voxel shape"].measured) == (True, "1.00 x 1.00 x 1.00 mm")


def test_interpolated_slices_are_as_thick_as_they_say():
    found = judged(voxel_mm=(1.0, 1.0, 1.0), slice_mm=2.0)
    assert (found["voxel size"].measured, found["slice gap"].met) == ("longest edge 2.00 mm", True)


numbers = st.none() | st.floats(1e-9, 1e9)


@settings(max_examples=100, deadline=None)
@given(
    te_s=st.lists(st.floats(1e-5, 0.9), min_size=1, max_size=9, unique=True).map(sorted),
    f0_mhz=st.floats(1, 1000),
    voxel_mm=st.tuples(*[st.floats(1e-3, 1e3)] * 3),
    stated=st.builds(Scan, st.text(max_size=3), numbers, numbers, numbers, numbers, st.floats(1, 100)),
)
def test_whatever_is_stated_gives_ten_findings_in_words(te_s, f0_mhz, voxel_mm, stated):
    found = fitness(tuple(te_s), f0_mhz, voxel_mm, stated)
    assert len({f.rule for f in found}) == 10
    assert all(f.measured and f.recommended for f in found)
    assert not any(f.warning for f in found if f.met is not False)


@pytest.mark.parametrize("vendor", list(Vendor))
def test_every_vendor_states_the_same_sequence(dicom_sets, tmp_path, vendor):
    """Enhanced objects keep it in functional groups; only such phantoms state a bandwidth."""
    scan = dicom_sets.scan(shape=(14, 12, 16), voxel_mm=(1.6, 1.6, 2.0))
    zeros = scan.magnitude[0] * 0
    protocol = replace(SMALL_PROTOCOL, te_s=scan.te_s)
    phantom = Phantom(scan, zeros, zeros > 0, zeros.astype("u1"), (), (), protocol, 1, 1)
    source = load(write_dicom(phantom, tmp_path, vendor))
    stated = Scan.of(source.templates[0][0])
    assert replace(stated, bandwidth_hz=None) == Scan("3D", 57.0, 20.0, None, 2.0)
    assert stated.bandwidth_hz == (1008 if "enhanced" in vendor.value else None)


def test_a_damaged_header_states_nothing(dicom_sets):
    ds = deepcopy(dicom_sets.siemens(dicom_sets.scan())[0])
    ds.RepetitionTime, ds.FlipAngle, ds.SliceThickness = None, "0", "-1"
    ds.PixelBandwidth = "nan"
    ds.AcquisitionMatrix = [1, 2, 3, 4]
    assert Scan.of(multiframe.frames(ds)[0]) == Scan(dimensions="3D")


@pytest.mark.parametrize(
    ("case", "unmet"),
    [
        ("philips-classic-2echo-head", {"echoes", "last echo", "bandwidth", "voxel size"}),
        (
            "ge-3d-2echo-mag-real-imag",
            {"echoes", "last echo", "bandwidth", "flip angle", "voxel shape", "voxel size"},
        ),
    ],
)
def test_real_scans(vendor_data, dicom_sets, case, unmet):
    source = load(dicom_sets.dicom_files(vendor_data / case))
    acquisition, stated = source.acquisition, Scan.of(source.templates[0][0])
    found = fitness(acquisition.te_s, acquisition.f0_mhz, acquisition.geometry.voxel_mm, stated)
    assert {f.rule for f in found if f.met is False} == unmet
    assert all(f.met is not None for f in found)
