"""A phantom as a BIDS data set: magnitude and phase of every echo, and the truth as a derivative.

NIfTI's world axes are RAS, the phantom's LPS: the first two rows of the affine change sign, the arrays do not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from phantoms.simulate import Phantom
from recon.types import Geometry

VERSION = "1.10.0"


def ras_affine(geometry: Geometry) -> npt.NDArray[np.float64]:
    """The affine of a geometry from array indices to NIfTI's RAS world."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine_mm)


def write_bids(phantom: Phantom, folder: Path, label: str | None = None) -> Path:
    """Write ``sub-<label>/anat/*_echo-N_part-{mag,phase}_MEGRE.nii.gz`` with JSON, and the truth.

    Parameters
    ----------
    folder
        Root of the data set, made if absent.
    label
        Subject label; by default ``head<seed>scan<seed>``.

    Returns
    -------
    Path
        The subject's folder.

    Notes
    -----
    Phase is in rad and rises with the field. ``derivatives/truth`` holds ``Chimap`` (ppm relative to water, mean
    over each voxel), the brain mask and the lesions (``dseg``: lesion number, explained in the ``.tsv``).
    """
    label = label or f"head{phantom.head_seed}scan{phantom.seed}"
    acquisition = phantom.acquisition
    affine = ras_affine(acquisition.geometry)
    raw = folder / f"sub-{label}" / "anat"
    truth = folder / "derivatives" / "truth" / f"sub-{label}" / "anat"
    for made in (raw, truth):
        made.mkdir(parents=True, exist_ok=True)
    _describe(folder, "QSM phantom", "raw")
    _describe(truth.parents[1], "QSM phantom: truth", "derivative", GeneratedBy=[{"Name": "qsm-node phantom"}])

    for echo, te_s in enumerate(acquisition.te_s):
        about = {
            "EchoTime": te_s,
            "EchoNumber": echo + 1,
            "RepetitionTimeExcitation": phantom.protocol.tr_s,
            "FlipAngle": phantom.protocol.flip_deg,
            "MagneticFieldStrength": phantom.protocol.b0_t,
            "ImagingFrequency": acquisition.f0_mhz,
            "MRAcquisitionType": "3D",
            "Manufacturer": "Numerical phantom",
        }
        name = f"sub-{label}_echo-{echo + 1}_part-"
        _save(raw / f"{name}mag_MEGRE", acquisition.magnitude[echo], affine, about | {"Units": "arbitrary"})
        _save(raw / f"{name}phase_MEGRE", acquisition.phase[echo], affine, about | {"Units": "rad"})

    numbers = np.zeros(acquisition.geometry.shape, dtype=np.uint8)
    for number, placed in enumerate(phantom.lesions, start=1):
        numbers[placed.mask] = number
    _save(truth / f"sub-{label}_Chimap", phantom.chi_ppm, affine, {"Units": "ppm"})
    _save(truth / f"sub-{label}_desc-brain_mask", phantom.brain.astype(np.uint8), affine, {"Type": "Brain"})
    _save(truth / f"sub-{label}_desc-lesions_dseg", numbers, affine, {"Manual": False})
    rows = ["index\tname\tvolume_mm3\tchi_ppm\tmean_chi_ppm"]
    rows += [
        f"{number}\t{placed.lesion.kind}\t{placed.volume_mm3:.1f}\t{placed.lesion.chi_ppm:g}\t"
        + (f"{placed.mean_chi_ppm:.4f}" if placed.mask.any() else "n/a")
        for number, placed in enumerate(phantom.lesions, start=1)
    ]
    (truth / f"sub-{label}_desc-lesions_dseg.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / f"sub-{label}"


def _describe(folder: Path, name: str, kind: str, **more: object) -> None:
    about = {"Name": name, "BIDSVersion": VERSION, "DatasetType": kind, "License": "CC0"} | more
    (folder / "dataset_description.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _save(
    stem: Path, volume: npt.NDArray[np.generic], affine: npt.NDArray[np.float64], about: dict[str, object]
) -> None:
    image: Any = nib.Nifti1Image(volume, affine)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, stem.with_name(stem.name + ".nii.gz"))
    stem.with_name(stem.name + ".json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
