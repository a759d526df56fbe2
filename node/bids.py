"""BIDS in and out: multi-echo GRE of a raw dataset, and the maps of a reconstruction as derivatives.

Reads ``*_echo-N_part-{mag,phase}_MEGRE.nii[.gz]`` with ``EchoTime`` in s and ``MagneticFieldStrength`` in T in the
JSON sidecar; phase in rad, rising with the field. NIfTI's axes are RAS, DICOM's and this package's are LPS; B0 is the
scanner's z, so that its direction in the array follows from the affine. Maps are written on the input grid.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from node import __version__
from node.errors import Refusal, Refused, Unreadable
from node.fitness import Scan
from node.identity import PRODUCT
from node.report import Report
from recon.pipeline import Result
from recon.recipe import as_dict
from recon.types import GAMMA_MHZ_PER_T, Acquisition, BadInput, FloatArray, Geometry

_NAME = re.compile(r"^(?P<prefix>sub-.+?)_echo-(?P<echo>\d+)_part-(?P<part>mag|phase)_MEGRE\.nii(\.gz)?$")
CONVENTION = "BIDS; magnitude and phase; phase in rad that rises with the field"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Megre:
    """The files of one multi-echo GRE acquisition.

    Parameters
    ----------
    folder
        Where the derivatives belong, relative to the root of the dataset: ``sub-<label>[/ses-<label>]/anat``.
    prefix
        The entities of the file names without echo and part.
    magnitude, phase
        Echo number to file.
    """

    folder: Path
    prefix: str
    magnitude: dict[int, Path]
    phase: dict[int, Path]


def find(root: Path) -> list[Megre]:
    """Every multi-echo GRE acquisition below ``root``, sorted by name."""
    found: dict[tuple[Path, str], dict[str, dict[int, Path]]] = defaultdict(lambda: {"mag": {}, "phase": {}})
    for path in sorted(root.rglob("*_MEGRE.nii*")):
        name = _NAME.match(path.name)
        if name:
            found[path.parent, name["prefix"]][name["part"]][int(name["echo"])] = path
    return [
        Megre(_derivative_folder(prefix, parent.name), prefix, parts["mag"], parts["phase"])
        for (parent, prefix), parts in sorted(found.items())
    ]


def _derivative_folder(prefix: str, datatype: str) -> Path:
    entities = [part for part in prefix.split("_") if part.startswith(("sub-", "ses-"))]
    return Path(*entities, datatype if datatype in {"anat", "swi"} else "anat")


def load_megre(files: Megre, min_echoes: int = 1) -> Acquisition:
    """Read one acquisition of at least ``min_echoes``.

    Raises
    ------
    Refused
        An echo lacks one part, there are too few, grids differ, a sidecar lacks an entry, or phase is not in rad.
    Unreadable
        A file is not NIfTI, or a sidecar is missing or not JSON.
    """
    if not files.phase:
        raise Refused(Refusal("no-phase", f"no phase: {len(files.magnitude)} magnitude echoes"))
    lacking = sorted(files.magnitude.keys() ^ files.phase.keys())
    if lacking:
        part = "phase" if lacking[0] in files.magnitude else "magnitude"
        raise Refused(Refusal("incomplete", f"echo {lacking[0]}: {part} is missing"))
    if len(files.phase) < min_echoes:
        raise Refused(
            Refusal("too-few-echoes", f"{len(files.phase)} echoes; this site asks for at least {min_echoes}")
        )
    sidecars = {echo: _sidecar(path) for echo, path in files.phase.items()}
    echoes = sorted(sidecars, key=lambda echo: _entry(sidecars[echo], "EchoTime", files.phase[echo]))
    images = {path: read_image(path) for path in (*files.magnitude.values(), *files.phase.values())}
    first = images[files.magnitude[echoes[0]]]
    for path, image in images.items():
        if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=1e-3):
            raise Refused(Refusal("mixed-geometry", f"{path.name} lies on another grid than the first echo"))
    phase = np.stack([read_values(images[files.phase[echo]]) for echo in echoes])
    low, high = float(phase.min()), float(phase.max())
    if max(-low, high) > 1.01 * math.pi or high - low < 1.5 * math.pi:
        sentence = f"phase lies between {low:.4g} and {high:.4g}; it must be in rad and fill -3.14 to 3.14"
        raise Refused(Refusal("suspect-phase", sentence))
    header, path = sidecars[echoes[0]], files.phase[echoes[0]]
    known = "ImagingFrequency" in header
    f0 = (
        _entry(header, "ImagingFrequency", path)
        if known
        else GAMMA_MHZ_PER_T * _entry(header, "MagneticFieldStrength", path)
    )
    try:
        return Acquisition(
            magnitude=np.stack([read_values(images[files.magnitude[echo]]) for echo in echoes]),
            phase=phase,
            te_s=tuple(_entry(sidecars[echo], "EchoTime", files.phase[echo]) for echo in echoes),
            f0_mhz=f0,
            geometry=Geometry((*first.shape,), RAS_TO_LPS @ first.affine),
        )
    except BadInput as error:
        raise Refused(Refusal("unreadable", str(error))) from error


def scan(files: Megre) -> Scan:
    """What the sidecar of the first phase image says about the scan."""
    sidecar = _sidecar(files.phase[min(files.phase)])
    tr_s = _number(sidecar, "RepetitionTimeExcitation") or _number(sidecar, "RepetitionTime")
    return Scan(
        dimensions=str(sidecar.get("MRAcquisitionType", "")),
        tr_ms=tr_s and 1e3 * tr_s,
        flip_deg=_number(sidecar, "FlipAngle"),
        bandwidth_hz=_number(sidecar, "PixelBandwidth"),
        slice_mm=_number(sidecar, "SliceThickness"),
    )


def write_derivatives(result: Result, report: Report, geometry: Geometry, out: Path, files: Megre) -> list[Path]:
    """Write susceptibility, mask, R2*, local field and its weight below ``out``, with sidecars; the maps' paths.

    ``<prefix>_Chimap`` in ppm, ``<prefix>_desc-brain_mask``, ``<prefix>_R2starmap`` in 1/s,
    ``<prefix>_desc-local_fieldmap`` in ppm and ``<prefix>_desc-local_weightmap``, dimensionless, float32 (mask uint8)
    ``.nii.gz``; the same result gives the same bytes. Every sidecar holds the warnings; susceptibility's tells
    what every stage did, too.
    """
    folder = out / files.folder
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "Name": f"{PRODUCT} derivatives",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": PRODUCT, "Version": __version__}],
    }
    _write_json(out / "dataset_description.json", description)
    maps: dict[str, tuple[npt.NDArray[np.generic], str, str]] = {
        "Chimap": (result.chi.chi_ppm, "ppm", f"magnetic susceptibility; reference: {result.chi.reference}"),
        "desc-brain_mask": (result.brain.astype(np.uint8), "1", "brain mask"),
        "R2starmap": (result.field.r2s_hz, "1/s", "effective transverse relaxation rate"),
        "desc-local_fieldmap": (result.local.field_ppm, "ppm", "field of the sources inside the mask"),
        "desc-local_weightmap": (
            result.weight2,
            "1",
            "squared weight of the local field in the inversion: about 1 on average, 0 where it was not used",
        ),
    }
    written = []
    for suffix, (volume, units, meaning) in maps.items():
        path = folder / f"{files.prefix}_{suffix}.nii.gz"
        image: Any = nib.Nifti1Image(volume, RAS_TO_LPS @ geometry.affine_mm)  # type: ignore[no-untyped-call]
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
        sources = [f"bids:raw:{p.name}" for p in (*files.magnitude.values(), *files.phase.values())]
        recipe = as_dict(result.recipe)
        sidecar: dict[str, object] = {"Units": units, "Description": meaning, "Sources": sources, "Recipe": recipe}
        sidecar["Warnings"] = report.cautions
        if suffix == "Chimap":
            sidecar["RegionsOfReference"] = [asdict(value) for value in result.references]
            sidecar["Stages"] = [asdict(trace) for trace in result.traces]
        _write_json(folder / f"{files.prefix}_{suffix}.json", sidecar)
        written.append(path)
    return written


def read_image(path: Path) -> Any:
    """A NIfTI file with three dimensions, its values still on disk."""
    try:
        loaded: Any = nib.load(path)
    except (nib.filebasedimages.ImageFileError, OSError) as error:
        raise Unreadable(f"{path.name}: not a NIfTI file") from error
    if len(loaded.shape) != 3:
        raise Unreadable(f"{path.name}: {len(loaded.shape)} dimensions instead of 3")
    return loaded


def read_values(loaded: Any) -> FloatArray:
    """The values of a NIfTI image, float32."""
    try:
        return np.ascontiguousarray(loaded.get_fdata(dtype=np.float32, caching="unchanged"))
    except (OSError, EOFError, ValueError) as error:
        raise Unreadable(f"NIfTI file is truncated or damaged ({error})") from error


def _sidecar(path: Path) -> dict[str, object]:
    sidecar = path.with_name(path.name.split(".nii")[0] + ".json")
    try:
        content = json.loads(sidecar.read_text())
    except (OSError, ValueError) as error:
        raise Unreadable(f"{sidecar.name}: missing, or not JSON") from error
    if not isinstance(content, dict):
        raise Unreadable(f"{sidecar.name}: not a JSON object")
    return content


def _entry(sidecar: dict[str, object], name: str, path: Path) -> float:
    value = _number(sidecar, name)
    if value is None:
        raise Refused(Refusal("missing-metadata", f"{name} is missing in the sidecar of {path.name}"))
    return value


def _number(sidecar: dict[str, object], name: str) -> float | None:
    value = sidecar.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
