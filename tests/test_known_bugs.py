"""What went wrong in other readers of multi-echo GRE, one test for each; docstrings say where it was reported."""

from __future__ import annotations

from copy import deepcopy
from itertools import groupby

import numpy as np
import pytest
from pydicom.dataelem import DataElement

from node.assemble import acquisition_key, judge
from node.errors import Refused
from node.headers import read_header
from node.load import load

STEP = {"siemens": 2 * np.pi / 4096, "philips": 1.53455e-3}


def apart(phase, truth):
    """Largest difference on the circle, in rad."""
    return float(np.abs(np.angle(np.exp(1j * (phase - truth)))).max())


def verdicts(images):
    """The verdict of every group of images."""
    found = sorted(map(read_header, images), key=acquisition_key)
    return [judge(group) for _, group in groupby(found, key=acquisition_key)]


def codes(images):
    return sorted(v.refusal.code if v.refusal else "" for v in verdicts(images))


def code_of(paths):
    with pytest.raises(Refused) as refused:
        load(paths)
    return refused.value.refusal.code


# ------------------------------------------------------------------------------------------------- Philips


def test_philips_magnitude_and_phase_of_one_series_are_not_merged(dicom_sets, tmp_path):
    """dcm2niix 170, 174: both have the same series, echoes and positions."""
    scan = dicom_sets.scan(seed=1)
    got = load(dicom_sets.write(dicom_sets.philips(scan), tmp_path)).acquisition
    assert apart(got.phase, scan.phase) < 0.51 * STEP["philips"]
    assert np.abs(got.magnitude - scan.magnitude).max() < 1.1


def test_philips_scale_is_the_same_in_classic_and_enhanced_objects(dicom_sets, tmp_path):
    """dcm2niix 345, 408: enhanced objects say US for the same mrad."""
    scan = dicom_sets.scan(seed=2)
    classic = load(dicom_sets.write(dicom_sets.philips(scan), tmp_path / "classic")).acquisition
    enhanced = load(dicom_sets.write([dicom_sets.philips_enhanced(scan)], tmp_path / "enhanced")).acquisition
    assert np.array_equal(classic.phase, enhanced.phase)
    assert np.array_equal(classic.magnitude, enhanced.magnitude)


def test_philips_real_and_imaginary_are_not_called_magnitude(dicom_sets):
    """dcm2niix 189, 194."""
    headers = list(map(read_header, dicom_sets.philips(dicom_sets.scan(), "RI")))
    assert {h.frames[0].component for h in headers} == {"R", "I"}
    assert judge(headers).arrangement.components == ("R", "I")


def test_philips_frames_marked_real_that_hold_something_else_are_not_read(dicom_sets):
    """dcm2niix 256: ComplexImageComponent REAL on magnitude; a field map in Hz is marked so too."""
    enhanced = dicom_sets.philips_enhanced(dicom_sets.scan())
    for frame in enhanced.PerFrameFunctionalGroupsSequence:
        if frame.MRImageFrameTypeSequence[0].FrameType[3] == "M":
            frame.MRImageFrameTypeSequence[0].ComplexImageComponent = "REAL"
    (verdict,) = verdicts([enhanced])
    assert (verdict.state, verdict.refusal.code) == ("incomplete", "incomplete")
    assert "0 of 16 magnitude slices" in verdict.refusal.sentence


def test_philips_magnitude_slopes_that_differ_between_echoes_do_not_change_the_decay(dicom_sets, tmp_path):
    """dcm2niix 363, 493, 323, 975: displayed and precise values; `philips` here has a slope of its own per echo."""
    scan = dicom_sets.scan(seed=3, echoes=3)
    got = load(dicom_sets.write(dicom_sets.philips(scan), tmp_path)).acquisition
    ratio = np.median(got.magnitude, axis=(1, 2, 3)) / np.median(scan.magnitude, axis=(1, 2, 3))
    assert ratio == pytest.approx([ratio[0]] * 3, rel=5e-3)


def test_philips_phase_is_not_scaled_twice(dicom_sets, tmp_path):
    """SEPIA 36: the scale slope that makes magnitude precise is on phase images too."""
    scan = dicom_sets.scan(seed=4)
    images = dicom_sets.philips(scan)
    for ds in images:
        if ds.ImageType[3] == "P":
            ds.add_new((0x2005, 0x0010), "LO", "Philips MR Imaging DD 001")
            ds.add_new((0x2005, 0x100E), "FL", 651.8)
    assert apart(load(dicom_sets.write(images, tmp_path)).acquisition.phase, scan.phase) < 0.51 * STEP["philips"]


# ------------------------------------------------------------------------------------------------- Siemens


def test_phase_that_does_not_reach_pi_keeps_its_scale(dicom_sets, tmp_path):
    """SEPIA's and MEDI's readers map the extremes of a volume, slice or file to -pi and pi."""
    scan = dicom_sets.scan(seed=5)
    scan.phase[:] = 0.9 * scan.phase
    got = load(dicom_sets.write(dicom_sets.siemens(scan), tmp_path)).acquisition
    assert np.abs(got.phase - scan.phase).max() < 0.51 * STEP["siemens"]


def test_siemens_phase_that_was_scaled_twice_is_refused(dicom_sets, tmp_path):
    """dcm2niix 406, MRtrix3 3009: -8192 to 4096, since pixels were rescaled and the header was kept."""
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        if ds.ImageType[2] == "P":
            ds.PixelData = (2 * np.frombuffer(ds.PixelData, "<u2").astype(int) - 4096).astype("<i2").tobytes()
            ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
    assert code_of(dicom_sets.write(images, tmp_path)) == "suspect-phase"


def test_a_phase_difference_is_not_taken_for_the_phase_of_the_second_echo(dicom_sets):
    """dcm2niix 400, dcmstack 22: it carries the tags of a plain second echo."""
    images = [ds for ds in dicom_sets.siemens(dicom_sets.scan()) if ds.ImageType[2] == "M" or ds.EchoNumbers == 2]
    assert codes(images) == ["phase-difference"]


def test_xa_echoes_without_echo_numbers_are_no_repetitions(dicom_sets, tmp_path):
    """dcm2niix 568, 720: every echo is a series, InstanceNumber starts anew, EchoNumbers is absent."""
    scan = dicom_sets.scan(echoes=3)
    images = dicom_sets.siemens_xa(scan)
    for ds in images:
        ds.InstanceNumber = (int(ds.InstanceNumber) - 1) % 16 + 1
    got = load(dicom_sets.write(images, tmp_path)).acquisition
    assert got.te_s == pytest.approx(scan.te_s)
    assert apart(got.phase, scan.phase) < 0.51 * STEP["siemens"]


def test_an_echo_that_is_named_differently_is_not_lost(dicom_sets):
    """dcm2niix 350, 381."""
    images = dicom_sets.siemens_xa(dicom_sets.scan(echoes=3))
    for ds in images:
        echo = round((float(ds.EchoTime) - 4) / 6.1) + 1
        ds.SeriesDescription = f"gre_qsm_e{echo}" if echo > 1 else "gre_qsm"
        ds.ProtocolName = ""
    assert [v.echoes for v in verdicts(images) if v.state == "whole"] == [3]


def test_distortion_correction_that_cannot_be_switched_off_is_told(dicom_sets, tmp_path):
    """ReproIn 58: XA stores DIS2D alone."""
    source = load(dicom_sets.write(dicom_sets.siemens_xa(dicom_sets.scan()), tmp_path))
    assert "distortion correction (DIS2D) interpolated the phase" in source.warnings


# ------------------------------------------------------------------------------------------------- GE


def test_ge_echoes_that_all_say_one_echo_time_are_refused(dicom_sets):
    """dcm2niix 359, 209, 621: research sequences write EchoTime and EchoNumbers of the first echo into all."""
    images = dicom_sets.ge(dicom_sets.scan(echoes=3))
    for ds in images:
        ds.EchoTime, ds.EchoNumbers = "4", 1
    assert codes(images) == ["duplicate-images"]


@pytest.mark.parametrize("order", ["RI", "MRI", "MPRI", "IRM"])
def test_ge_images_of_a_location_may_be_two_three_or_four_in_any_order(dicom_sets, tmp_path, order):
    """Readers that go by InstanceNumber modulo 3, by order, or by odd and even break on another export."""
    scan = dicom_sets.scan(seed=7)
    got = load(dicom_sets.write(dicom_sets.ge(scan, order), tmp_path)).acquisition
    assert apart(got.phase, scan.phase) < 1.5 / scan.magnitude.min()


def test_ge_is_conjugated_unchopped_and_not_scaled_as_4096ths(dicom_sets, tmp_path):
    """QSMxT 107 and its rewrite: ImageType is OTHER for all; phase in mrad was taken for pi/4096."""
    scan = dicom_sets.scan(seed=8)
    got = load(dicom_sets.write(dicom_sets.ge(scan, "MP"), tmp_path)).acquisition
    assert apart(got.phase, scan.phase) < 0.6e-3


def test_philips_and_ge_real_and_imaginary_mean_what_their_phase_means(dicom_sets, tmp_path):
    """MEDI reads Philips' real and imaginary with the sign opposite to its phase images."""
    scan = dicom_sets.scan(seed=9)
    for writer in ("philips", "ge"):
        for components in ("MP", "RI"):
            paths = dicom_sets.write(getattr(dicom_sets, writer)(scan, components), tmp_path / writer / components)
            assert apart(load(paths).acquisition.phase, scan.phase) < 3 / scan.magnitude.min()


def test_a_field_map_in_hz_beside_its_magnitude_is_refused(dicom_sets):
    """dcm2niix 501, 617, 777: one series, both kind 0, RescaleType absent."""
    images = dicom_sets.ge(dicom_sets.scan(), "MM")
    for ds in images:
        ds.add_new((0x0019, 0x109C), "LO", "B0rf")
    assert codes(images) == ["field-map-hz"]
    for ds in images:
        del ds[0x0019, 0x109C]
    assert codes(images) == ["no-phase"]


# ------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("writer", ["siemens", "siemens_xa", "ge", "philips"])
def test_one_missing_image_is_named_instead_of_crashing_deep_inside(dicom_sets, tmp_path, writer):
    """QSMxT 184: magnitude and phase differed in size."""
    images = [ds for ds in getattr(dicom_sets, writer)(dicom_sets.scan()) if ds.InstanceNumber != 5]
    assert code_of(dicom_sets.write(images, tmp_path)) == "incomplete"


@pytest.mark.parametrize("b0_dir", [(1, 0, 0), (0, -1, 0), (-1, 0, 0), (0, 0.6, 0.8), (0, 0, -1)])
def test_the_direction_of_b0_is_right_in_sagittal_and_coronal_slices(dicom_sets, tmp_path, b0_dir):
    """SEPIA 10."""
    scan = dicom_sets.scan(b0_dir=b0_dir)
    got = load(dicom_sets.write(dicom_sets.philips(scan), tmp_path)).acquisition
    assert got.geometry.b0_dir == pytest.approx(b0_dir, abs=1e-6)


def test_images_of_single_coils_do_not_mix_with_the_combined_ones(dicom_sets):
    """dcm2niix 631, QSMxT 115."""
    images = dicom_sets.siemens(dicom_sets.scan())
    coils = dicom_sets.repeated(images, 10) + dicom_sets.repeated(images, 20)
    for ds in coils:
        ds.add_new((0x0051, 0x0010), "LO", "SIEMENS MR HEADER")
        ds.add_new((0x0051, 0x100F), "LO", f"H{ds.SeriesNumber // 10}")
    assert codes(images + coils) == ["", "uncombined-coils"]


@pytest.mark.parametrize("image_type", ["DERIVED\\PRIMARY\\M\\MEAN", "ORIGINAL\\PRIMARY\\M\\ND\\RMS"])
def test_a_mean_over_echoes_in_the_series_of_the_echoes_is_no_echo(dicom_sets, image_type):
    """dcm2niix 300."""
    images = dicom_sets.siemens(dicom_sets.scan())
    means = deepcopy([ds for ds in images if ds.ImageType[2] == "M" and ds.EchoNumbers == 1])
    for ds in means:
        ds.ImageType = image_type.split("\\")
        ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.9"
    whole = [v for v in verdicts(images + means) if v.arrangement]
    assert [(v.state, v.echoes) for v in whole] == [("whole", 2)]
    assert {p.frame.image_type[-1] for p in whole[0].arrangement.planes.values()} == {"ND"}


@pytest.mark.parametrize("marked", [True, False])
def test_canon_is_refused_whatever_its_headers_lack(dicom_sets, marked):
    """dcm2niix 495: classic objects are poor."""
    images = dicom_sets.philips(dicom_sets.scan())
    for ds in images:
        ds.Manufacturer, kind = "CANON_MEC", ds.ImageType[3]
        ds.ImageType = ["ORIGINAL", "PRIMARY", "GDC"]
        if marked:
            ds.ComplexImageComponent = {"M": "MAGNITUDE", "P": "PHASE"}[kind]
    assert codes(images) == ["unverified-sign" if marked else "no-phase"]


def test_uih_grids_and_invalid_dates_do_not_crash(dicom_sets):
    """dcm2niix 225."""
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.Manufacturer, ds.ImageType = "UIH", ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
        for keyword in ("StudyDate", "AcquisitionDate", "PatientBirthDate"):
            ds[keyword] = DataElement(keyword, "DA", "***", validation_mode=0)
    assert codes(images) == ["epi-or-mosaic"]
