"""Slices through one lesion on every image, as the figures of the report show them; kept as one file for a lesion."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from phantoms.lesions import Kind
from phantoms.study.cohort import Form
from recon.types import FloatArray

Plane = Literal["axial", "coronal"]
Shown = Literal["magnitude", "phase", "qsm", "tkd", "truth"]


@dataclass(frozen=True, slots=True, eq=False)
class Panels:
    """The slices through the middle of one lesion.

    Parameters
    ----------
    number, finding
        The patient, and the index of the lesion among the patient's findings.
    planes
        float32 (row, column) of every image as it is displayed: the patient's right on the left, front (axial) or
        head (coronal) on top. Magnitude in arbitrary units, phase in mrad as displayed, the others in ppb.
    spacing_mm
        Distance of neighbouring columns and of neighbouring rows, of each plane.
    centre
        Column and row of the lesion's middle in each plane.
    """

    number: int
    finding: int
    kind: Kind
    form: Form
    in_nucleus: bool
    volume_cm3: float
    planes: dict[Plane, dict[Shown, FloatArray]]
    spacing_mm: dict[Plane, tuple[float, float]]
    centre: dict[Plane, tuple[float, float]]


def to_npz(panels: Panels, path: Path) -> None:
    """Write one lesion: an array ``plane/image`` for each, the rest as JSON in ``about``."""
    about = {f.name: getattr(panels, f.name) for f in fields(panels) if f.name != "planes"}
    arrays = {f"{plane}/{image}": a for plane, images in panels.planes.items() for image, a in images.items()}
    np.savez_compressed(path, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def from_npz(path: Path) -> Panels:
    """What ``to_npz`` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        about = json.loads(stored["about"].item())
        planes: dict[str, dict[str, FloatArray]] = {}
        for name in stored.files:
            if name != "about":
                plane, image = name.split("/")
                planes.setdefault(plane, {})[image] = stored[name]
    pairs = {name: {plane: tuple(pair) for plane, pair in about[name].items()} for name in ("spacing_mm", "centre")}
    return Panels(**(about | pairs), planes=planes)  # type: ignore[arg-type]
