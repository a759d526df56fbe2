"""All the evidence on the sign of the phase, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from recon.mask.headgrid import standing
from recon.signcheck import air, iron
from recon.signcheck.evidence import Evidence, factors_near
from recon.types import Acquisition, BoolArray, ChiMap, FieldMap, Geometry, Vector

GRID_MM = 3.4
"""Distance of the voxels that are looked at for the field of the air, which is smooth."""
HEAD_MM = (180.0, 225.0, 180.0)
"""No brain reaches farther left-right, front-back, head-foot."""
LEAST_SHARE = 0.2
"""Share of what has signal that a brain is in its head: less is a body."""


Verdict = Literal["agreement", "contradiction", "no evidence"]
SAID: dict[Verdict, str] = {
    "agreement": "the image confirms the sign of the phase",
    "contradiction": "the phase seems to be negated, which would swap hemorrhage and calcification",
    "no evidence": "the image does not tell the sign of the phase",
}


@dataclass(frozen=True, slots=True)
class SignCheck:
    """What is known about the sign of the phase apart from what the vendor is known to store.

    Parameters
    ----------
    verdict
        ``agreement``: iron and air come out paramagnetic. ``contradiction``: diamagnetic, as from a negated phase.
        ``no evidence``: nothing that tells either, or evidence against evidence.
    evidence
        What every kind of evidence says.
    words
        One sentence with the numbers.
    """

    verdict: Verdict
    evidence: tuple[Evidence, ...]
    words: str


def check_sign(acquisition: Acquisition, field: FieldMap, chi: ChiMap) -> SignCheck:
    """Check whether the phase rises with the field; a negated phase gives the negated verdict. Nothing is changed.

    Parameters
    ----------
    acquisition
        Its magnitude shows where air is, its geometry how B0 runs; its phase is not looked at.
    field
        Total field in Hz and R2* over the brain.
    chi
        Susceptibility; its mask is the brain.
    """
    geometry = acquisition.geometry
    step, voxel_mm = factors_near(geometry.voxel_mm, GRID_MM)
    x, y, z = (slice(n // 2, None, n) for n in step)
    brain, magnitude = chi.mask[x, y, z], acquisition.magnitude[0, x, y, z]
    dark = air.without_signal(magnitude, brain)
    if doubt := no_head(brain, dark, voxel_mm, geometry):
        return SignCheck("no evidence", (), f"{SAID['no evidence']}: {doubt}")
    field_ppm = field.field_hz[x, y, z] / np.float32(acquisition.f0_mhz)
    found = [air.air_evidence(dark, field_ppm, brain, voxel_mm, geometry.b0_dir)]
    if len(acquisition.te_s) > 1:  # one echo tells no R2*
        found.append(iron.iron_evidence(chi.chi_ppm, field.r2s_hz, chi.mask, geometry.voxel_mm, acquisition.f0_mhz))
    verdict = joint(sum(item.weight for item in found))
    said = "; ".join(item.words for item in found)
    return SignCheck(verdict, tuple(found), f"{SAID[verdict]}: {said}")


def joint(weight: float) -> Verdict:
    """The verdict of all evidence: what suffices is weakened by what speaks against it."""
    if abs(weight) < 1:
        return "no evidence"
    return "agreement" if weight > 0 else "contradiction"


def no_head(brain: BoolArray, dark: BoolArray, voxel_mm: Vector, geometry: Geometry) -> str:
    """Why this is no head with a brain in it, in words; empty if it may be one."""
    if not brain.any():
        return "the mask is too small"
    extent_mm = []
    for axis in standing(geometry.affine_mm)[0]:
        span = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        extent_mm.append(float(span[-1] - span[0] + 1) * voxel_mm[axis])
    if any(edge > limit for edge, limit in zip(extent_mm, HEAD_MM, strict=True)):
        size = " x ".join(f"{edge:.0f}" for edge in extent_mm)
        return f"the mask reaches {size} mm, farther than a brain"
    share = np.count_nonzero(brain) / np.count_nonzero(~dark)
    if share < LEAST_SHARE:
        return f"the mask fills {100 * share:.0f} % of what has signal, less than a brain does in its head"
    return ""
