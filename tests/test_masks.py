"""Supplied masks: NIfTI and DICOM Segmentation give the same map for DICOM and BIDS input, or a refusal in words."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime

import highdicom
import nibabel as nib
import numpy as np
import pytest
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import dcmread
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from node.derive import DeriveOptions
from node.errors import PermanentError, Unreadable
from node.load import load
from node.masks import read_mask
from node.offline import reconstruct_folder
from phantoms.bids import ras_affine, write_bids
from phantoms.protocol import SMALL_PROTOCOL
from phantoms.simulate import Phantom
from recon.types import Geometry

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BRAIN, LESION = Code("12738006", "SCT", "Brain"), Code("50960005", "SCT", "Hemorrhage")


@pytest.fixture(scope="module")
def scan(dicom_sets):
    return dicom_sets.scan(seed=2, shape=(24, 22, 18), echoes=3)


@pytest.fixture(scope="module")
def images(dicom_sets, scan):
    return dicom_sets.siemens(scan)


@pytest.fixture(scope="module")
def dicom(dicom_sets, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom")
    dicom_sets.write(images, folder)
    return folder


@pytest.fixture(scope="module")
def raw(scan, tmp_path_factory):
    """The scan as BIDS."""
    folder = tmp_path_factory.mktemp("raw")
    zeros = np.zeros(scan.geometry.shape, np.float32)
    protocol = replace(SMALL_PROTOCOL, te_s=scan.te_s)
    write_bids(Phantom(scan, zeros, zeros > 0, zeros.astype(np.uint8), (), (), protocol, 1, 1), folder, "p")
    return folder


@pytest.fixture(scope="module")
def brain(scan):
    """An ellipsoid with one corner cut off, so that every flip shows."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in scan.geometry.shape), indexing="ij")
    return (x**2 + y**2 + z**2 < 0.6) & ~((x > 0.2) & (y > 0.1) & (z > 0))


@pytest.fixture(scope="module")
def nifti(scan, brain, tmp_path_factory):
    path = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), ras_affine(scan.geometry)), path)
    return path


@pytest.fixture(scope="module")
def first_echo(images):
    """The magnitude images of the first echo, in the order of the slices."""
    return [ds for ds in images if ds.ImageType[2] == "M" and ds.EchoNumbers == 1]


def segmented(path, sources, masks, kinds=(BRAIN,), kind=SegmentationTypeValues.BINARY, **more):
    """A Segmentation as another tool writes it: one segment per mask, frames without a voxel left out."""
    described = [
        SegmentDescription(n + 1, f"part {n + 1}", Code("123037004", "SCT", "Anatomical Structure"), k, "MANUAL")
        for n, k in enumerate(kinds)
    ]
    frames = np.stack([mask.transpose(2, 1, 0) for mask in masks], axis=-1)
    fractional = kind == SegmentationTypeValues.FRACTIONAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = Segmentation(
            sources, frames.astype(np.float32 if fractional else np.uint8), kind, described,
            generate_uid(), 7, generate_uid(), 1, "maker", "model", "1", "0", omit_empty_frames=True, **more,
        )  # fmt: skip
    ds.save_as(path)
    return path


def reconstructed(folder, out, mask, **options):
    (outcome,) = reconstruct_folder(folder, out, AT, mask=mask, options=DeriveOptions(**options))
    assert outcome.state == "done", outcome
    return {path.name: path for path in outcome.files}


def test_our_own_segmentation_fed_back_gives_the_same_objects(dicom, nifti, tmp_path):
    """Bytes and identifiers too: the mask is the same, so the derivation is."""
    first = reconstructed(dicom, tmp_path / "one", nifti, segmentation=True)
    second = reconstructed(dicom, tmp_path / "two", first["mask-0001.dcm"], segmentation=True)
    assert {n: p.read_bytes() for n, p in first.items()} == {n: p.read_bytes() for n, p in second.items()}


@pytest.mark.parametrize("source", ["raw", "dicom"])
def test_both_kinds_of_mask_give_the_same_map_for_both_kinds_of_input(
    request, source, nifti, brain, first_echo, tmp_path
):
    folder = request.getfixturevalue(source)
    seg = segmented(tmp_path / "seg.dcm", first_echo, [brain])
    first = reconstructed(folder, tmp_path / "one", nifti)
    second = reconstructed(folder, tmp_path / "two", seg)
    assert {n: p.read_bytes() for n, p in first.items()} == {n: p.read_bytes() for n, p in second.items()}


@pytest.fixture
def place(dicom, dicom_sets):
    """What `read_mask` is given for DICOM input."""
    source = load(dicom_sets.dicom_files(dicom))
    return source.acquisition.geometry, source


def test_slices_in_any_order_and_from_either_end(place, brain, first_echo, scan, tmp_path):
    seg = segmented(tmp_path / "seg.dcm", first_echo[::-1], [brain[:, :, ::-1]])
    assert np.array_equal(read_mask(seg, *place), brain)
    affine = scan.geometry.affine_mm.copy()
    affine[:3, 3] += affine[:3, 2] * (scan.geometry.shape[2] - 1)
    affine[:3, 2] *= -1
    upside_down = Geometry(scan.geometry.shape, affine)
    assert np.array_equal(read_mask(seg, upside_down), brain[:, :, ::-1])


def test_fractions_count_from_one_half(place, brain, first_echo, tmp_path):
    fraction = np.where(brain, 0.6, 0.4).astype(np.float32)
    fractional = SegmentationTypeValues.FRACTIONAL
    seg = segmented(
        tmp_path / "seg.dcm", first_echo, [fraction], kind=fractional,
        fractional_type=highdicom.seg.SegmentationFractionalTypeValues.PROBABILITY,
    )  # fmt: skip
    assert np.array_equal(read_mask(seg, *place), brain)


def test_the_brain_is_taken_among_several_segments(place, brain, first_echo, tmp_path):
    lesion = np.zeros_like(brain)
    lesion[10:14, 10:13, 4:7] = True
    seg = segmented(tmp_path / "seg.dcm", first_echo, [lesion, brain], (LESION, BRAIN))
    assert np.array_equal(read_mask(seg, *place), brain)
    alone = segmented(tmp_path / "alone.dcm", first_echo, [lesion], (LESION,))
    assert np.array_equal(read_mask(alone, *place), lesion)
    for kinds, count in (((LESION, LESION), 0), ((BRAIN, BRAIN), 2)):
        unclear = segmented(tmp_path / "unclear.dcm", first_echo, [lesion, brain], kinds)
        words = rf"unclear.dcm: {count} of its 2 segments are coded as brain \(1 part 1, 2 part 2\)"
        with pytest.raises(PermanentError, match=words):
            read_mask(unclear, *place)


def test_a_mask_of_other_images_is_refused(place, brain, first_echo, scan, tmp_path):
    """Another patient's mask may fit the grid: the frame of reference tells, or the images it refers to."""
    others = [deepcopy(ds) for ds in first_echo]
    for ds in others:
        ds.FrameOfReferenceUID = "1.2.3"
        ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.1"
    foreign = segmented(tmp_path / "foreign.dcm", others, [brain])
    with pytest.raises(PermanentError, match=r"foreign.dcm belongs to other images"):
        read_mask(foreign, *place)
    assert np.array_equal(read_mask(foreign, scan.geometry), brain)  # BIDS tells no frame of reference
    for ds, own in zip(others, first_echo, strict=True):
        ds.SOPInstanceUID = own.SOPInstanceUID
    assert np.array_equal(read_mask(segmented(tmp_path / "own.dcm", others, [brain]), *place), brain)


@pytest.mark.parametrize("shift_mm", [0.5, 400.0])
def test_a_segmentation_elsewhere_is_refused(place, brain, first_echo, tmp_path, shift_mm):
    moved = [deepcopy(ds) for ds in first_echo]
    for ds in moved:
        ds.ImagePositionPatient[0] = float(ds.ImagePositionPatient[0]) + shift_mm
    with pytest.raises(PermanentError, match=r"moved.dcm does not lie on the grid .* \(24, 22, 18\)"):
        read_mask(segmented(tmp_path / "moved.dcm", moved, [brain]), *place)


def test_a_nifti_mask_that_is_shifted_by_whole_voxels_is_refused(brain, scan, tmp_path):
    affine = ras_affine(scan.geometry)
    affine[:3, 3] += affine[:3, 0]
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), affine), tmp_path / "shifted.nii")
    with pytest.raises(PermanentError, match=r"shifted.nii does not lie on the grid"):
        read_mask(tmp_path / "shifted.nii", scan.geometry)


def test_what_is_no_mask_is_named(place, images, nifti, brain, first_echo, scan, tmp_path):
    images[0].save_as(tmp_path / "image.dcm", enforce_file_format=True)
    with pytest.raises(PermanentError, match=r"image.dcm is MR Image Storage: a mask must be DICOM Segmentation"):
        read_mask(tmp_path / "image.dcm", *place)
    nib.save(nib.Nifti1Image(np.zeros(brain.shape, np.uint8), ras_affine(scan.geometry)), tmp_path / "empty.nii")
    with pytest.raises(PermanentError, match=r"empty.nii: the mask is empty"):
        read_mask(tmp_path / "empty.nii", *place)
    (tmp_path / "text.nii").write_text("no mask")
    with pytest.raises(Unreadable, match=r"text.nii: not a NIfTI file"):
        read_mask(tmp_path / "text.nii", *place)
    seg = dcmread(segmented(tmp_path / "seg.dcm", first_echo, [brain]))
    del seg.SharedFunctionalGroupsSequence
    seg.save_as(tmp_path / "damaged.dcm")
    with pytest.raises(Unreadable, match=r"damaged.dcm: Segmentation cannot be read as a volume"):
        read_mask(tmp_path / "damaged.dcm", *place)
    assert np.array_equal(read_mask(nifti, *place), brain)
