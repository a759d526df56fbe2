"""`reconstruct` without network: folders of DICOM and BIDS, masks, outcomes and exit codes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from node import bids
from node.derive import DeriveOptions
from node.errors import PermanentError, Refused, Unreadable
from node.fitness import Scan
from node.masks import read_mask
from node.offline import exit_code, reconstruct_folder
from phantoms.bids import ras_affine, write_bids
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.simulate import Phantom
from recon.pipeline import reconstruct

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def scan(dicom_sets):
    return dicom_sets.scan(seed=2, shape=(24, 22, 18), echoes=3)


@pytest.fixture(scope="module")
def brain(scan):
    """An ellipsoid in the middle."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in scan.geometry.shape), indexing="ij")
    return sum(axis**2 for axis in axes) < 0.6


@pytest.fixture(scope="module")
def mask_file(scan, brain, tmp_path_factory):
    return save(brain.astype(np.uint8), ras_affine(scan.geometry), tmp_path_factory.mktemp("mask") / "mask.nii.gz")


@pytest.fixture(scope="module")
def raw(scan, brain, tmp_path_factory):
    """The scan as a BIDS data set."""
    folder = tmp_path_factory.mktemp("raw")
    zeros = np.zeros(scan.geometry.shape, np.float32)
    protocol = replace(SMALL_PROTOCOL, te_s=scan.te_s)
    write_bids(Phantom(scan, zeros, brain, zeros.astype(np.uint8), (), (), protocol, 1, 1), folder, "p")
    return folder


def save(volume, affine, path):
    nib.save(nib.Nifti1Image(volume, affine), path)
    return path


def outcomes(folder, out, **options):
    return list(reconstruct_folder(folder, out, AT, **options))


def test_bids_comes_back_as_it_was(scan, raw):
    (files,) = bids.find(raw)
    got = bids.load_megre(files)
    assert np.array_equal(got.magnitude, scan.magnitude)
    assert np.array_equal(got.phase, scan.phase)
    assert got.te_s == scan.te_s
    assert got.f0_mhz == scan.f0_mhz
    assert np.abs(got.geometry.affine_mm - scan.geometry.affine_mm).max() < 1e-4
    assert got.geometry.b0_dir == pytest.approx(scan.geometry.b0_dir, abs=1e-5)


def test_bids_gives_maps_on_the_input_grid(scan, raw, brain, mask_file, tmp_path):
    (outcome,) = outcomes(raw, tmp_path, mask=mask_file)
    assert outcome.state == "done"
    expected = reconstruct(bids.load_megre(bids.find(raw)[0]), mask=brain)
    anat = tmp_path / "sub-p" / "anat"
    for suffix, truth, unit in (
        ("Chimap", expected.chi.chi_ppm, "ppm"),
        ("R2starmap", expected.field.r2s_hz, "1/s"),
        ("desc-local_fieldmap", expected.local.field_ppm, "ppm"),
        ("desc-local_weightmap", expected.weight2, "1"),
        ("desc-brain_mask", brain, "1"),
    ):
        image = nib.load(anat / f"sub-p_{suffix}.nii.gz")
        assert np.allclose(np.asarray(image.dataobj), truth, atol=1e-6), suffix
        assert np.abs(image.affine - ras_affine(scan.geometry)).max() < 1e-4
        sidecar = json.loads((anat / f"sub-p_{suffix}.json").read_text())
        assert sidecar["Units"] == unit
        assert len(sidecar["Sources"]) == 6
        assert sidecar["Warnings"] == list(outcome.report.cautions)
    assert json.loads((tmp_path / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    stages = json.loads((anat / "sub-p_Chimap.json").read_text())["Stages"]
    assert [stage["stage"] for stage in stages] == [trace.stage for trace in expected.traces]
    assert stages[-2]["iterations"] == expected.traces[-2].iterations > 0
    assert set(outcome.files) == {path for path in anat.iterdir() if path.suffix == ".gz"}


def test_bids_sidecars_state_the_sequence(raw, tmp_path):
    (files,) = bids.find(raw)
    assert bids.scan(files) == Scan("3D", 57.0, 20.0)
    shutil.copytree(raw / "sub-p", tmp_path / "sub-p")
    (files,) = bids.find(tmp_path)
    edit(files.phase[1].parent, "FlipAngle", "twenty")
    edit(files.phase[1].parent, "PixelBandwidth", 300)
    assert bids.scan(files) == Scan("3D", 57.0, None, 300.0)


def test_sessions_and_runs_keep_their_names(raw, mask_file, tmp_path):
    anat = tmp_path / "in" / "sub-p" / "ses-2" / "anat"
    anat.mkdir(parents=True)
    for path in (raw / "sub-p" / "anat").iterdir():
        shutil.copyfile(path, anat / path.name.replace("sub-p_", "sub-p_ses-2_run-1_"))
    (outcome,) = outcomes(tmp_path / "in", tmp_path / "out", mask=mask_file)
    assert outcome.name == "sub-p_ses-2_run-1"
    assert (tmp_path / "out" / "sub-p" / "ses-2" / "anat" / "sub-p_ses-2_run-1_Chimap.nii.gz").is_file()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda anat: [p.unlink() for p in anat.glob("*part-phase*")], "no-phase"),
        (lambda anat: [p.unlink() for p in anat.glob("*echo-2_part-mag*")], "incomplete"),
        (lambda anat: edit(anat, "EchoTime", None), "missing-metadata"),
        (lambda anat: scaled(anat, 0.4), "suspect-phase"),
        (lambda anat: scaled(anat, 1000), "suspect-phase"),
    ],
)
def test_bids_that_is_not_whole_is_refused(raw, tmp_path, damage, code):
    shutil.copytree(raw / "sub-p", tmp_path / "sub-p")
    damage(tmp_path / "sub-p" / "anat")
    with pytest.raises(Refused) as refused:
        bids.load_megre(bids.find(tmp_path)[0])
    assert refused.value.refusal.code == code


def test_filtered_bids_is_refused(scan, raw, tmp_path):
    shutil.copytree(raw / "sub-p", tmp_path / "in" / "sub-p")
    flat = np.random.default_rng(0).normal(0, 0.05, scan.magnitude.shape[1:])
    flat[0, 0, :2] = -3.1, 3.1
    for path in (tmp_path / "in").rglob("*part-phase*.nii*"):
        nib.save(nib.Nifti1Image(flat.astype(np.float32), ras_affine(scan.geometry)), path)
    (outcome,) = outcomes(tmp_path / "in", tmp_path / "out")
    assert outcome.state == "refused"
    assert outcome.message.startswith("filtered-phase: phase of the echo at")


def test_a_site_says_how_few_bids_echoes_will_do(raw):
    files = bids.find(raw)[0]
    assert bids.load_megre(files, min_echoes=3).magnitude.shape[0] == 3
    with pytest.raises(Refused, match="too-few-echoes: 3 echoes; this site asks for at least 4"):
        bids.load_megre(files, min_echoes=4)


def edit(anat: Path, key: str, value: object) -> None:
    for path in anat.glob("*_MEGRE.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def scaled(anat: Path, factor: float) -> None:
    for path in anat.glob("*part-phase*.nii.gz"):
        image = nib.load(path)
        save(image.get_fdata(dtype=np.float32) * np.float32(factor), image.affine, path)


def test_truncated_nifti_and_missing_sidecars_are_unreadable(raw, tmp_path):
    shutil.copytree(raw / "sub-p", tmp_path / "sub-p")
    anat = tmp_path / "sub-p" / "anat"
    path = next(anat.glob("*echo-1_part-mag*.nii.gz"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(Unreadable):
        bids.load_megre(bids.find(tmp_path)[0])
    next(anat.glob("*echo-1_part-phase*.json")).unlink()
    with pytest.raises(Unreadable, match="echo-1"):
        bids.load_megre(bids.find(tmp_path)[0])


def test_masks_may_be_flipped_and_turned_but_not_elsewhere(scan, brain, mask_file, tmp_path):
    assert np.array_equal(read_mask(mask_file, scan.geometry), brain)
    odd = brain & (np.random.default_rng(0).random(brain.shape) > 0.5)
    image = nib.Nifti1Image(odd.astype(np.uint8), ras_affine(scan.geometry))
    for turn in ([[0, -1], [1, 1], [2, 1]], [[2, 1], [0, -1], [1, -1]]):
        path = tmp_path / "turned.nii.gz"
        nib.save(image.as_reoriented(np.array(turn)), path)
        assert np.array_equal(read_mask(path, scan.geometry), odd)
    moved = ras_affine(scan.geometry)
    moved[0, 3] += 1
    for volume, affine in ((brain, moved), (brain[1:], image.affine)):
        with pytest.raises(PermanentError, match="does not lie on the grid"):
            read_mask(save(volume.astype(np.uint8), affine, tmp_path / "off.nii.gz"), scan.geometry)


def test_a_folder_of_everything(dicom_sets, scan, brain, mask_file, tmp_path):
    images = dicom_sets.siemens(scan)
    without_phase = [ds for ds in dicom_sets.repeated(dicom_sets.siemens(scan), 40) if ds.ImageType[2] == "M"]
    for ds in without_phase:
        ds.ProtocolName = "t1_fl3d"
    dicom_sets.write(images, tmp_path / "in" / "a")
    dicom_sets.write(without_phase, tmp_path / "in" / "b")
    (tmp_path / "in" / "README.txt").write_text("not DICOM")
    options = DeriveOptions(segmentation=True)
    done, refused = outcomes(tmp_path / "in", tmp_path / "out", mask=mask_file, options=options)
    assert (done.state, refused.state) == ("done", "refused")
    assert done.name == "series 2, 3 (gre_qsm)"
    assert len(done.files) == 2 * 18 + 1
    assert all(path.is_file() for path in done.files)
    assert refused.message.startswith("no-phase: no phase")
    assert exit_code([done, refused]) == 0
    for text in (str(done), str(refused), *map(str, done.files)):
        assert "ller" not in text
    ppb = np.zeros(brain.shape, np.int16)
    corner = np.linalg.inv(scan.geometry.affine_mm)
    for ds in (dcmread(path) for path in done.files if path.name.startswith("qsm")):
        assert "supplied by the user" in ds.DerivationDescription
        ppb[:, :, round((corner @ [*ds.ImagePositionPatient, 1])[2])] = ds.pixel_array.T
    assert ppb[brain].any()
    assert not ppb[~brain].any()


def test_exit_codes_tell_refused_from_failed(dicom_sets, scan, tmp_path):
    magnitude = [ds for ds in dicom_sets.siemens(scan) if ds.ImageType[2] == "M"]
    paths = dicom_sets.write(magnitude, tmp_path / "in")
    assert exit_code(outcomes(tmp_path / "in", tmp_path / "out")) == 3
    paths[0].write_bytes(paths[0].read_bytes()[:300])
    found = outcomes(tmp_path / "in", tmp_path / "out")
    assert "failed" in {outcome.state for outcome in found}
    assert exit_code(found) == 1
    assert exit_code([]) == 3


def test_a_mask_elsewhere_fails_with_its_name(dicom_sets, scan, brain, tmp_path):
    dicom_sets.write(dicom_sets.siemens(scan), tmp_path / "in")
    wrong = save(brain[2:].astype(np.uint8), ras_affine(scan.geometry), tmp_path / "wrong.nii")
    (outcome,) = outcomes(tmp_path / "in", tmp_path / "out", mask=wrong)
    assert outcome.state == "failed"
    assert outcome.message.startswith("bad-mask: wrong.nii does not lie on the grid")
