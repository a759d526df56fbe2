"""A phantom as five vendors' DICOM: it loads back to what `as_stored` says, and every file is its vendor's."""

from __future__ import annotations

import subprocess
import sysconfig
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from node.assemble import acquisition_key, judge
from node.derive import write_derived
from node.headers import read_header
from node.load import load
from phantoms.anatomy import head
from phantoms.lesions import Lesion
from phantoms.scanner import Vendor, as_stored, philips, siemens, write_dicom
from phantoms.scanner.pixels import PhaseCode
from phantoms.simulate import SMALL_PROTOCOL, Phantom, simulate
from recon.pipeline import reconstruct
from recon.recipe import Recipe

TOOLS = Path(sysconfig.get_path("scripts"))
AXIAL = replace(SMALL_PROTOCOL, shape=(40, 38, 20), voxel_mm=(5.2, 5.4, 7.2), te_s=(0.0057, 0.0124))
PROTOCOLS = {"axial": AXIAL, "oblique": replace(AXIAL, b0_dir=(0.1, -0.25, 0.963))}
LESIONS = (
    Lesion("hemorrhage", 0.8, (-30.0, -30.0, 20.0), (12.0, 9.0, 10.0)),
    Lesion("calcification", -1.1, (31.0, 40.0, 22.0), (10.0, 10.0, 9.0)),
)
RESCALE = ("RescaleIntercept(0028,1052)", "RescaleSlope(0028,1053)", "RescaleType(0028,1054)")
# What the vendor's own files have too and dciodvfy warns about: values of ImageType, FrameType, ScanOptions and
# CoverageOfKSpace that are no defined terms, and a rescale outside the MR Image IOD.
OWN = {
    Vendor.SIEMENS: ("ImageType(0008,0008)", *RESCALE),
    Vendor.GE: ("ScanOptions(0018,0022)",),
    Vendor.PHILIPS: ("ImageType(0008,0008)", *RESCALE),
    Vendor.PHILIPS_ENHANCED: ("FrameType(0008,9007)", "CoverageOfKSpace(0018,9094)"),
    Vendor.SIEMENS_XA: ("ImageType(0008,0008)", *RESCALE),
}
every_vendor = pytest.mark.parametrize("vendor", Vendor)
both_ways = pytest.mark.parametrize("tilt", PROTOCOLS)


@pytest.fixture(scope="module")
def scanned() -> Callable[[str], Phantom]:
    """The head, scanned axial or oblique."""
    return cache(lambda tilt: simulate(head(2, LESIONS), PROTOCOLS[tilt], seed=3))


@pytest.fixture(scope="module")
def written(scanned: Callable[[str], Phantom], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """``written(vendor)`` are the files of the oblique scan."""
    return cache(
        lambda vendor, tilt="oblique": write_dicom(scanned(tilt), tmp_path_factory.mktemp(f"{vendor}-{tilt}"), vendor)
    )


@pytest.fixture(scope="module")
def phantom(scanned: Callable[[str], Phantom]) -> Phantom:
    return scanned("oblique")


@pytest.fixture(scope="module")
def tiny() -> Phantom:
    return simulate(head(1), replace(AXIAL, shape=(16, 16, 8), voxel_mm=(13.0, 13.0, 20.0)), 1)


def headers(paths: list[Path]) -> list[Dataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]


def run(tool: str, *arguments: object) -> list[str]:
    """Lines of a checker of dicom3tools, standard error included; its exit status says nothing."""
    done = subprocess.run(
        [TOOLS / tool, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    return (done.stdout + done.stderr).splitlines()


def on_circle(angle: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.angle(np.exp(1j * angle.astype(np.float64)))


# ------------------------------------------------------------------------------------------------ what is read back


@every_vendor
@both_ways
def test_files_load_to_what_as_stored_says_bit_for_bit(
    scanned: Callable[[str], Phantom], written: Callable[..., list[Path]], vendor: Vendor, tilt: str
) -> None:
    got, said = load(written(vendor, tilt)).acquisition, as_stored(scanned(tilt), vendor)
    np.testing.assert_array_equal(got.magnitude, said.magnitude)
    np.testing.assert_array_equal(got.phase, said.phase)
    assert (got.te_s, got.f0_mhz, got.geometry.shape) == (said.te_s, said.f0_mhz, said.geometry.shape)
    np.testing.assert_array_equal(got.geometry.affine_mm, said.geometry.affine_mm)


@every_vendor
@both_ways
def test_what_is_stored_is_the_phantom_within_a_quantisation_step(
    scanned: Callable[[str], Phantom], vendor: Vendor, tilt: str
) -> None:
    """Half a step: of R and of I for GE, of magnitude and of phase for the others."""
    truth, said = scanned(tilt).acquisition, as_stored(scanned(tilt), vendor)
    largest = {Vendor.GE: 8191, Vendor.SIEMENS: 4095, Vendor.SIEMENS_XA: 4095}.get(vendor)
    gain = largest / truth.magnitude.max() if largest else 1.0
    step = gain * truth.magnitude.max() / (largest or 4095)
    if vendor is Vendor.GE:
        difference = said.magnitude * np.exp(1j * said.phase) - gain * truth.magnitude * np.exp(1j * truth.phase)
        assert np.abs(difference).max() < 0.501 * np.sqrt(2) * step
    else:
        turn = 4095 if vendor in {Vendor.PHILIPS, Vendor.PHILIPS_ENHANCED} else 4096
        assert np.abs(on_circle(said.phase - truth.phase)).max() < 0.501 * 2 * np.pi / turn
        assert np.abs(said.magnitude - gain * truth.magnitude).max() < 0.501 * step
    assert said.te_s == pytest.approx(truth.te_s, abs=1e-12)
    assert said.f0_mhz == pytest.approx(truth.f0_mhz, abs=5e-7)  # to the Hz
    np.testing.assert_allclose(said.geometry.affine_mm, truth.geometry.affine_mm, atol=1e-9)
    np.testing.assert_allclose(said.geometry.b0_dir, truth.geometry.b0_dir, atol=1e-9)


@every_vendor
def test_nothing_lacks_and_counts_are_announced_where_the_vendor_does(
    written: Callable[..., list[Path]], vendor: Vendor
) -> None:
    found = [read_header(ds) for ds in headers(written(vendor))]
    assert len({acquisition_key(header) for header in found}) == 1
    verdict = judge(found)
    silent_on_slices = vendor in {Vendor.SIEMENS, Vendor.SIEMENS_XA}
    assert verdict.state == ("whole" if silent_on_slices else "announced")
    assert (verdict.echoes, verdict.slices) == (2, 20)
    assert {header.announced_echoes for header in found} == {2}


@every_vendor
def test_lesions_keep_their_sign_from_files_to_files(
    phantom: Phantom, written: Callable[..., list[Path]], tmp_path: Path, vendor: Vendor
) -> None:
    source = load(written(vendor))
    result = reconstruct(source.acquisition, Recipe(), mask=phantom.brain)
    chi_ppb = np.zeros(phantom.chi_ppm.shape)
    to_index = np.linalg.inv(phantom.acquisition.geometry.affine_mm)
    for item in write_derived(source, result, tmp_path, datetime(2026, 1, 1, tzinfo=UTC)):
        ds = pydicom.dcmread(item.path)
        if item.series == "qsm":
            chi_ppb[:, :, round((to_index @ [*map(float, ds.ImagePositionPatient), 1])[2])] = ds.pixel_array.T
    bleed, stone = (np.mean(chi_ppb[lesion.mask]) for lesion in phantom.lesions)
    assert bleed > 300
    assert stone < -300


# ------------------------------------------------------------------------------------------------ all vendors


@every_vendor
def test_objects_are_those_of_one_fictional_patient(written: Callable[..., list[Path]], vendor: Vendor) -> None:
    found = headers(written(vendor))
    assert len(found) == {Vendor.GE: 3 * 2 * 20, Vendor.PHILIPS_ENHANCED: 1}.get(vendor, 2 * 2 * 20)
    assert len({ds.SOPInstanceUID for ds in found}) == len(found)
    assert len({(ds.StudyInstanceUID, ds.FrameOfReferenceUID) for ds in found}) == 1
    for ds in found:
        assert (ds.PatientName, "phantom" in ds.ImageComments) == ("QSM^PHANTOM", True)
        assert ds.SOPInstanceUID.startswith("2.25.")
        assert "mgre" in ds.SeriesDescription.lower()
    order = [(ds.SeriesNumber, ds.InstanceNumber) for ds in found]
    assert order == sorted(order)


@every_vendor
def test_dciodvfy_finds_nothing_but_what_the_vendor_writes(
    written: Callable[..., list[Path]], vendor: Vendor
) -> None:
    paths = written(vendor)
    for path in {paths[0], paths[len(paths) // 2 - 1], paths[len(paths) // 2], paths[-1]}:
        lines = [line for line in run("dciodvfy", "-new", path) if line.strip()]
        assert lines[0] == ("EnhancedMRImage" if vendor is Vendor.PHILIPS_ENHANCED else "MRImage")
        complaints = [line for line in lines[1:] if not any(tag in line for tag in OWN[vendor])]
        assert complaints == []
        assert not [line for line in lines if line.startswith("Error")]


@every_vendor
def test_dcentvfy_finds_one_consistent_study(written: Callable[..., list[Path]], vendor: Vendor) -> None:
    assert run("dcentvfy", *written(vendor)) == []


def test_the_checkers_do_complain(written: Callable[..., list[Path]], tmp_path: Path) -> None:
    first, second, *_ = written(Vendor.SIEMENS)
    broken = pydicom.dcmread(first)
    del broken.PatientPosition
    broken.PatientName = "OTHER^NAME"
    broken.save_as(tmp_path / "broken.dcm")
    assert any(line.startswith("Error") for line in run("dciodvfy", "-new", tmp_path / "broken.dcm"))
    assert run("dcentvfy", second, tmp_path / "broken.dcm") != []


@every_vendor
def test_equal_phantoms_give_equal_bytes_and_others_other_uids(tiny: Phantom, tmp_path: Path, vendor: Vendor) -> None:
    once, again = (write_dicom(tiny, tmp_path / name, vendor) for name in ("once", "again"))
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    acquisition = replace(tiny.acquisition, magnitude=tiny.acquisition.magnitude[:, ::-1].copy())
    changed = write_dicom(replace(tiny, acquisition=acquisition), tmp_path / "changed", vendor)
    uids = [{ds.SOPInstanceUID for ds in headers(paths)} for paths in (once, changed)]
    assert not uids[0] & uids[1]


def test_vendors_share_no_identifier(written: Callable[..., list[Path]]) -> None:
    found = [ds for vendor in Vendor for ds in headers(written(vendor))]
    assert len({ds.SOPInstanceUID for ds in found}) == len(found)
    assert len({ds.StudyInstanceUID for ds in found}) == len(Vendor)


# ------------------------------------------------------------------------------------------------ each vendor


@pytest.mark.parametrize(
    ("vendor", "expected"),
    [
        (Vendor.SIEMENS, {(r"M\ND", "", "", ""): 1, (r"P\ND", "2", "-4096", "US"): 1}),
        (
            Vendor.SIEMENS_XA,
            {(r"M\DIS2D\MFSPLIT", "1", "0", ""): 2, (r"P\DIS2D\MFSPLIT", "2", "-4096", ""): 2},
        ),
        (Vendor.GE, {("OTHER", "", "", ""): 1}),
        (
            Vendor.PHILIPS,
            {
                (r"M_FFE\M\FFE", "1.28205128205128", "0", "normalized"): 1,
                (r"PHASE MAP\P\FFE", "1.53455433455433", "-3142", "mrad"): 1,
            },
        ),
    ],
)
def test_series_image_type_and_rescale_are_the_vendors(
    written: Callable[..., list[Path]], vendor: Vendor, expected: dict[tuple[str, ...], int]
) -> None:
    series, kinds = set(), defaultdict(set)
    for ds in headers(written(vendor)):
        series.add(ds.SeriesInstanceUID)
        rescale = (str(ds.get(f"Rescale{name}", "")) for name in ("Slope", "Intercept", "Type"))
        assert ds.ImageType[:2] == ["ORIGINAL", "PRIMARY"]
        kinds["\\".join(ds.ImageType[2:]), *rescale].add(ds.SeriesInstanceUID)
    assert {kind: len(uids) for kind, uids in kinds.items()} == expected
    assert len(series) == (1 if vendor is Vendor.PHILIPS else sum(expected.values()))


def test_siemens_pixels_and_positions(phantom: Phantom, written: Callable[..., list[Path]]) -> None:
    """Decoded by the rules of the vendor alone: phase (2 v - 4096) pi / 4096, rows are y, columns are x."""
    acquisition = phantom.acquisition
    affine = acquisition.geometry.affine_mm
    gain = 4095 / acquisition.magnitude.max()
    paths = written(Vendor.SIEMENS)
    for path in paths[:: len(paths) // 24]:
        image = pydicom.dcmread(path)
        echo = int(image.EchoNumbers) - 1
        row, column = (np.array(image.ImageOrientationPatient[i : i + 3], dtype=float) for i in (0, 3))
        normal = np.cross(row, column)
        position = np.array(image.ImagePositionPatient, dtype=float)
        z = float((position - affine[:3, 3]) @ normal) / float(image.SpacingBetweenSlices)
        assert z == pytest.approx(round(z), abs=1e-4)
        stored = image.pixel_array.astype(float)
        if image.ImageType[2] == "P":
            value = (stored * float(image.RescaleSlope) + float(image.RescaleIntercept)) * np.pi / 4096
            assert abs(on_circle(value.T - acquisition.phase[echo, :, :, round(z)])).max() < np.pi / 4096 * 1.01
        else:
            assert abs(stored.T - acquisition.magnitude[echo, :, :, round(z)] * gain).max() <= 0.51
        spacing = np.array(image.PixelSpacing, dtype=float)
        point = position + row * spacing[1] * 7 + column * spacing[0] * 5
        np.testing.assert_allclose(point, (affine @ [7, 5, round(z), 1])[:3], atol=1e-3)
        assert (image.EchoTrainLength, image.SequenceName) == (2, "*fl3d2r")
        assert float(image.EchoTime) == pytest.approx(1000 * acquisition.te_s[echo])


def test_siemens_xa_has_a_series_for_each_echo_and_no_echo_numbers(written: Callable[..., list[Path]]) -> None:
    numbers = defaultdict(set)
    for ds in headers(written(Vendor.SIEMENS_XA)):
        assert "EchoNumbers" not in ds
        assert (0x0051, 0x100F) not in ds
        assert ds[0x0021, 0x114F].value == "HC1-7;NC1"
        assert ds[0x0021, 0x1106].value.startswith(f"X_{ds.SeriesNumber % 1000}_")
        numbers[ds.ImageType[2], float(ds.EchoTime)].add(int(ds.SeriesNumber))
    assert numbers == {("M", 5.7): {9001}, ("M", 12.4): {9002}, ("P", 5.7): {10001}, ("P", 12.4): {10002}}


def test_ge_stores_the_conjugate_and_negates_every_second_slice(
    phantom: Phantom, written: Callable[..., list[Path]]
) -> None:
    acquisition = phantom.acquisition
    gain = 8191 / acquisition.magnitude.max()
    images = [pydicom.dcmread(path) for path in written(Vendor.GE)]
    assert [ds[0x0043, 0x102F].value for ds in images] == [0, 2, 3] * 40
    assert [ds.EchoNumbers for ds in images] == [1, 1, 1, 2, 2, 2] * 20
    for number in range(0, 40, 7):
        z, echo = divmod(number, 2)
        magnitude, real, imaginary = (ds.pixel_array.T.astype(float) for ds in images[3 * number : 3 * number + 3])
        signal = acquisition.magnitude[echo, :, :, z] * np.exp(1j * acquisition.phase[echo, :, :, z])
        stored = real + 1j * imaginary
        assert np.abs(stored - (-1) ** z * gain * np.conj(signal)).max() < 0.71
        assert np.abs(np.abs(stored) - magnitude).max() < 1.21
    ds = images[0]
    assert ds.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert (ds.BitsStored, ds.PixelRepresentation, ds.EchoTrainLength, ds.ScanningSequence) == (16, 1, 1, "RM")
    assert (ds[0x0019, 0x107E].value, ds[0x0021, 0x104F].value, ds[0x0019, 0x109C].value) == (2, 20, "efgre3d")


def test_philips_precise_values_are_the_phantoms(phantom: Phantom, written: Callable[..., list[Path]]) -> None:
    """Order M then P, slices rising, echoes in a slice; precise value = stored / scale slope."""
    acquisition = phantom.acquisition
    images = [pydicom.dcmread(path) for path in written(Vendor.PHILIPS)]
    assert [ds[0x2005, 0x1011].value for ds in images] == ["M"] * 40 + ["P"] * 40
    assert [ds.EchoNumbers for ds in images] == [1, 2] * 40
    assert max(ds.pixel_array.max() for ds in images[40:]) <= 4094
    for ds in images[::11]:
        (mapping,) = ds.RealWorldValueMappingSequence
        assert mapping.RealWorldValueSlope == float(ds.RescaleSlope)
        assert mapping.RealWorldValueIntercept == float(ds.RescaleIntercept)
        unit = "mrad" if ds.ImageType[3] == "P" else "1"
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
        assert (ds[0x2001, 0x1014].value, ds[0x2001, 0x1018].value) == (2, 20)
    number = 2 * 17 + 1
    value = images[number].pixel_array.T / images[number][0x2005, 0x100E].value
    assert np.abs(value - acquisition.magnitude[1, :, :, 17]).max() < 0.51 * acquisition.magnitude.max() / 4095
    mrad = images[40 + number].pixel_array.T * 1.53455433455433 - 3142
    assert np.abs(on_circle(mrad / 1000 - acquisition.phase[1, :, :, 17])).max() < 0.51 * 1.5346e-3


def test_philips_enhanced_says_per_frame_what_each_holds(
    phantom: Phantom, written: Callable[..., list[Path]]
) -> None:
    (path,) = written(Vendor.PHILIPS_ENHANCED)
    ds = pydicom.dcmread(path)
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "T1", "MIXED"]
    assert ds.ComplexImageComponent == "MIXED"
    assert not {"EchoTime", "ImagingFrequency", "ScanningSequence", "ImagePositionPatient"} & set(ds.dir())
    assert ds.pixel_array.shape == (80, 38, 40)
    classic = [pydicom.dcmread(path) for path in written(Vendor.PHILIPS)]
    frames = ds.PerFrameFunctionalGroupsSequence
    half = phantom.acquisition.geometry.affine_mm[:3, :2].sum(axis=1) / 2
    for frame, image, stored in list(zip(frames, classic, ds.pixel_array, strict=True))[::7]:
        component = image.ImageType[3]
        kind, transformation = frame.MRImageFrameTypeSequence[0], frame.PixelValueTransformationSequence[0]
        assert list(kind.FrameType) == ["ORIGINAL", "PRIMARY", "T1", component]
        assert kind.ComplexImageComponent == {"M": "MAGNITUDE", "P": "PHASE"}[component]
        assert frame.MREchoSequence[0].EffectiveEchoTime == float(image.EchoTime)
        assert transformation.RescaleType == "US"
        assert transformation.RescaleSlope == image.RescaleSlope
        assert frame.RealWorldValueMappingSequence == image.RealWorldValueMappingSequence
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
        private = frame[0x2005, 0x140F].value[0]
        shift = np.array(image.ImagePositionPatient, float) - np.array(private.ImagePositionPatient, float)
        np.testing.assert_allclose(shift, half, atol=1e-6)
        np.testing.assert_array_equal(stored, image.pixel_array)


@pytest.mark.parametrize("code", [siemens.PHASE, philips.PHASE])
@given(phase=st.floats(-10, 10, width=32))
def test_stored_phase_is_the_nearest_step_of_the_circle(code: PhaseCode, phase: float) -> None:
    stored = code.encode(np.full((1, 1), phase, np.float32))
    assert 0 <= stored[0, 0] < code.turn
    assert abs(on_circle(code.decode(stored) - phase)[0, 0]) < 0.501 * 2 * np.pi / code.turn


def test_siemens_phase_covers_the_circle() -> None:
    phase = np.array([[-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi]], dtype=np.float32)
    assert siemens.PHASE.encode(phase).tolist() == [[0, 1024, 2048, 3072, 0]]
