"""The template head as data: what tissues do to the signal, and where the solids of each tissue lie.

Coordinates are those of ``phantoms.anatomy``. Nothing here varies or computes.
"""

from __future__ import annotations

from dataclasses import dataclass

from phantoms.shapes import Ellipsoid, Solid, Tube


@dataclass(frozen=True, slots=True)
class Tissue:
    """What a tissue does to the signal at 3 T.

    chi_ppm is relative to water, chi_sd_ppm its smooth variation inside the tissue, r2s_hz R2* in 1/s, t1_s T1 in s,
    pd the proton density relative to water, shift_ppm the chemical shift of its protons.
    """

    name: str
    chi_ppm: float
    r2s_hz: float
    t1_s: float
    pd: float
    chi_sd_ppm: float = 0.0
    shift_ppm: float = 0.0


# chi of nuclei and white matter: Lim et al., NeuroImage 2013;82:449; Deistung et al., NeuroImage 2013;65:299;
# Langkammer et al., NeuroImage 2012;62:1593. R2* at 3 T: Yao et al., NeuroImage 2009;44:1259; Langkammer et al.,
# Radiology 2010;257:455. T1, proton density: Wansapura et al., JMRI 1999;9:531; Stanisz et al., MRM 2005;54:507.
# Venous blood (oxygenation 60 %): Weisskoff and Kiihne, MRM 1992;24:375; Zhao et al., MRM 2007;58:592. Air, bone,
# fat: Schenck, Med Phys 1996;23:815; Hopkins and Wehrli, MRM 1997;37:494; Szczepaniak et al., MRM 2002;47:607.
TISSUES: tuple[Tissue, ...] = (
    Tissue("air", 9.4, 0, 1.0, 0),
    Tissue("skin", 0.0, 45, 1.1, 0.70),
    Tissue("fat", 0.6, 40, 0.37, 0.60, shift_ppm=-3.4),
    Tissue("muscle", 0.0, 38, 1.40, 0.75),
    Tissue("bone", -2.0, 500, 0.4, 0.15),
    Tissue("marrow", -1.0, 140, 0.40, 0.55, shift_ppm=-3.4),
    Tissue("vitreous", 0.0, 2, 4.0, 1.0),
    Tissue("csf", 0.0, 2, 4.2, 1.0),
    Tissue("grey matter", 0.02, 17, 1.45, 0.83, 0.010),
    Tissue("white matter", -0.03, 20.5, 0.85, 0.70, 0.007),
    Tissue("cerebellar cortex", 0.015, 19, 1.30, 0.81, 0.010),
    Tissue("thalamus", 0.015, 22, 1.10, 0.77, 0.012),
    Tissue("caudate", 0.06, 25, 1.25, 0.81, 0.012),
    Tissue("putamen", 0.07, 28, 1.20, 0.80, 0.015),
    Tissue("pallidum", 0.18, 41, 0.95, 0.74, 0.015),
    Tissue("red nucleus", 0.12, 36, 1.00, 0.75, 0.010),
    Tissue("substantia nigra", 0.15, 39, 1.05, 0.76, 0.015),
    Tissue("dentate nucleus", 0.11, 33, 1.05, 0.76, 0.012),
    Tissue("choroid plexus", 0.05, 30, 1.60, 0.85, 0.020),
    Tissue("vein", 0.40, 45, 1.60, 0.80),
    Tissue("dural sinus", 0.40, 45, 1.60, 0.80),
)
OUTSIDE_BRAIN = ("air", "skin", "fat", "muscle", "bone", "marrow", "dural sinus")
"""Tissues that are no part of the brain wherever they lie."""

LABEL = {tissue.name: label for label, tissue in enumerate(TISSUES)}


@dataclass(frozen=True, slots=True)
class Part:
    """A solid of one tissue; ``paired`` parts have a mirror image on the right."""

    tissue: str
    solid: Solid
    paired: bool = False


def _e(tissue: str, *numbers: float, paired: bool = False, power: float = 2.0) -> Part:
    """An ellipsoid from centre, radii and, when given, angles."""
    x, y, z, a, b, c, *angles = numbers
    u, v, w = angles or (0.0, 0.0, 0.0)
    return Part(tissue, Ellipsoid((x, y, z), (a, b, c), (u, v, w), power), paired)


# The shape of the intracranial cavity, of the cerebellum, of the fissures and of the surface of the head.
CAVITY = (
    Ellipsoid((0, 0, 6), (66, 84, 49), power=2.2),
    Ellipsoid((39, -14, -25), (26, 37, 22)),
    Ellipsoid((-39, -14, -25), (26, 37, 22)),
    Ellipsoid((0, 40, -36), (50, 40, 30)),
)
SKULL_BASE = Ellipsoid((0, -50, -51), (29, 50, 30), power=2.5)
SURFACE = (
    Ellipsoid((0, -54, -64), (57, 44, 64), power=2.4),
    Ellipsoid((0, 20, -122), (60, 70, 96), power=3.0),
    Ellipsoid((57, -20, -16), (16, 34, 30)),
    Ellipsoid((-57, -20, -16), (16, 34, 30)),
)
CEREBELLUM = (
    Ellipsoid((21, 46, -40), (27, 29, 22)),
    Ellipsoid((-21, 46, -40), (27, 29, 22)),
    Ellipsoid((0, 44, -36), (9, 26, 20)),
)
BRAINSTEM = (
    Ellipsoid((0, 11, -15), (16, 11, 9)),
    Ellipsoid((0, 15, -32), (16, 13, 15)),
    Tube(((0, 20, -40), (0, 30, -72), (0, 34, -160)), 7.5),
)
CISTERNS = (
    Ellipsoid((0, -8, -23), (14, 13, 6)),
    Ellipsoid((54, -6, -4), (15, 26, 1.4), (-12, 18, 0)),
    Ellipsoid((-54, -6, -4), (15, 26, 1.4), (-12, -18, 0)),
    Ellipsoid((40, -8, 4), (1.4, 19, 11), (0, 10, -9)),
    Ellipsoid((-40, -8, 4), (1.4, 19, 11), (0, -10, 9)),
)
CALLOSUM = Ellipsoid((0, 2, 4), (40, 44, 25))

# Painted over the layers of the head in this order.
CAVITIES: tuple[Part, ...] = (
    _e("bone", 39, 15, -45, 22, 6.5, 7.5, 0, 8, -32, paired=True),
    _e("fat", 31, -66, -36, 17, 26, 16, 0, 0, 12, paired=True),
    _e("vitreous", 32, -77, -36, 11.5, 11.5, 11.5, paired=True),
    _e("air", 9, -87, -10, 9, 4, 9, 0, -20, 0, paired=True),
    _e("air", 7.5, -22, -36, 6.5, 13, 8, paired=True),
    _e("air", 8, -52, -37, 6, 20, 10, paired=True, power=2.5),
    _e("air", 6, -64, -60, 3.5, 24, 13, paired=True, power=2.5),
    _e("air", 29, -60, -64, 13, 15, 15, paired=True, power=2.5),
    Part("air", Tube(((0, -22, -58), (0, -14, -80), (0, -16, -160)), 9)),
    Part("air", Tube(((56, 10, -42), (66, 9, -43), (84, 7, -45)), 2.8), paired=True),
)
NUCLEI: tuple[Part, ...] = (
    _e("white matter", 0, 5, 22, 24, 34, 6),
    _e("white matter", 0, -28, 12, 20, 7, 12),
    _e("white matter", 0, 38, 13, 18, 7, 10),
    _e("csf", 10, -2, 17, 6, 30, 5.5, 4, 14, -4, paired=True),
    _e("csf", 9, -29, 12, 4.5, 12, 8.5, 0, 14, 10, paired=True),
    _e("csf", 22, 32, 8, 6, 11, 11, 0, 10, -22, paired=True),
    _e("csf", 30, 14, -10, 2.6, 22, 3.5, -16, 0, 8, paired=True),
    _e("csf", 17, 52, 8, 3.2, 14, 5, 0, 0, 6, paired=True),
    _e("csf", 0, 6, -1, 2.4, 14, 10, power=2.4),
    Part("csf", Tube(((0, 16, -8), (0, 24, -20), (0, 30, -30)), 1.2)),
    _e("csf", 0, 30, -34, 7, 5, 9, -15, 0, 0),
    _e("choroid plexus", 21, 32, 7, 2.6, 5, 5, 0, 0, -22, paired=True),
    _e("caudate", 13.5, -21, 9, 5, 10, 8.5, 0, 12, 14, paired=True),
    _e("caudate", 17.5, 0, 18, 3, 17, 3.2, 0, 0, -14, paired=True),
    _e("putamen", 26, -6, 3, 5.5, 16.5, 10, 0, -12, -12, paired=True),
    _e("pallidum", 19.5, -3, 1, 4.6, 10, 7, 0, -14, -24, paired=True),
    _e("thalamus", 11, 12, 5, 8.5, 15, 9, 0, 0, -22, paired=True),
    _e("red nucleus", 5.2, 9, -12, 3, 3.2, 4, paired=True),
    _e("substantia nigra", 9.5, 3.5, -15, 6.5, 2.4, 4.5, 0, 0, 32, paired=True),
    _e("dentate nucleus", 15, 44, -38, 8, 6, 3.5, 0, 18, 20, paired=True),
)
VEINS: tuple[Part, ...] = (
    Part("dural sinus", Tube(((0, -60, 44), (0, -34, 56), (0, 0, 60), (0, 36, 55), (0, 66, 36), (0, 83, 4)), 3.4)),
    Part("dural sinus", Tube(((0, 40, 12), (0, 60, 0), (0, 82, -10)), 2.6)),
    Part("dural sinus", Tube(((0, 82, -8), (30, 72, -14), (46, 50, -24), (48, 30, -38)), 3.6), paired=True),
    Part("vein", Tube(((2.2, -16, 12), (2.0, 8, 11), (1.5, 28, 10), (0, 40, 12)), 0.9), paired=True),
    Part("vein", Tube(((9, -8, -14), (17, 8, -12), (14, 24, -6), (0, 38, 10)), 0.9), paired=True),
    Part("vein", Tube(((3, -16, 12), (12, -12, 17), (22, -2, 24), (30, 4, 32)), 0.6), paired=True),
    Part("vein", Tube(((3, -16, 12), (8, -34, 14), (20, -46, 20)), 0.6), paired=True),
    Part("vein", Tube(((2, 28, 10), (18, 36, 18), (30, 44, 26)), 0.6), paired=True),
)
