"""Scanner-like DICOM, BIDS and scores of one small oblique phantom."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from phantoms.anatomy import head
from phantoms.bids import write_bids
from phantoms.lesions import Lesion
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.scanner import stored_phase, write_dicom
from phantoms.score import lesion_table, nrmse_percent, tissue_rmse_ppb
from phantoms.simulate import Phantom, simulate
from recon.types import BadInput

TOOLS = Path(sysconfig.get_path("scripts"))
OBLIQUE = replace(
    SMALL_PROTOCOL,
    shape=(48, 44, 30),
    voxel_mm=(4.3, 4.6, 4.8),
    te_s=(0.0057, 0.0124),
    b0_dir=(0.1, -0.25, 0.963),
)
LESIONS = (
    Lesion("hemorrhage", 0.8, (-30.0, -30.0, 20.0), (12.0, 9.0, 10.0)),
    Lesion("calcification", -1.1, (31.0, 40.0, 22.0), (10.0, 10.0, 9.0)),
)
# What Siemens itself writes and dciodvfy warns about: values of ImageType that are no defined terms, and a rescale
# outside the MR Image IOD.
SIEMENS_OWN = (
    "ImageType(0008,0008)",
    "RescaleIntercept(0028,1052)",
    "RescaleSlope(0028,1053)",
    "RescaleType(0028,1054)",
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate(head(2, LESIONS), OBLIQUE, seed=3)


@pytest.fixture(scope="module")
def dicom(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_dicom(phantom, tmp_path_factory.mktemp("dicom"))


def run(tool: str, *arguments: object) -> list[str]:
    """Lines of a checker of dicom3tools, standard error included; its exit status says nothing."""
    done = subprocess.run(
        [TOOLS / tool, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    return (done.stdout + done.stderr).splitlines()


def test_one_file_for_every_echo_slice_and_component(phantom: Phantom, dicom: list[Path]) -> None:
    assert len(dicom) == 2 * len(phantom.acquisition.te_s) * phantom.acquisition.geometry.shape[2]
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in dicom]
    keys = {(h.ImageType[2], int(h.EchoNumbers), float(h.SliceLocation)) for h in headers}
    assert len(keys) == len({h.SOPInstanceUID for h in headers}) == len(dicom)
    assert len({h.SeriesInstanceUID for h in headers}) == 2
    assert len({h.StudyInstanceUID for h in headers}) == len({h.FrameOfReferenceUID for h in headers}) == 1
    for header in headers:
        assert str(header.PatientName) == "QSM^PHANTOM"
        assert "phantom" in header.ImageComments
        assert "mgre" in header.SeriesDescription
        assert header.EchoTrainLength == 2
        assert header.SequenceName == "*fl3d2r"
        assert header.SOPInstanceUID.startswith("2.25.")
        assert float(header.EchoTime) == pytest.approx(1000 * OBLIQUE.te_s[int(header.EchoNumbers) - 1])
        assert float(header.ImagingFrequency) == pytest.approx(phantom.acquisition.f0_mhz, abs=1e-6)


def test_pixels_and_positions_come_back(phantom: Phantom, dicom: list[Path]) -> None:
    """Decoded by the rules of the vendor alone: phase (2 v - 4096) pi / 4096, rows are y, columns are x."""
    acquisition = phantom.acquisition
    affine = acquisition.geometry.affine_mm
    gain = 4095 / acquisition.magnitude.max()
    for path in dicom[:: len(dicom) // 24]:
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
            expected = acquisition.phase[echo, :, :, round(z)]
            error = np.angle(np.exp(1j * (value.T - expected)))
            assert abs(error).max() < np.pi / 4096 * 1.01
        else:
            expected = acquisition.magnitude[echo, :, :, round(z)] * gain
            assert abs(stored.T - expected).max() <= 0.51
        spacing = np.array(image.PixelSpacing, dtype=float)
        point = position + row * spacing[1] * 7 + column * spacing[0] * 5
        np.testing.assert_allclose(point, (affine @ [7, 5, round(z), 1])[:3], atol=1e-3)


def test_b0_direction_can_be_read_from_the_orientation(phantom: Phantom, dicom: list[Path]) -> None:
    iop = np.array(pydicom.dcmread(dicom[0], stop_before_pixels=True).ImageOrientationPatient, dtype=float)
    b0 = (iop[2], iop[5], iop[0] * iop[4] - iop[1] * iop[3])
    np.testing.assert_allclose(b0, phantom.acquisition.geometry.b0_dir, atol=1e-6)
    np.testing.assert_allclose(b0, np.array(OBLIQUE.b0_dir) / np.linalg.norm(OBLIQUE.b0_dir), atol=1e-6)


def test_stored_phase_covers_the_circle() -> None:
    phase = np.array([-np.pi, -np.pi / 2, 0, np.pi / 2, np.pi], dtype=np.float32)
    assert stored_phase(phase).tolist() == [0, 1024, 2048, 3072, 0]


def test_dciodvfy_finds_nothing_but_what_siemens_writes(dicom: list[Path]) -> None:
    for path in (dicom[0], dicom[len(dicom) // 2 - 1], dicom[len(dicom) // 2], dicom[-1]):
        lines = [line for line in run("dciodvfy", "-new", path) if line.strip()]
        assert "MRImage" in lines[0]
        complaints = [line for line in lines[1:] if not any(tag in line for tag in SIEMENS_OWN)]
        assert complaints == []
        assert not [line for line in lines if line.startswith("Error")]


def test_dcentvfy_finds_one_consistent_study(dicom: list[Path]) -> None:
    assert run("dcentvfy", *dicom) == []


def test_the_checkers_do_complain(dicom: list[Path], tmp_path: Path) -> None:
    broken = pydicom.dcmread(dicom[0])
    del broken.PatientPosition
    broken.PatientName = "OTHER^NAME"
    broken.save_as(tmp_path / "broken.dcm")
    assert any(line.startswith("Error") for line in run("dciodvfy", "-new", tmp_path / "broken.dcm"))
    assert run("dcentvfy", dicom[1], tmp_path / "broken.dcm") != []


def test_equal_phantoms_give_equal_bytes_and_others_other_uids(
    phantom: Phantom, dicom: list[Path], tmp_path: Path
) -> None:
    again = write_dicom(phantom, tmp_path / "again")
    assert [hashlib.sha256(p.read_bytes()).digest() for p in again] == [
        hashlib.sha256(p.read_bytes()).digest() for p in dicom
    ]
    acquisition = replace(phantom.acquisition, magnitude=phantom.acquisition.magnitude[:, ::-1].copy())
    changed = write_dicom(replace(phantom, acquisition=acquisition), tmp_path / "changed")
    uids = [{pydicom.dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in ps} for ps in (dicom, changed)]
    assert not uids[0] & uids[1]


def test_bids_holds_the_arrays_in_ras(phantom: Phantom, tmp_path: Path) -> None:
    subject = write_bids(phantom, tmp_path, label="one")
    acquisition = phantom.acquisition
    for echo, te_s in enumerate(acquisition.te_s):
        for part, expected, unit in (
            ("mag", acquisition.magnitude, "arbitrary"),
            ("phase", acquisition.phase, "rad"),
        ):
            stem = subject / "anat" / f"sub-one_echo-{echo + 1}_part-{part}_MEGRE"
            image = nib.load(stem.with_name(stem.name + ".nii.gz"))
            np.testing.assert_array_equal(np.asarray(image.dataobj), expected[echo])
            about = json.loads(stem.with_name(stem.name + ".json").read_text("utf-8"))
            assert about["EchoTime"] == te_s
            assert about["MagneticFieldStrength"] == 3.0
            assert about["Units"] == unit
            assert about["ImagingFrequency"] == pytest.approx(127.732, abs=1e-3)
            left, back, up = (acquisition.geometry.affine_mm @ [3, 5, 7, 1])[:3]
            np.testing.assert_allclose((image.affine @ [3, 5, 7, 1])[:3], [-left, -back, up], atol=1e-4)
    described = json.loads((tmp_path / "dataset_description.json").read_text("utf-8"))
    assert described["DatasetType"] == "raw"


def test_bids_truth(phantom: Phantom, tmp_path: Path) -> None:
    write_bids(phantom, tmp_path, label="one")
    folder = tmp_path / "derivatives" / "truth" / "sub-one" / "anat"
    chi = nib.load(folder / "sub-one_Chimap.nii.gz")
    np.testing.assert_array_equal(np.asarray(chi.dataobj), phantom.chi_ppm)
    mask = nib.load(folder / "sub-one_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), phantom.brain)
    numbers = np.asarray(nib.load(folder / "sub-one_desc-lesions_dseg.nii.gz").dataobj)
    rows = (folder / "sub-one_desc-lesions_dseg.tsv").read_text("utf-8").splitlines()[1:]
    assert [row.split("\t")[1] for row in rows] == ["hemorrhage", "calcification"]
    for number, placed in enumerate(phantom.lesions, start=1):
        np.testing.assert_array_equal(numbers == number, placed.mask)


def test_a_perfect_map_has_no_error_whatever_its_reference(phantom: Phantom) -> None:
    shifted = phantom.chi_ppm + np.float32(0.123)
    assert nrmse_percent(shifted, phantom) < 0.01
    assert tissue_rmse_ppb(shifted, phantom) < 0.01
    table = lesion_table(shifted, phantom)
    assert [score.kind for score in table] == ["hemorrhage", "calcification"]
    for score, placed in zip(table, phantom.lesions, strict=True):
        assert abs(score.error) < 1e-4
        assert score.sign_right
        assert score.volume_mm3 == placed.volume_mm3
        assert score.true_ppb == pytest.approx(1000 * placed.mean_chi_ppm, abs=40)


def test_wrong_maps_score_what_they_deserve(phantom: Phantom) -> None:
    half, flipped = phantom.chi_ppm * np.float32(0.5), -phantom.chi_ppm
    assert nrmse_percent(half, phantom) == pytest.approx(50, abs=0.01)
    assert nrmse_percent(flipped, phantom) == pytest.approx(200, abs=0.01)
    bleed, stone = lesion_table(half, phantom)
    assert (bleed.error, stone.error) == (pytest.approx(-0.5, abs=1e-3), pytest.approx(0.5, abs=1e-3))
    assert not any(score.sign_right for score in lesion_table(flipped, phantom))
    wrong_lesions = phantom.chi_ppm.copy()
    wrong_lesions[phantom.lesions[0].mask] += 1
    assert tissue_rmse_ppb(wrong_lesions, phantom) < 0.01
    noise = np.random.default_rng(0).normal(0, 0.02, phantom.chi_ppm.shape).astype(np.float32)
    assert tissue_rmse_ppb(phantom.chi_ppm + noise, phantom) == pytest.approx(20, rel=0.05)


def test_a_map_of_another_grid_is_refused(phantom: Phantom) -> None:
    with pytest.raises(BadInput, match="shape"):
        lesion_table(phantom.chi_ppm[1:], phantom)
