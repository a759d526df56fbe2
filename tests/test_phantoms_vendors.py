"""Each vendor's files of a phantom: valid, marked, reproducible, and in that vendor's own dialect.

The dialects are written out once more, from their description; nothing here is read by the loader.
"""

from __future__ import annotations

import subprocess
import sysconfig
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from phantoms.anatomy import head
from phantoms.protocol import Protocol
from phantoms.scanner import Vendor, write_dicom
from phantoms.simulate import Phantom, simulate

TOOLS = Path(sysconfig.get_path("scripts"))
OBLIQUE = Protocol(
    (18, 16, 8), (12.0, 13.0, 20.0), te_s=(0.0057, 0.0124), tr_s=0.05, flip_deg=20.0, b0_dir=(0.1, -0.25, 0.963)
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
    Vendor.SIEMENS_XA_ENHANCED: ("ImageType(0008,0008)", "FrameType(0008,9007)"),
    Vendor.GE_PHASE: ("ScanOptions(0018,0022)",),
    Vendor.PHILIPS_COMPLEX: ("ImageType(0008,0008)", *RESCALE),
}
ENHANCED = {Vendor.PHILIPS_ENHANCED, Vendor.SIEMENS_XA_ENHANCED}
every_vendor = pytest.mark.parametrize("vendor", Vendor)

Written = Callable[[Vendor], list[Path]]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate(head(1), OBLIQUE, 1)


@pytest.fixture(scope="module")
def written(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return cache(lambda vendor: write_dicom(phantom, tmp_path_factory.mktemp(vendor), vendor))


def headers(paths: list[Path]) -> list[Dataset]:
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]


def run(tool: str, *arguments: object) -> list[str]:
    """Lines of a tool, standard error included; the exit status of dicom3tools says nothing."""
    done = subprocess.run(
        [TOOLS / tool, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    return (done.stdout + done.stderr).splitlines()


def on_circle(angle: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.angle(np.exp(1j * angle.astype(np.float64)))


@every_vendor
def test_objects_are_those_of_one_fictional_patient(written: Written, vendor: Vendor) -> None:
    found = headers(written(vendor))
    assert len(found) == {Vendor.GE: 3 * 2 * 8, Vendor.PHILIPS_ENHANCED: 1, Vendor.SIEMENS_XA_ENHANCED: 4}.get(
        vendor, 2 * 2 * 8
    )
    assert len({ds.SOPInstanceUID for ds in found}) == len(found)
    assert len({(ds.StudyInstanceUID, ds.FrameOfReferenceUID) for ds in found}) == 1
    for ds in found:
        assert (ds.PatientName, "phantom" in ds.ImageComments) == ("QSM^PHANTOM", True)
        assert ds.SOPInstanceUID.startswith("2.25.")
        assert "mgre" in ds.SeriesDescription.lower()
    order = [(ds.SeriesNumber, ds.InstanceNumber) for ds in found]
    assert order == sorted(order)


@every_vendor
def test_dciodvfy_finds_nothing_but_what_the_vendor_writes(written: Written, vendor: Vendor) -> None:
    paths = written(vendor)
    for path in {paths[0], paths[len(paths) // 2 - 1], paths[len(paths) // 2], paths[-1]}:
        lines = [line for line in run("dciodvfy", "-new", path) if line.strip()]
        assert lines[0] == ("EnhancedMRImage" if vendor in ENHANCED else "MRImage")
        complaints = [line for line in lines[1:] if not any(tag in line for tag in OWN[vendor])]
        assert complaints == []
        assert not [line for line in lines if line.startswith("Error")]


@every_vendor
def test_another_reader_takes_them_for_the_vendors_echoes_and_components(
    written: Written, tmp_path: Path, vendor: Vendor
) -> None:
    """dcm2niix, whose rules for vendors are its own, names each image by echo and component."""
    run("dcm2niix", "-o", tmp_path, "-f", "%e", written(vendor)[0].parents[vendor.startswith("siemens")])
    parts = {Vendor.GE: {"", "_real", "_imaginary"}, Vendor.PHILIPS_COMPLEX: {"_real", "_imaginary"}}.get(
        vendor, {"", "_ph"}
    )
    found = {path.stem for path in tmp_path.glob("*.nii")}
    assert found == {f"{echo}{part}" for echo in (1, 2) for part in parts}


@every_vendor
def test_dcentvfy_finds_one_consistent_study(written: Written, vendor: Vendor) -> None:
    assert run("dcentvfy", *written(vendor)) == []


def test_the_checkers_do_complain(written: Written, tmp_path: Path) -> None:
    first, second, *_ = written(Vendor.SIEMENS)
    broken = pydicom.dcmread(first)
    del broken.PatientPosition
    broken.PatientName = "OTHER^NAME"
    broken.save_as(tmp_path / "broken.dcm")
    assert any(line.startswith("Error") for line in run("dciodvfy", "-new", tmp_path / "broken.dcm"))
    assert run("dcentvfy", second, tmp_path / "broken.dcm") != []


@every_vendor
def test_equal_phantoms_give_equal_bytes_and_others_other_uids(
    phantom: Phantom, written: Written, tmp_path: Path, vendor: Vendor
) -> None:
    again = write_dicom(phantom, tmp_path / "again", vendor)
    assert [path.read_bytes() for path in written(vendor)] == [path.read_bytes() for path in again]
    acquisition = replace(phantom.acquisition, magnitude=phantom.acquisition.magnitude[:, ::-1].copy())
    changed = write_dicom(replace(phantom, acquisition=acquisition), tmp_path / "changed", vendor)
    uids = [{ds.SOPInstanceUID for ds in headers(paths)} for paths in (written(vendor), changed)]
    assert not uids[0] & uids[1]


def test_vendors_share_no_identifier(written: Written) -> None:
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
        (Vendor.GE_PHASE, {("OTHER", "", "", ""): 1}),
        (
            Vendor.PHILIPS,
            {
                (r"M_FFE\M\FFE", "1.28205128205128", "0", "normalized"): 1,
                (r"PHASE MAP\P\FFE", "1.53455433455433", "-3142", "mrad"): 1,
            },
        ),
        (
            Vendor.PHILIPS_COMPLEX,
            {
                (r"R_FFE\R\FFE", "1.28205128205128", "-2625.6410256410", "normalized"): 1,
                (r"I_FFE\I\FFE", "1.28205128205128", "-2625.6410256410", "normalized"): 1,
            },
        ),
    ],
)
def test_series_image_type_and_rescale_are_the_vendors(
    written: Written, vendor: Vendor, expected: dict[tuple[str, ...], int]
) -> None:
    series, kinds = set(), defaultdict(set)
    for ds in headers(written(vendor)):
        series.add(ds.SeriesInstanceUID)
        rescale = (str(ds.get(f"Rescale{name}", "")) for name in ("Slope", "Intercept", "Type"))
        assert ds.ImageType[:2] == ["ORIGINAL", "PRIMARY"]
        kinds["\\".join(ds.ImageType[2:]), *rescale].add(ds.SeriesInstanceUID)
    assert {kind: len(uids) for kind, uids in kinds.items()} == expected
    assert len(series) == (1 if vendor.startswith("philips") else sum(expected.values()))


def test_siemens_pixels_and_positions(phantom: Phantom, written: Written) -> None:
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


def test_siemens_xa_has_a_series_for_each_echo_and_no_echo_numbers(written: Written) -> None:
    numbers = defaultdict(set)
    for ds in headers(written(Vendor.SIEMENS_XA)):
        assert "EchoNumbers" not in ds
        assert (0x0051, 0x100F) not in ds
        assert ds[0x0021, 0x114F].value == "HC1-7;NC1"
        assert ds[0x0021, 0x1106].value.startswith(f"X_{ds.SeriesNumber % 1000}_")
        numbers[ds.ImageType[2], float(ds.EchoTime)].add(int(ds.SeriesNumber))
    assert numbers == {("M", 5.7): {9001}, ("M", 12.4): {9002}, ("P", 5.7): {10001}, ("P", 12.4): {10002}}


def test_siemens_xa_enhanced_is_an_object_for_each_echo_in_a_series_for_each_component(
    phantom: Phantom, written: Written
) -> None:
    objects = [pydicom.dcmread(path) for path in written(Vendor.SIEMENS_XA_ENHANCED)]
    classic = [pydicom.dcmread(path) for path in written(Vendor.SIEMENS)]
    assert [(ds.SeriesNumber, ds.InstanceNumber) for ds in objects] == [(9001, 1), (9001, 2), (9002, 1), (9002, 2)]
    assert [ds.ComplexImageComponent for ds in objects] == ["MAGNITUDE"] * 2 + ["PHASE"] * 2
    for number, ds in enumerate(objects):
        component, echo = ds.ImageType[2], number % 2
        assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", component, "NONE"]
        assert not {"EchoTime", "ImagingFrequency", "ScanningSequence", "ImagePositionPatient"} & set(ds.dir())
        np.testing.assert_array_equal(ds.pixel_array, [image.pixel_array for image in classic[8 * number :][:8]])
        for frame, position in zip(ds.PerFrameFunctionalGroupsSequence, classic[:8], strict=True):
            kind, transformation = frame.MRImageFrameTypeSequence[0], frame.PixelValueTransformationSequence[0]
            assert (list(kind.FrameType), kind.ComplexImageComponent) == (
                list(ds.ImageType),
                ds.ComplexImageComponent,
            )
            assert transformation.RescaleType == "US"
            rescale = (transformation.RescaleSlope, transformation.RescaleIntercept)
            assert rescale == ((2, -4096) if component == "P" else (1, 0))
            assert frame.MREchoSequence[0].EffectiveEchoTime == 1000 * phantom.acquisition.te_s[echo]
            assert frame.PlanePositionSequence[0].ImagePositionPatient == position.ImagePositionPatient
            assert "RealWorldValueMappingSequence" not in frame
            private = frame[0x0021, 0x11FE].value[0]
            assert private[0x0021, 0x1106].value.startswith(f"X_{echo + 1}_")
            assert list(private[0x0021, 0x1175].value) == ["ORIGINAL", "PRIMARY", component, "DIS2D"]


def test_ge_stores_the_conjugate_and_negates_every_second_slice(phantom: Phantom, written: Written) -> None:
    acquisition = phantom.acquisition
    gain = 8191 / acquisition.magnitude.max()
    images = [pydicom.dcmread(path) for path in written(Vendor.GE)]
    assert [ds[0x0043, 0x102F].value for ds in images] == [0, 2, 3] * 16
    assert [ds.EchoNumbers for ds in images] == [1, 1, 1, 2, 2, 2] * 8
    for number in range(0, 16, 3):
        z, echo = divmod(number, 2)
        magnitude, real, imaginary = (ds.pixel_array.T.astype(float) for ds in images[3 * number : 3 * number + 3])
        signal = acquisition.magnitude[echo, :, :, z] * np.exp(1j * acquisition.phase[echo, :, :, z])
        stored = real + 1j * imaginary
        assert np.abs(stored - (-1) ** z * gain * np.conj(signal)).max() < 0.71
        assert np.abs(np.abs(stored) - magnitude).max() < 1.21
    ds = images[0]
    assert ds.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert (ds.BitsStored, ds.PixelRepresentation, ds.EchoTrainLength, ds.ScanningSequence) == (16, 1, 1, "RM")
    assert (ds[0x0019, 0x107E].value, ds[0x0021, 0x104F].value, ds[0x0019, 0x109C].value) == (2, 8, "efgre3d")


def test_ge_phase_images_are_the_angle_of_the_complex_ones_in_mrad(written: Written) -> None:
    images = [pydicom.dcmread(path) for path in written(Vendor.GE_PHASE)]
    complexes = [pydicom.dcmread(path).pixel_array for path in written(Vendor.GE)]
    assert [ds[0x0043, 0x102F].value for ds in images] == [0, 1] * 16
    phases = np.array([ds.pixel_array for ds in images[1::2]])
    assert -3142 <= phases.min() < -3100
    assert 3100 < phases.max() <= 3142
    for number in range(16):
        magnitude, real, imaginary = (image.astype(float) for image in complexes[3 * number : 3 * number + 3])
        np.testing.assert_array_equal(images[2 * number].pixel_array, magnitude)
        strong = magnitude > 200  # there a step of R and I is at most 3.6 mrad
        apart = on_circle(phases[number] / 1000 - np.arctan2(imaginary, real))
        assert np.abs(apart[strong]).max() < 4.1e-3


def test_philips_real_and_imaginary_are_the_phantoms(phantom: Phantom, written: Written) -> None:
    acquisition = phantom.acquisition
    images = [pydicom.dcmread(path) for path in written(Vendor.PHILIPS_COMPLEX)]
    assert [ds[0x2005, 0x1011].value for ds in images] == ["R"] * 16 + ["I"] * 16

    def precise(ds: Dataset) -> npt.NDArray[np.floating]:
        displayed = ds.pixel_array.T * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        return displayed / (float(ds.RescaleSlope) * ds[0x2005, 0x100E].value)

    for number in (0, 7, 11):
        z, echo = divmod(number, 2)
        signal = acquisition.magnitude[echo, :, :, z] * np.exp(1j * acquisition.phase[echo, :, :, z])
        stored = precise(images[number]) + 1j * precise(images[16 + number])
        assert np.abs(stored - signal).max() < 0.71 * acquisition.magnitude.max() / 2047


def test_philips_precise_values_are_the_phantoms(phantom: Phantom, written: Written) -> None:
    """Order M then P, slices rising, echoes in a slice; precise value = stored / scale slope."""
    acquisition = phantom.acquisition
    images = [pydicom.dcmread(path) for path in written(Vendor.PHILIPS)]
    assert [ds[0x2005, 0x1011].value for ds in images] == ["M"] * 16 + ["P"] * 16
    assert [ds.EchoNumbers for ds in images] == [1, 2] * 16
    assert max(ds.pixel_array.max() for ds in images[16:]) <= 4094
    for ds in images[::11]:
        (mapping,) = ds.RealWorldValueMappingSequence
        assert mapping.RealWorldValueSlope == float(ds.RescaleSlope)
        assert mapping.RealWorldValueIntercept == float(ds.RescaleIntercept)
        unit = "mrad" if ds.ImageType[3] == "P" else "1"
        assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit
        assert (ds[0x2001, 0x1014].value, ds[0x2001, 0x1018].value) == (2, 8)
    number = 2 * 5 + 1
    value = images[number].pixel_array.T / images[number][0x2005, 0x100E].value
    assert np.abs(value - acquisition.magnitude[1, :, :, 5]).max() < 0.51 * acquisition.magnitude.max() / 4095
    mrad = images[16 + number].pixel_array.T * 1.53455433455433 - 3142
    assert np.abs(on_circle(mrad / 1000 - acquisition.phase[1, :, :, 5])).max() < 0.51 * 1.5346e-3


def test_philips_enhanced_says_per_frame_what_each_holds(phantom: Phantom, written: Written) -> None:
    (path,) = written(Vendor.PHILIPS_ENHANCED)
    ds = pydicom.dcmread(path)
    assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "T1", "MIXED"]
    assert ds.ComplexImageComponent == "MIXED"
    assert not {"EchoTime", "ImagingFrequency", "ScanningSequence", "ImagePositionPatient"} & set(ds.dir())
    assert ds.pixel_array.shape == (32, 16, 18)
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
