"""A patient of the study on the images that a reconstruction made of it: every lesion read and measured on each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from phantoms.protocol import Protocol
from phantoms.simulate import Phantom, PlacedLesion
from phantoms.study.cohort import Finding, Patient
from phantoms.study.extent import phase_extent, susceptibility_extent
from phantoms.study.reading import READERS, Reader, read, site
from phantoms.study.record import IMAGES, FindingRecord, Image, PatientRecord
from recon.types import BadInput, BoolArray, FloatArray


def examine(
    patient: Patient, phantom: Phantom, images: Mapping[Image, FloatArray], readers: tuple[Reader, ...] = READERS
) -> PatientRecord:
    """Read and measure every lesion.

    Parameters
    ----------
    phantom
        The scan of this patient: its truth and its lesions.
    images
        float32 (X, Y, Z) on the phantom's grid: ``qsm`` and ``tkd`` in ppb, ``phase`` in mrad as displayed, minus the
        physical phase.

    Raises
    ------
    BadInput
        If an image is missing or has another grid.
    """
    if wrong := [name for name in IMAGES if name != "truth" and images[name].shape != phantom.brain.shape]:
        raise BadInput(f"the images {', '.join(wrong)} are not on the grid {phantom.brain.shape}")
    shown: dict[Image, FloatArray] = {**images, "truth": true_map_ppb(phantom)}
    voxels = [lesion_voxels(placed, phantom.protocol) for placed in phantom.lesions]
    every = np.logical_or.reduce(voxels)
    records = []
    for index, finding in enumerate(patient.findings):
        case = 1000 * phantom.head_seed + index
        others = every & ~voxels[index]
        records.append(_record(finding, phantom, phantom.lesions[index], voxels[index], others, shown, readers, case))
    return PatientRecord(
        number=patient.number,
        cause=patient.cause,
        age_years=patient.age_years,
        snr=patient.snr,
        b0_dir=patient.b0_dir,
        head_seed=phantom.head_seed,
        findings=tuple(records),
    )


def true_map_ppb(phantom: Phantom) -> FloatArray:
    """The truth as a reconstruction would show it, float32 (X, Y, Z): its mean over the brain is 0."""
    zero = np.float32(phantom.chi_ppm[phantom.brain].mean(dtype=np.float64))
    return np.float32(1000) * (phantom.chi_ppm - zero)


def lesion_voxels(placed: PlacedLesion, protocol: Protocol) -> BoolArray:
    """The voxels of a lesion; of one that fills half of none, the voxel of its middle."""
    if placed.mask.any():
        return placed.mask
    middle = np.array(placed.lesion.centre_mm) / protocol.voxel_mm + (np.array(protocol.shape) - 1) / 2
    lesion = np.zeros(protocol.shape, dtype=np.bool_)
    lesion[tuple(middle.round().astype(int))] = True
    return lesion


def _record(
    finding: Finding,
    phantom: Phantom,
    placed: PlacedLesion,
    lesion: BoolArray,
    others: BoolArray,
    shown: Mapping[Image, FloatArray],
    readers: tuple[Reader, ...],
    case: int,
) -> FindingRecord:
    place = site(lesion, phantom.brain, others)
    voxel_mm = phantom.protocol.voxel_mm
    x, y, z = np.argwhere(lesion).mean(axis=0).round().astype(int).tolist()
    chi = [name for name in IMAGES if name != "phase"]
    return FindingRecord(
        kind=finding.lesion.kind,
        form=finding.form,
        in_nucleus=finding.in_nucleus,
        true_volume_cm3=placed.volume_mm3 / 1000,
        centre=(x, y, z),
        mean_ppb={name: float(shown[name][lesion].mean(dtype=np.float64)) for name in chi},
        readings={name: tuple(read(name, shown[name], place, reader, case) for reader in readers) for name in IMAGES},
        extents={name: susceptibility_extent(shown[name], place, voxel_mm) for name in chi}
        | {"phase": phase_extent(shown["phase"], place, voxel_mm)},
    )
