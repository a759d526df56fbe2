"""One patient of the reading study, from its seed to its record: what a worker process does.

Simulates, reconstructs with the product's pipeline and its automatic mask, lets the readers read, and writes a record
and panels. Arrays never leave the worker.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from node import __version__
from node.validate.levels import TKD
from node.validate.panels import Panels, Shown, to_npz
from node.warm import package_folders
from phantoms.protocol import Protocol
from phantoms.scanner import as_stored, write_dicom
from phantoms.simulate import Phantom, simulate
from phantoms.study.cohort import Burden, Patient, patient
from phantoms.study.examine import examine, lesion_voxels, true_map_ppb
from phantoms.study.reading import READERS
from phantoms.study.record import Image, PatientRecord
from recon.pipeline import reconstruct
from recon.recipe import Recipe, as_dict
from recon.types import FloatArray, Geometry

ARRIVING: tuple[Image, ...] = ("qsm", "phase")
"""What the node sends back."""

RECORD: TypeAdapter[PatientRecord] = TypeAdapter(PatientRecord)


@dataclass(frozen=True, slots=True)
class Task:
    """One patient to examine: of which study, scanned how, by which ``software``, written where.

    ``arrived`` names the file of what the network brought back, where this patient went that way.
    """

    seed: int
    burden: Burden
    protocol: Protocol
    folder: Path
    software: str
    arrived: Path | None = None

    @property
    def name(self) -> str:
        """What the files of this task are called: only this software and these settings give this name."""
        settings = (self.seed, asdict(self.burden), asdict(self.protocol), READERS, self.arrived is not None)
        recipes = (as_dict(Recipe()), as_dict(TKD))
        digest = hashlib.sha256(f"{self.software} {settings} {json.dumps(recipes)}".encode()).hexdigest()
        return f"patient-{self.burden.number:02d}-{digest[:12]}"

    @property
    def record(self) -> Path:
        """Where the record is written."""
        return self.folder / f"{self.name}.json"

    def panels(self, finding: int) -> Path:
        """Where the slices through a lesion are written, if they are kept."""
        return self.folder / f"{self.name}-{finding:02d}.npz"


def installed() -> dict[str, str]:
    """Versions of qsm-node, Python and the libraries that a result rests on."""
    libraries = {name: version(name) for name in ("numpy", "scipy", "numba", "pydicom", "pynetdicom", "highdicom")}
    return {"qsm-node": __version__, "Python": platform.python_version()} | libraries


def software() -> str:
    """A digest of the code and the libraries that make a record: after any change, earlier records are not taken up.

    To be asked once, before workers start: what they run is what was there then.
    """
    digest = hashlib.sha256(repr(installed()).encode())
    for package in ("recon", "phantoms", "node"):
        for root in package_folders(package):
            for path in sorted(root.rglob("*.py")):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def scan(task: Task) -> tuple[Patient, Phantom]:
    """The patient and its simulated scan; equal tasks give equal scans."""
    person = patient(task.seed, task.burden)
    protocol = replace(task.protocol, b0_dir=person.b0_dir, snr=person.snr)
    return person, simulate(person.head, protocol, seed=task.burden.number)


def write_scan(task: Task, folder: Path) -> tuple[list[Path], Geometry]:
    """The scan as DICOM files of a scanner, and where it lies."""
    phantom = scan(task)[1]
    return write_dicom(phantom, folder), phantom.acquisition.geometry


def examine_patient(task: Task) -> Task:
    """Make the record of a patient, unless it is there, with panels of its largest lesions; gives the task back."""
    if task.record.is_file():
        return task
    begun = time.monotonic()
    person, phantom = scan(task)
    stored = as_stored(phantom)
    seconds = {"simulate": time.monotonic() - begun}

    images: dict[Image, FloatArray] = {}
    recipes: tuple[tuple[Image, Recipe], ...] = (("qsm", Recipe()), ("tkd", TKD))
    for name, recipe in recipes:
        begun = time.monotonic()
        result = reconstruct(stored, recipe)
        seconds[recipe.name] = time.monotonic() - begun
        images[name] = np.float32(1000) * result.chi.chi_ppm
        images["phase"] = np.float32(-1000) * result.highpass_rad  # the same with both; displayed with minus
    deviation: dict[Image, float] = {}
    if task.arrived is not None:
        with np.load(task.arrived) as arrived:
            for through in ARRIVING:
                deviation[through] = float(np.abs(arrived[through] - images[through]).max())
                images[through] = arrived[through]

    begun = time.monotonic()
    record = examine(person, phantom, images)
    seconds["read"] = time.monotonic() - begun
    record = replace(record, seconds=seconds, through_network=deviation)
    for panels in _panels(phantom, record, images):
        to_npz(panels, task.panels(panels.finding))
    part = task.record.with_suffix(".part")
    part.write_text(json.dumps(RECORD.dump_python(record), indent=1), encoding="utf-8")
    part.replace(task.record)
    return task


def read_record(path: Path) -> PatientRecord:
    """A record as it was written, NaN and infinity included."""
    return RECORD.validate_python(json.loads(path.read_text(encoding="utf-8")))


def _panels(phantom: Phantom, record: PatientRecord, images: dict[Image, FloatArray]) -> list[Panels]:
    """The largest lesion of each kind and place."""
    largest: dict[tuple[str, bool], int] = {}
    for index, finding in enumerate(record.findings):
        sort = (finding.kind, finding.in_nucleus)
        if sort not in largest or finding.true_volume_cm3 > record.findings[largest[sort]].true_volume_cm3:
            largest[sort] = index
    echo = int(np.argmin(np.abs(np.array(phantom.protocol.te_s) - Recipe().highpass.te_s)))
    volumes: dict[Shown, FloatArray] = {
        "magnitude": phantom.acquisition.magnitude[echo],
        "phase": images["phase"],
        "qsm": images["qsm"],
        "tkd": images["tkd"],
        "truth": true_map_ppb(phantom),
    }
    return [_panel(phantom, record, index, volumes) for index in largest.values()]


def _panel(phantom: Phantom, record: PatientRecord, index: int, volumes: dict[Shown, FloatArray]) -> Panels:
    """Two planes through the widest part of a lesion."""
    finding, lesion = record.findings[index], lesion_voxels(phantom.lesions[index], phantom.protocol)
    y, z = (int(lesion.sum(axis=others).argmax()) for others in ((0, 2), (0, 1)))
    dx, dy, dz = phantom.protocol.voxel_mm
    slices = phantom.protocol.shape[2]
    x_axial, y_axial = np.argwhere(lesion[:, :, z]).mean(axis=0)
    x_coronal, z_coronal = np.argwhere(lesion[:, y, :]).mean(axis=0)
    return Panels(
        number=record.number,
        finding=index,
        kind=finding.kind,
        form=finding.form,
        in_nucleus=finding.in_nucleus,
        volume_cm3=finding.true_volume_cm3,
        planes={
            "axial": {name: np.ascontiguousarray(volume[:, :, z].T) for name, volume in volumes.items()},
            "coronal": {name: np.ascontiguousarray(volume[:, y, ::-1].T) for name, volume in volumes.items()},
        },
        spacing_mm={"axial": (dx, dy), "coronal": (dx, dz)},
        centre={
            "axial": (float(x_axial), float(y_axial)),
            "coronal": (float(x_coronal), float(slices - 1 - z_coronal)),
        },
    )
