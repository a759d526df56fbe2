"""Hemorrhages and calcifications in the forms in which they occur, drawn at random.

A place and a volume come in, a `Lesion` goes out. Nothing here knows patients or anatomy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from phantoms.lesions import Core, Kind, Lesion, drawn_ellipsoid
from recon.types import Vector

Stage = Literal["hyperacute", "acute", "early subacute", "late subacute", "chronic"]
Bleed = Literal["microbleed", "hematoma", "hemosiderin rim"]
Calcium = Literal["punctate", "solid", "rim", "faint", "in iron"]

STAGE_PPM: dict[Stage, tuple[float, float]] = {
    "hyperacute": (0.57, 0.48),
    "acute": (1.30, 0.33),
    "early subacute": (1.14, 0.46),
    "late subacute": (0.40, 0.13),
    "chronic": (0.71, 0.31),
}
"""Mean and standard deviation of a hematoma's susceptibility, n = 42 (Chang S. et al., JMRI 2016;44:420)."""

FAINTEST_PPM = 0.15
"""The least susceptibility of a hemorrhage: a reader finds no weaker one on magnitude."""

SIZE_SLOPE = 0.15
"""Exponent of r0/r by which small calcifications are denser: punctate ones are solid, large ones porous."""


def radius_mm(volume_mm3: float) -> float:
    """Radius of the sphere of this volume."""
    return float(np.cbrt(volume_mm3 * 3 / (4 * np.pi)))


def hemorrhage(rng: np.random.Generator, form: Bleed, stage: Stage, centre_mm: Vector, volume_mm3: float) -> Lesion:
    """A hemorrhage of a form and stage.

    A microbleed is old blood: its iron is denser than a hematoma's (1.2 +- 0.4 ppm). The rim of hemosiderin around
    an old hematoma, 1-2 mm thick, holds fluid with a tenth of its susceptibility. Extracellular methemoglobin (late
    subacute) shortens T1 and hardly T2*.
    """
    mean, spread = (1.2, 0.4) if form == "microbleed" else STAGE_PPM[stage]
    chi = float(np.clip(rng.normal(mean, spread), FAINTEST_PPM, 2.5))
    late = stage == "late subacute" and form == "hematoma"
    lesion = _outline(
        rng, "hemorrhage", chi, centre_mm, volume_mm3,
        irregularity=(0.0, 0.10) if form == "microbleed" else (0.08, 0.2),
    )  # fmt: skip
    lesion = replace(
        lesion,
        r2s_hz=float(rng.uniform(20, 40) + (20 if late else 80) * chi),
        pd=float(rng.uniform(0.55, 0.8)),
        t1_s=0.45 if late else 1.2,
    )
    if form == "hemosiderin rim":
        fluid = Core(float(rng.uniform(1.0, 2.0)), 0.1 * chi, r2s_hz=15.0, pd=0.95, t1_s=2.5)
        lesion = _with_core(lesion, fluid)
    return lesion


def calcification(rng: np.random.Generator, form: Calcium, centre_mm: Vector, volume_mm3: float) -> Lesion:
    """A calcification of a form.

    Susceptibility: dense ones -0.4 to -1.5 ppm, to -3 ppm the rare solid stone (hydroxyapatite with few mobile
    protons; Schweser F. et al., Med Phys 2010;37:5165; Straub S. et al., MRM 2017;77:1572). A ``rim`` surrounds
    tissue and is a third to a half of its radius thick; a ``faint`` one is that of a cysticercus on its way to
    calcium, -0.1 to -0.35 ppm; ``in iron`` are grains of -0.05 to -0.35 ppm in a nucleus whose iron stays.
    """
    if form == "in iron":
        size = float(np.exp(rng.uniform(np.log(0.05), np.log(0.35))))
    elif form == "faint":
        size = float(rng.uniform(0.1, 0.35))
    else:
        stone = form == "solid" and rng.random() < 0.15
        size = float(rng.uniform(1.5, 3.0)) if stone else float(np.exp(rng.normal(np.log(0.7), 0.4)))
        size = float(np.clip(size * (1.5 / max(radius_mm(volume_mm3), 1.5)) ** SIZE_SLOPE, 0.25, 3.0))
    protons = {"in iron": (0.55, 0.75), "faint": (0.5, 0.75)}.get(form, (0.1, 0.3) if size > 1.2 else (0.2, 0.5))
    lesion = _outline(
        rng, "calcification", -size, centre_mm, volume_mm3,
        irregularity=(0.0, 0.12) if form == "punctate" else (0.06, 0.2),
    )  # fmt: skip
    lesion = replace(
        lesion,
        r2s_hz=float(rng.uniform(25, 45) + 40 * size),
        pd=float(rng.uniform(*protons)),
        dispersed=form == "in iron",
    )
    if form == "rim":
        depth_mm = max(1.0, float(rng.uniform(0.35, 0.5)) * min(lesion.radii_mm))
        lesion = _with_core(lesion, Core(depth_mm, -0.02, r2s_hz=20.0, pd=0.8, t1_s=1.4))
    return lesion


def mixed(rng: np.random.Generator, centre_mm: Vector, volume_mm3: float) -> Lesion:
    """Old blood around a dense calcified core, as in a cavernous malformation."""
    chi = float(rng.uniform(0.4, 1.0))
    blood = replace(
        _outline(rng, "hemorrhage", chi, centre_mm, volume_mm3, irregularity=(0.06, 0.15)),
        r2s_hz=40 + 80 * chi,
        pd=0.6,
        t1_s=1.2,
    )
    depth_mm = 0.4 * min(blood.radii_mm)
    stone = Core(depth_mm, -float(rng.uniform(0.8, 1.8)), r2s_hz=80.0, pd=0.25)
    return replace(blood, kind="mixed", core=stone)


def _outline(
    rng: np.random.Generator,
    kind: Kind,
    chi_ppm: float,
    centre_mm: Vector,
    volume_mm3: float,
    irregularity: tuple[float, float],
) -> Lesion:
    """Shape alone; in one of three lesions the susceptibility ends elsewhere than the signal."""
    r = radius_mm(volume_mm3)
    radii_mm, angles_deg = drawn_ellipsoid(rng, r, 0.18)
    apart = rng.random() < 1 / 3
    margin_mm = float(rng.choice([-1, 1]) * min(rng.uniform(0.1, 0.25) * r, 1.5)) if apart else 0.0
    return Lesion(
        kind,
        chi_ppm,
        centre_mm,
        radii_mm,
        angles_deg,
        irregularity=float(rng.uniform(*irregularity)),
        chi_margin_mm=margin_mm,
        seed=int(rng.integers(2**31)),
    )


def _with_core(lesion: Lesion, core: Core) -> Lesion:
    """The lesion with its core, unless it is too thin to have one."""
    return replace(lesion, core=core) if min(lesion.radii_mm) > 1.8 * core.depth_mm else lesion
