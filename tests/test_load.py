"""Files to arrays: scaling, sign, chopper, geometry, and the pixels that are refused."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.errors import Refused, Unreadable
from node.files import read_dataset
from node.load import imaging_frequency_mhz, load
from node.site import Site
from node.vendors.stated import Stated
from recon.highpass import Homodyne, homodyne

TURN = 2 * np.pi
STEP = {"siemens": TURN / 4096, "philips": 1.53455e-3}


def apart(phase, truth):
    """Largest difference on the circle, in rad."""
    return float(np.abs(np.angle(np.exp(1j * (phase - truth)))).max())


def images_of(dicom_sets, writer, scan):
    made = getattr(dicom_sets, writer)(scan)
    return made if isinstance(made, list) else [made]


def code_of(paths):
    with pytest.raises(Refused) as refused:
        load(paths)
    return refused.value.refusal.code


@pytest.mark.parametrize("writer", ["siemens", "siemens_xa", "philips", "philips_enhanced"])
@pytest.mark.parametrize("reverse", [False, True])
def test_magnitude_phase_and_geometry_come_back(dicom_sets, tmp_path, writer, reverse):
    scan = dicom_sets.scan(seed=3)
    sent = dicom_sets.reversed_slices(scan) if reverse else scan
    source = load(dicom_sets.write(images_of(dicom_sets, writer, sent), tmp_path))
    got = source.acquisition
    assert got.te_s == pytest.approx(scan.te_s, abs=1e-9)
    assert got.f0_mhz == pytest.approx(123.25)
    assert np.abs(got.geometry.affine_mm - scan.geometry.affine_mm).max() < 1e-4
    assert got.geometry.b0_dir == pytest.approx(scan.geometry.b0_dir, abs=1e-6)
    assert apart(got.phase, scan.phase) < 0.51 * STEP[writer.split("_")[0]]
    step = 1 if writer.startswith("siemens") else 2
    assert np.abs(got.magnitude - scan.magnitude).max() < 0.51 * step


@pytest.mark.parametrize("components", ["MRI", "RI", "MP", "MPRI"])
@pytest.mark.parametrize("chopper", [False, True])
def test_ge_is_conjugated_and_the_chopper_removed(dicom_sets, tmp_path, components, chopper):
    scan = dicom_sets.scan(seed=4)
    source = load(dicom_sets.write(dicom_sets.ge(scan, components, chopper), tmp_path))
    assert ("alternation removed" in source.convention) == chopper
    assert apart(source.acquisition.phase, scan.phase) < (1.5 / scan.magnitude.min() if "R" in components else 0.6e-3)
    assert np.abs(source.acquisition.magnitude - scan.magnitude).max() < 1


def test_ge_phase_in_4096ths_is_told_by_its_range(dicom_sets, tmp_path):
    scan = dicom_sets.scan(seed=4)
    images = dicom_sets.ge(scan, "MP")
    for ds in images:
        if ds[0x0043, 0x102F].value == 1:
            stored = np.frombuffer(ds.PixelData, "<i2") * (4096 / np.pi / 1000)
            ds.PixelData = np.rint(stored).astype("<i2").tobytes()
    assert apart(load(dicom_sets.write(images, tmp_path)).acquisition.phase, scan.phase) < 2e-3


def test_philips_real_and_imaginary_have_the_sign_of_its_phase(dicom_sets, tmp_path):
    scan = dicom_sets.scan(seed=5)
    got = load(dicom_sets.write(dicom_sets.philips(scan, "RI"), tmp_path)).acquisition
    assert apart(got.phase, scan.phase) < 3 / scan.magnitude.min()
    assert np.abs(got.magnitude - scan.magnitude).max() < 2


@pytest.mark.parametrize(("maker", "turn"), [("UIH", 8192.0), ("SIEMENS", 8192.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_sign_and_scale_as_the_site_states(dicom_sets, tmp_path, maker, turn, sign):
    scan = dicom_sets.scan(seed=6)
    images = dicom_sets.siemens(scan)
    for ds in images:
        ds.Manufacturer = maker
    paths = dicom_sets.write(images, tmp_path)
    source = load(paths, Site(scanners=(Stated(maker.lower(), sign, turn),)))
    assert apart(source.acquisition.phase, sign * scan.phase) < 0.51 * STEP["siemens"]
    assert "as the site states" in source.convention
    if maker == "UIH":
        assert code_of(paths) == "unverified-sign"
    else:
        assert "as the site states" not in load(paths).convention


@pytest.mark.parametrize("components", ["MP", "RI"])
def test_who_states_the_sign_of_ge_keeps_its_slices(dicom_sets, tmp_path, components):
    scan = dicom_sets.scan(seed=4)
    stated = Stated("GE", -1, 2000 * np.pi)
    source = load(dicom_sets.write(dicom_sets.ge(scan, components), tmp_path), Site(scanners=(stated,)))
    assert "alternation removed" in source.convention
    assert apart(source.acquisition.phase, scan.phase) < (1.5 / scan.magnitude.min() if components == "RI" else 1e-3)


def test_philips_magnitudes_that_are_displayed_in_different_units_are_refused(dicom_sets, tmp_path):
    images = dicom_sets.philips(dicom_sets.scan())
    for ds in images:
        ds.remove_private_tags()
    assert code_of(dicom_sets.write(images, tmp_path)) == "no-scaling"


@pytest.mark.parametrize("maker", ["Philips", "UIH"])
def test_unsigned_real_images_without_rescale_are_refused(dicom_sets, tmp_path, maker):
    images = dicom_sets.philips(dicom_sets.scan(), "RI")
    for ds in images:
        ds.Manufacturer, ds.ImageType = maker, ["ORIGINAL", "PRIMARY", ds.ImageType[3], ds.ImageType[3], "FFE"]
        del ds.RescaleSlope, ds.RescaleIntercept
    with pytest.raises(Refused) as refused:
        load(dicom_sets.write(images, tmp_path), Site(scanners=(Stated("UIH", 1, 8192.0),)))
    assert refused.value.refusal.code == "no-scaling"


def test_the_newest_of_two_scans_is_loaded_and_said_so(dicom_sets, tmp_path):
    first = dicom_sets.siemens(dicom_sets.scan(seed=1))
    second = dicom_sets.repeated(dicom_sets.siemens(dicom_sets.scan(seed=2)), 10)
    for ds in second:
        ds.AcquisitionTime = "121500"
    source = load(dicom_sets.write(first + second, tmp_path))
    assert apart(source.acquisition.phase, dicom_sets.scan(seed=2).phase) < 0.51 * STEP["siemens"]
    assert "the newest of 2 scans of this protocol that came together" in source.warnings


@pytest.mark.parametrize("writer", ["siemens", "siemens_xa", "ge", "philips", "philips_enhanced"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_the_transfer_syntax_makes_no_difference(dicom_sets, tmp_path, writer, syntax):
    images = images_of(dicom_sets, writer, dicom_sets.scan())
    straight = load(dicom_sets.write(images, tmp_path / "straight")).acquisition
    for ds in images:
        if not syntax.is_little_endian:
            ds["PixelData"].VR = "OW"
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
        ds.file_meta.TransferSyntaxUID = syntax
    got = load(dicom_sets.write(images, tmp_path / "other")).acquisition
    np.testing.assert_array_equal(got.magnitude, straight.magnitude)
    np.testing.assert_array_equal(got.phase, straight.phase)


def test_siemens_phase_without_rescale_tags(dicom_sets, tmp_path):
    scan = dicom_sets.scan()
    got = load(dicom_sets.write(dicom_sets.siemens(scan, tags=False), tmp_path)).acquisition
    assert apart(got.phase, scan.phase) < 0.51 * STEP["siemens"]


@pytest.fixture(scope="module", params=["siemens", "ge"])
def sent(request, dicom_sets, tmp_path_factory):
    """Files of a scan in order, and what they load to."""
    images = getattr(dicom_sets, request.param)(dicom_sets.scan(shape=(5, 4, 16)))
    paths = dicom_sets.write(images, tmp_path_factory.mktemp(request.param))
    return paths, load(paths)


@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_order_names_and_copies_of_files_make_no_difference(sent, tmp_path_factory, data):
    paths, straight = sent
    order = data.draw(st.permutations(paths)) + data.draw(st.lists(st.sampled_from(paths), max_size=5))
    folder = tmp_path_factory.mktemp("mixed")
    mixed = load([shutil.copyfile(path, folder / f"{number:03d}") for number, path in enumerate(order)])
    assert np.array_equal(mixed.acquisition.phase, straight.acquisition.phase)
    assert np.array_equal(mixed.acquisition.magnitude, straight.acquisition.magnitude)
    assert np.array_equal(mixed.acquisition.geometry.affine_mm, straight.acquisition.geometry.affine_mm)
    assert mixed.images == straight.images


def test_every_slice_names_its_images(dicom_sets, tmp_path):
    images = dicom_sets.siemens(dicom_sets.scan())
    source = load(dicom_sets.write(images, tmp_path))
    named = [[image.sop_instance_uid for image in of_slice] for of_slice in source.images]
    assert [len(of_slice) for of_slice in named] == [4] * 16
    assert {uid for of_slice in named for uid in of_slice} == {ds.SOPInstanceUID for ds in images}
    position = {ds.SOPInstanceUID: tuple(ds.ImagePositionPatient) for ds in images}
    assert all(len({position[uid] for uid in of_slice}) == 1 for of_slice in named)
    for template, of_slice in zip(source.templates[0], named, strict=True):
        assert tuple(template.ImagePositionPatient) == position[of_slice[0]]
        assert "PixelData" not in template


def test_frames_of_an_enhanced_object_are_named_by_number(dicom_sets, tmp_path):
    source = load(dicom_sets.write([dicom_sets.philips_enhanced(dicom_sets.scan())], tmp_path))
    numbers = sorted(image.frame_number for of_slice in source.images for image in of_slice)
    assert numbers == list(range(1, 65))


@pytest.mark.parametrize("factor", [0.3, 0.5])
def test_phase_that_does_not_fill_its_range_is_refused(dicom_sets, tmp_path, factor):
    images = dicom_sets.philips(dicom_sets.scan())
    for ds in images:
        if ds.ImageType[3] == "P":
            stored = (np.frombuffer(ds.PixelData, "<u2") - 2047.5) * factor + 2047.5
            ds.PixelData = stored.astype("<u2").tobytes()
    assert code_of(dicom_sets.write(images, tmp_path)) == "suspect-phase"


def test_phase_beyond_a_turn_is_refused(dicom_sets, tmp_path):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        if "RescaleSlope" in ds:
            ds.RescaleSlope, ds.RescaleIntercept = "4", "-8192"
    assert code_of(dicom_sets.write(images, tmp_path)) == "suspect-phase"


@pytest.mark.parametrize("writer", ["siemens", "philips_enhanced", "ge"])
def test_filtered_phase_is_refused_by_its_pixels(dicom_sets, tmp_path, writer):
    """Headers say nothing: ORIGINAL, the usual components, and some voxel fills the range."""
    scan = dicom_sets.scan(seed=6, shape=(48, 40, 16))
    phase = np.stack([homodyne(scan, Homodyne(32, te_s))[0] for te_s in scan.te_s])
    phase[:, 0, 0, :2] = np.pi * np.array([-0.999, 0.999])
    paths = dicom_sets.write(images_of(dicom_sets, writer, replace(scan, phase=phase)), tmp_path)
    with pytest.raises(Refused, match=r"^filtered-phase: .* 10\.1 ms, .* 0\.0\d\d rad, .* 0\.0\d\d or more"):
        load(paths)


def test_a_chopper_that_is_neither_there_nor_not_is_refused(dicom_sets, tmp_path):
    images = dicom_sets.ge(dicom_sets.scan(), "RI", chopper=False)
    heights = sorted({float(ds.ImagePositionPatient[2]) for ds in images})
    for ds in images:  # the upper half alternates
        if heights.index(float(ds.ImagePositionPatient[2])) in {9, 11, 13, 15}:
            ds.PixelData = (-np.frombuffer(ds.PixelData, "<i2")).astype("<i2").tobytes()
    assert code_of(dicom_sets.write(images, tmp_path)) == "ambiguous-chopper"


@pytest.mark.parametrize(
    ("frequency", "field", "expected"),
    [
        ("123.25", "3", 123.25),
        ("123250000", "3", 123.25),
        ("123.25", "", 123.25),
        ("", "3", 127.732),
        ("", "30000", 127.732),
    ],
)
def test_frequency_in_mhz_hz_or_from_the_field(dicom_sets, frequency, field, expected):
    ds = dicom_sets.siemens(dicom_sets.scan())[0]
    ds.ImagingFrequency, ds.MagneticFieldStrength = frequency, field
    assert imaging_frequency_mhz(ds) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("frequency", "field", "code"), [("33.8", "3", "frequency-mismatch"), ("", "", "no-frequency")]
)
def test_impossible_frequencies_are_refused(dicom_sets, tmp_path, frequency, field, code):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.ImagingFrequency, ds.MagneticFieldStrength = frequency, field
    assert code_of(dicom_sets.write(images, tmp_path)) == code


def test_what_is_not_whole_is_refused_with_the_reason(dicom_sets, tmp_path):
    paths = dicom_sets.write(dicom_sets.siemens(dicom_sets.scan()), tmp_path)
    assert code_of(paths[:-1]) == "incomplete"
    assert code_of([]) == "no-phase"


def test_two_acquisitions_at_once_are_refused(dicom_sets, tmp_path):
    both = dicom_sets.ge(dicom_sets.scan()) + dicom_sets.philips(dicom_sets.scan())
    assert code_of(dicom_sets.write(both, tmp_path)) == "mixed-acquisitions"


@pytest.mark.parametrize("kept_bytes", [0, 100, 700, -40])
def test_damaged_files_are_unreadable(dicom_sets, tmp_path, kept_bytes):
    paths = dicom_sets.write(dicom_sets.siemens(dicom_sets.scan()), tmp_path)
    paths[3].write_bytes(paths[3].read_bytes()[:kept_bytes])
    with pytest.raises(Unreadable):
        load(paths)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_a_file_that_ends_anywhere_is_unreadable_or_lacks_pixels(dicom_sets, tmp_path, syntax):
    """Where it is cut in the length of an element, pydicom raises `struct.error`."""
    ds = dicom_sets.siemens(dicom_sets.scan())[0]
    ds.file_meta.TransferSyntaxUID = syntax
    (path,) = dicom_sets.write([ds], tmp_path)
    whole = path.read_bytes()
    told = set()
    for kept_bytes in range(132, len(whole) - 16):  # the end of a deflated one holds no pixels
        path.write_bytes(whole[:kept_bytes])
        try:
            assert len(read_dataset(path).get("PixelData") or b"") < len(ds.PixelData)
        except Unreadable as why:
            told.add(str(why))
    assert told
    assert all(path.name in sentence for sentence in told)


def test_warnings_tell_what_happened_to_the_phase_before(dicom_sets, tmp_path):
    images = dicom_sets.siemens_xa(dicom_sets.scan())
    for ds in images:
        ds.AcquisitionMatrix = [0, 3, 3, 0]
    warnings = " ".join(load(dicom_sets.write(images, tmp_path)).warnings)
    assert "DIS2D" in warnings
    assert "zero-filled from 3x3 to 6x7" in warnings


def test_files_may_go_after_loading(dicom_sets, tmp_path):
    images = dicom_sets.siemens(dicom_sets.scan())
    for ds in images:
        ds.PatientComments = "c" * 10240
    source = load(dicom_sets.write(images, tmp_path / "in"))
    shutil.rmtree(tmp_path / "in")
    assert source.templates[1][3].EchoTime == 10.1
    assert source.templates[1][3].PatientComments == "c" * 10240


def test_loading_holds_no_second_copy(dicom_sets, tmp_path):
    scan = dicom_sets.scan(shape=(192, 160, 16), echoes=8)
    paths = dicom_sets.write([dicom_sets.philips_enhanced(scan)], tmp_path)
    tracemalloc.start()
    acquisition = load(paths).acquisition
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * (acquisition.magnitude.nbytes + acquisition.phase.nbytes)
