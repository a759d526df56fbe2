"""What flows through the reconstruction: frozen, array-carrying types with units, and the error tree.

Arrays are indexed ``[x, y, z]``: column index, row index, slice of the source images. Volumes are float32 (or
bool), scalars and geometry float64. Phase rises with the magnetic field: the complex signal of a voxel is
``M exp(+i 2 pi f t)`` with ``f`` higher where the field is higher.

Errors
------
::

    ReconError
    ├── BadInput      an argument is unusable; the message names it
    ├── BadRecipe     a parameter or a combination of methods is impossible
    └── NoMask        no brain was found in the magnitude
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ComplexArray = npt.NDArray[np.complex64]
BoolArray = npt.NDArray[np.bool_]
Shape = tuple[int, int, int]
Vector = tuple[float, float, float]

GAMMA_MHZ_PER_T = 42.577478518
"""Gyromagnetic ratio of the proton over 2 pi (CODATA 2018), MHz/T."""


class ReconError(Exception):
    """Base of everything that the reconstruction raises on purpose."""


class BadInput(ReconError):
    """An argument is unusable: shape, unit, range, NaN. The message names the argument."""


class BadRecipe(ReconError):
    """A parameter of a recipe is out of range, or its methods do not fit together."""


class NoMask(ReconError):
    """No brain was found in the magnitude: a mask has to be supplied."""


def check_grid(voxel_mm: Vector, b0_dir: Vector) -> None:
    """Raise BadInput unless ``voxel_mm`` are three lengths and ``b0_dir`` is a unit vector."""
    if len(voxel_mm) != 3 or not all(0 < h < np.inf for h in voxel_mm):
        raise BadInput(f"voxel_mm must be three positive lengths, got {voxel_mm}")
    if len(b0_dir) != 3 or not abs(float(np.linalg.norm(b0_dir)) - 1) < 1e-3:
        raise BadInput(f"b0_dir must be a unit vector, got {b0_dir}")


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """Grid of a volume in the patient.

    Parameters
    ----------
    shape
        Number of voxels along x, y, z.
    affine_mm
        float64 (4, 4): array index to patient coordinates in mm, DICOM's LPS axes. Columns are orthogonal.
    """

    shape: Shape
    affine_mm: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.affine_mm.shape != (4, 4) or not np.isfinite(self.affine_mm).all():
            raise BadInput(f"affine_mm must be a finite 4x4 matrix, got {self.affine_mm!r}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise BadInput(f"shape must be three positive numbers, got {self.shape}")
        edges = self.affine_mm[:3, :3]
        lengths = np.linalg.norm(edges, axis=0)
        if lengths.min() <= 0:
            raise BadInput(f"affine_mm has a voxel edge of length 0: {lengths}")
        gram = (edges / lengths).T @ (edges / lengths)
        if np.abs(gram - np.eye(3)).max() > 1e-3:
            raise BadInput(f"affine_mm has axes that are not orthogonal: {gram}")

    @property
    def voxel_mm(self) -> Vector:
        """Voxel edges along x, y, z in mm."""
        x, y, z = np.linalg.norm(self.affine_mm[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def b0_dir(self) -> Vector:
        """Unit vector of B0 in array axes; B0 is the patient's z axis in every horizontal-bore scanner."""
        x, y, z = self.affine_mm[2, :3] / np.array(self.voxel_mm)
        return float(x), float(y), float(z)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        x, y, z = self.voxel_mm
        return x * y * z

    @staticmethod
    def of(shape: Shape, voxel_mm: Vector, b0_dir: Vector = (0.0, 0.0, 1.0)) -> Geometry:
        """A grid centred at the patient origin whose B0, in array axes, points along ``b0_dir``."""
        if len(voxel_mm) != 3 or not all(0 < h < np.inf for h in voxel_mm):
            raise BadInput(f"voxel_mm must be three positive lengths, got {voxel_mm}")
        b0 = np.asarray(b0_dir, dtype=np.float64)
        if not np.isfinite(b0).all() or np.linalg.norm(b0) == 0:
            raise BadInput(f"b0_dir must be a finite vector other than 0, got {b0_dir}")
        b0 /= np.linalg.norm(b0)
        # The rotation that carries b0 to the patient's z, by Rodrigues' formula about b0 x z; where b0 points down,
        # -b0 is carried to z and z turned over.
        flip = np.diag([1.0, -1.0, -1.0]) if b0[2] < 0 else np.eye(3)
        x, y, z = b0 * flip[2, 2]
        k = np.array([[0, 0, -x], [0, 0, -y], [x, y, 0]])
        rotation = flip @ (np.eye(3) + k + k @ k / (1 + z))
        affine = np.eye(4)
        affine[:3, :3] = rotation * np.asarray(voxel_mm, dtype=np.float64)
        affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
        return Geometry(shape, affine)


@dataclass(frozen=True, slots=True, eq=False)
class Acquisition:
    """A multi-echo gradient-echo acquisition.

    Parameters
    ----------
    magnitude
        float32 (E, X, Y, Z), arbitrary unit, not negative.
    phase
        float32 (E, X, Y, Z), rad, rising with the field, any 2 pi branch.
    te_s
        Echo times in s, rising.
    f0_mhz
        Imaging frequency in MHz: 1 ppm of field is ``f0_mhz`` Hz.
    geometry
        Grid of the volumes.
    """

    magnitude: FloatArray
    phase: FloatArray
    te_s: tuple[float, ...]
    f0_mhz: float
    geometry: Geometry

    def __post_init__(self) -> None:
        expected = (len(self.te_s), *self.geometry.shape)
        for name in ("magnitude", "phase"):
            volume: FloatArray = getattr(self, name)
            if volume.shape != expected:
                raise BadInput(f"{name} has shape {volume.shape}, echoes and geometry say {expected}")
            if volume.dtype != np.float32:
                raise BadInput(f"{name} must be float32, got {volume.dtype}")
            if not np.isfinite(volume.sum(dtype=np.float64)):
                raise BadInput(f"{name} contains NaN or infinity")
        if self.magnitude.min() < 0:
            raise BadInput(f"magnitude holds negative values, down to {self.magnitude.min():g}")
        if not self.te_s or not (np.diff([0.0, *self.te_s, 1.0]) > 0).all():
            raise BadInput(f"te_s must be echo times in s, rising from above 0 to below 1, got {self.te_s}")
        if not 1 <= self.f0_mhz <= 1000:
            raise BadInput(f"f0_mhz must be the imaging frequency in MHz, got {self.f0_mhz}")


@dataclass(frozen=True, slots=True, eq=False)
class FieldMap:
    """Total field of the echo fit, in Hz, with what the fit knows about it.

    Parameters
    ----------
    field_hz
        float32 (X, Y, Z), off-resonance in Hz, unwrapped; 0 outside the mask.
    sd_hz
        float32 (X, Y, Z), standard deviation of ``field_hz`` from noise alone.
    r2s_hz
        float32 (X, Y, Z), R2* in 1/s.
    amplitude
        float32 (X, Y, Z), magnitude extrapolated to TE 0.
    misfit
        float32 (X, Y, Z), root mean square residual of the complex fit over the noise sd.
    noise
        Noise sd per real channel, in the unit of the magnitude.
    """

    field_hz: FloatArray
    sd_hz: FloatArray
    r2s_hz: FloatArray
    amplitude: FloatArray
    misfit: FloatArray
    noise: float


@dataclass(frozen=True, slots=True, eq=False)
class LocalField:
    """Field of the sources inside the mask alone.

    Parameters
    ----------
    field_ppm
        float32 (X, Y, Z), ppm of B0; 0 outside ``mask``.
    mask
        bool (X, Y, Z): voxels whose field may be used; never larger than the brain mask.
    """

    field_ppm: FloatArray
    mask: BoolArray


@dataclass(frozen=True, slots=True, eq=False)
class ChiMap:
    """Susceptibility relative to a reference region.

    Parameters
    ----------
    chi_ppm
        float32 (X, Y, Z), ppm; 0 outside ``mask``. Paramagnetic (hemorrhage, iron) is positive.
    mask
        bool (X, Y, Z): where chi is defined.
    reference
        Region whose mean is 0, in words.
    """

    chi_ppm: FloatArray
    mask: BoolArray
    reference: str


@dataclass(frozen=True, slots=True)
class Trace:
    """What a stage did: its method, iterations and final residual (dimensionless, the method's own measure)."""

    stage: str
    method: str
    iterations: int = 0
    residual: float = 0.0
    warnings: tuple[str, ...] = field(default=())
