"""Hemorrhages and calcifications: their shape, susceptibility and signal; a demonstration set and a random generator.

Knows no anatomy beyond the depth function that the generator is given. ``phantoms.pathology`` draws the forms in
which they occur.

Values: hemorrhages and calcifications of 0.2-2 ppm (Liu T. et al., Radiology 2012;262:269; Chen W. et al., Radiology
2014;270:496; Schweser F. et al., Med Phys 2010;37:5165). Iron shortens T2*; solid calcium has few mobile protons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from phantoms.shapes import Axes, Ellipsoid
from recon.types import BadInput, FloatArray, Vector

Kind = Literal["hemorrhage", "calcification", "mixed"]

WAVES = 6
"""Number of plane waves on the unit sphere that make a surface irregular."""


@dataclass(frozen=True, slots=True)
class Core:
    """What fills a lesion deeper than ``depth_mm`` below its outline: the fluid in a rim, the calcium in old blood.

    ``chi_ppm``, ``r2s_hz``, ``pd`` and ``t1_s`` are as in `Lesion`; the susceptibility may have either sign.
    """

    depth_mm: float
    chi_ppm: float
    r2s_hz: float
    pd: float
    t1_s: float = 1.0

    def __post_init__(self) -> None:
        if self.depth_mm <= 0 or abs(self.chi_ppm) > 3:
            raise BadInput(f"a core needs a positive depth_mm and at most 3 ppm in modulus, got {self}")


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion.

    Parameters
    ----------
    kind
        A hemorrhage is paramagnetic, a calcification diamagnetic; a mixed lesion is blood around a core of calcium.
    chi_ppm
        Susceptibility, ppm relative to water; 0.05-3 in modulus, negative for a calcification, else positive.
    centre_mm
        Head coordinates (see ``phantoms.anatomy``).
    radii_mm, angles_deg
        The ellipsoid that the surface follows.
    irregularity
        Relative standard deviation of the radius over directions; 0 is the ellipsoid.
    chi_margin_mm
        How far the susceptibility goes beyond the outline of the signal; negative where it ends inside.
    r2s_hz, pd, t1_s
        R2* in 1/s without the part that the lesion's own field adds, proton density relative to water, T1 in s.
    seed
        Chooses the irregular surface.
    core
        What is inside, where that is something else.
    dispersed
        Grains among the tissue that they lie in: the susceptibilities add, so that a calcification in an
        iron-rich nucleus may still be paramagnetic.
    """

    kind: Kind
    chi_ppm: float
    centre_mm: Vector
    radii_mm: Vector
    angles_deg: Vector = (0.0, 0.0, 0.0)
    irregularity: float = 0.12
    chi_margin_mm: float = 0.0
    r2s_hz: float = 100.0
    pd: float = 0.6
    t1_s: float = 1.0
    seed: int = 0
    core: Core | None = None
    dispersed: bool = False

    def __post_init__(self) -> None:
        if not 0.05 <= abs(self.chi_ppm) <= 3.0:
            raise BadInput(f"chi_ppm of a lesion must be 0.05-3 in modulus, got {self.chi_ppm}")
        if (self.chi_ppm < 0) != (self.kind == "calcification"):
            raise BadInput(f"a {self.kind} cannot have chi_ppm {self.chi_ppm}")
        if (self.kind == "mixed") != (self.core is not None and self.core.chi_ppm < 0 < self.chi_ppm):
            raise BadInput("a mixed lesion, and no other, is paramagnetic around a diamagnetic core")
        if min(self.radii_mm) <= 0:
            raise BadInput(f"radii_mm must be positive, got {self.radii_mm}")
        if not 0 <= self.irregularity <= 0.3:
            raise BadInput(f"irregularity must be 0-0.3, got {self.irregularity}")
        if abs(self.chi_margin_mm) >= min(self.radii_mm):
            raise BadInput(f"chi_margin_mm must be smaller than the radii, got {self.chi_margin_mm}")

    @property
    def reach_mm(self) -> float:
        """No point of the lesion is farther from its centre."""
        return max(self.radii_mm) * (1 + 2.5 * self.irregularity) + max(0.0, self.chi_margin_mm)

    def distance_mm(self, axes: Axes) -> FloatArray:
        """Approximate signed distance to the surface, negative inside."""
        smooth = Ellipsoid(self.centre_mm, self.radii_mm, self.angles_deg).distance_mm(axes)
        if self.irregularity == 0:
            return smooth
        rng = np.random.default_rng(self.seed)
        directions = rng.standard_normal((WAVES, 3))
        directions *= rng.uniform(1.5, 4.5, (WAVES, 1)) / np.linalg.norm(directions, axis=1, keepdims=True)
        phases = rng.uniform(0, 2 * np.pi, WAVES)
        x, y, z = (axis - np.float32(c) for axis, c in zip(axes, self.centre_mm, strict=True))
        u, v, w = x[:, None, None], y[None, :, None], z[None, None, :]
        r = np.sqrt(u * u + v * v + w * w) + np.float32(1e-3)
        bumps = np.zeros_like(r)
        for (a, b, c), phase in zip(directions.astype(np.float32), phases, strict=True):
            bumps += np.cos((a * u + b * v + c * w) / r + np.float32(phase))
        bumps *= np.float32(np.sqrt(2 / WAVES) * self.irregularity * np.mean(self.radii_mm))
        limit = np.float32(2.5 * self.irregularity * np.mean(self.radii_mm))
        return np.asarray(smooth - np.clip(bumps, -limit, limit), dtype=np.float32)


def _bleed(chi_ppm: float, centre_mm: Vector, radii_mm: Vector, seed: int, margin_mm: float = 0.0) -> Lesion:
    r2s_hz = 40.0 + 90.0 * chi_ppm
    return Lesion(
        "hemorrhage", chi_ppm, centre_mm, radii_mm, chi_margin_mm=margin_mm, r2s_hz=r2s_hz, pd=0.65, seed=seed
    )


def _calcification(
    chi_ppm: float, centre_mm: Vector, radii_mm: Vector, seed: int, pd: float, margin_mm: float = 0.0
) -> Lesion:
    r2s_hz = 30.0 + 40.0 * abs(chi_ppm)
    return Lesion(
        "calcification", chi_ppm, centre_mm, radii_mm, chi_margin_mm=margin_mm, r2s_hz=r2s_hz, pd=pd, seed=seed
    )


DEMO_LESIONS: tuple[Lesion, ...] = (
    _bleed(0.9, (38, 22, 20), (9, 12, 8), 1, 0.8),
    _bleed(0.7, (-30, -34, 22), (3.0, 3.0, 3.2), 2),
    _bleed(0.5, (-44, 34, 8), (2.6, 2.4, 2.6), 3),
    _bleed(0.6, (-11, 12, 6), (2.8, 3.0, 2.6), 4, -0.4),
    _calcification(-1.2, (34, -40, 18), (5.5, 4.5, 5.0), 5, 0.15),
    _calcification(-0.6, (-30, 44, 30), (2.8, 2.6, 3.0), 6, 0.40, 0.4),
    _calcification(-0.8, (19.5, -4, 0), (3.2, 4.2, 3.2), 7, 0.35),
    _calcification(-0.5, (-27, 4, 34), (2.6, 2.8, 2.6), 8, 0.45),
)
"""A hematoma, three microbleeds (one thalamic), a solid calcification, two punctate ones, one in a pallidum.

In three of them susceptibility and signal differ in extent.
"""

Depth = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Points in mm, (N, 3), to their depth below the brain's surface in mm, (N,); negative outside."""


def drawn_ellipsoid(rng: np.random.Generator, radius_mm: float, spread: float) -> tuple[Vector, Vector]:
    """Radii in mm and angles in degrees of an ellipsoid with the volume of the sphere of this radius, turned anyhow.

    ``spread`` is the standard deviation of the logarithm of each radius before they are scaled to the volume.
    """
    stretch = np.exp(rng.normal(0, spread, 3))
    stretch *= radius_mm / np.cbrt(stretch.prod())
    (a, b, c), (u, v, w) = stretch.tolist(), rng.uniform(0, 180, 3).tolist()
    return (a, b, c), (u, v, w)


def random_lesion(
    rng: np.random.Generator, kind: Kind, centre_mm: Vector, radius_mm: float, chi_ppm: float
) -> Lesion:
    """A lesion of a given kind, place, mean radius and |chi|; its outline and its signal are drawn.

    In one of three the susceptibility ends elsewhere than the signal, by up to a quarter of the radius.
    """
    radii_mm, angles_deg = drawn_ellipsoid(rng, radius_mm, 0.15)
    size = abs(chi_ppm)
    blood = kind == "hemorrhage"
    lesion = Lesion(
        kind,
        size if blood else -size,
        centre_mm,
        radii_mm,
        angles_deg,
        irregularity=float(rng.uniform(0, 0.15)),
        r2s_hz=float(rng.uniform(30, 50) + (90 if blood else 40) * size),
        pd=float(rng.uniform(0.5, 0.75) if blood else rng.uniform(0.12, 0.5)),
        seed=int(rng.integers(2**31)),
    )
    margin_mm = float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.25) * radius_mm)
    return replace(lesion, chi_margin_mm=margin_mm) if rng.random() < 1 / 3 else lesion


def random_lesions(
    seed: int,
    count: int,
    depth_mm: Depth,
    radius_mm: tuple[float, float] = (2.0, 9.0),
    chi_ppm: tuple[float, float] = (0.2, 2.0),
    gap_mm: float = 6.0,
) -> tuple[Lesion, ...]:
    """``count`` lesions inside the brain, at least ``gap_mm`` apart and whole below its surface.

    Kinds alternate; radii and |chi| are drawn from log-uniform distributions over the given ranges.

    Raises
    ------
    BadInput
        When so many lesions of this size find no room.
    """
    rng = np.random.default_rng([seed, 7])
    placed: list[Lesion] = []
    for _ in range(300 * count):
        if len(placed) == count:
            break
        radius, size = (float(np.exp(rng.uniform(*np.log(span)))) for span in (radius_mm, chi_ppm))
        centre = rng.uniform((-65, -85, -55), (65, 85, 65))
        kind: Kind = "hemorrhage" if len(placed) % 2 == 0 else "calcification"
        lesion = random_lesion(rng, kind, (float(centre[0]), float(centre[1]), float(centre[2])), radius, size)
        room = min(
            (float(np.linalg.norm(centre - np.array(other.centre_mm))) - other.reach_mm for other in placed),
            default=np.inf,
        )
        if depth_mm(centre[None])[0] > lesion.reach_mm + 1 and room > lesion.reach_mm + gap_mm:
            placed.append(lesion)
    if len(placed) < count:
        raise BadInput(f"only {len(placed)} of {count} lesions of {radius_mm} mm found room in the brain")
    return tuple(placed)
