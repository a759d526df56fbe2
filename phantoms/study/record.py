"""What the study keeps of a patient: plain values, from which every table and figure is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from phantoms.lesions import Kind
from phantoms.study.cohort import Form

Image = Literal["qsm", "tkd", "phase", "truth"]
IMAGES: tuple[Image, ...] = ("qsm", "tkd", "phase", "truth")
"""What is read: QSM of the default recipe and of TKD, GRE phase, and the true susceptibility."""

Outcome = Literal["hemorrhage", "calcification", "neither"]
OUTCOMES: tuple[Outcome, ...] = ("hemorrhage", "calcification", "neither")
Appearance = Literal["homogeneous", "primarily one sign", "heterogeneous", "inconspicuous"]
APPEARANCES: tuple[Appearance, ...] = ("homogeneous", "primarily one sign", "heterogeneous", "inconspicuous")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader says of one lesion on one image.

    ``positive`` is the share of conspicuous voxels that are paramagnetic for this image, ``contrast`` the mean
    contrast to the surroundings (ppb, on phase mrad).
    """

    outcome: Outcome
    appearance: Appearance
    positive: float
    contrast: float


@dataclass(frozen=True, slots=True)
class Extent:
    """A lesion as measured on one image: volume, and the sum over it times the volume of a voxel.

    ``total`` is in ppb cm3 for susceptibility, in rad cm3 for phase taken between 0 and 2 pi.
    """

    volume_cm3: float
    total: float


@dataclass(frozen=True, slots=True)
class FindingRecord:
    """One lesion: what it is, how it was read by every reader, how large it was measured on every image.

    ``centre`` is the voxel of its middle; ``mean_ppb`` the mean over its true voxels in each susceptibility map.
    """

    kind: Kind
    form: Form
    in_nucleus: bool
    true_volume_cm3: float
    centre: tuple[int, int, int]
    mean_ppb: dict[Image, float]
    readings: dict[Image, tuple[Reading, ...]]
    extents: dict[Image, Extent]


@dataclass(frozen=True, slots=True)
class PatientRecord:
    """One patient of the study."""

    number: int
    cause: str
    age_years: float
    snr: float
    b0_dir: tuple[float, float, float]
    head_seed: int
    findings: tuple[FindingRecord, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each step, where someone measured them."""
    through_network: dict[Image, float] = field(default_factory=dict)
    """Largest difference of what came back over the network from the arrays, in ppb and mrad, if it went there."""
