"""A human head at 3 T as tables of tissues and solids, and one function that paints them on any grid.

Head coordinates are millimetres from the middle of the brain, in the sense of DICOM's LPS: x to the left, y to the
back, z to the top. They are the axes of the image: the slices always follow the head. An oblique B0 is a head, and
slices with it, tilted in the magnet; ``recon.types.Geometry.of`` says how.

What varies with the seed: size, proportions, folding of the cortex, atrophy, ventricles, place and size of the
nuclei, veins, sinuses, texture. Edges of susceptibility wander up to about 1 mm from the edges of the signal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from phantoms.lesions import DEMO_LESIONS, Lesion
from phantoms.shapes import (
    Axes,
    Chart,
    Ellipsoid,
    Solid,
    Tube,
    cut,
    mirrored,
    random_field,
    smooth_union,
    window,
)
from recon.types import FloatArray

LabelArray = npt.NDArray[np.uint8]


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

# Painted in this order over the layers of the head; the second list with wandering edges of susceptibility.
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

WALL_MM = 2.2
"""Bone between the brain's cavity and an orbit or a sinus, at the least."""

CHART_MM = 1.5
REACH = ((-93.0, 93.0), (-111.0, 111.0), (-81.0, 81.0))
"""The box, in mm, in which the head's charts lie; below it the neck goes on as on its last slice."""


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """The head on a grid.

    ``label`` uint8 chooses the tissue of the signal in ``Head.tissues``, ``chi_ppm`` float32 is the susceptibility
    relative to water, ``brain`` bool is everything inside the pia, ``foreign`` bool what is no part of the brain
    wherever it lies (bone, air, dural sinuses), ``texture`` float32 a smooth field of unit
    variance for the relative variation of the signal.
    """

    label: LabelArray
    chi_ppm: FloatArray
    brain: npt.NDArray[np.bool_]
    foreign: npt.NDArray[np.bool_]
    texture: FloatArray


@dataclass(frozen=True, eq=False)
class Head:
    """A head with its lesions: the charts of its layers, the solids inside them."""

    seed: int
    lesions: tuple[Lesion, ...]
    scale: tuple[float, float, float]
    gap_mm: float
    charts: dict[str, Chart]
    cavities: tuple[Part, ...]
    nuclei: tuple[Part, ...]
    veins: tuple[Part, ...]

    @cached_property
    def tissues(self) -> tuple[Tissue, ...]:
        """The tissue of every label: ``TISSUES``, then one for every lesion."""
        return TISSUES + tuple(
            Tissue(lesion.kind, lesion.chi_ppm, lesion.r2s_hz, lesion.t1_s, lesion.pd) for lesion in self.lesions
        )

    def label_of(self, lesion: int) -> int:
        """The label of the lesion with this index."""
        return len(TISSUES) + lesion

    def depth_mm(self, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Depth of points (N, 3) below the surface of the brain in mm, (N,); negative outside."""
        chart = self.charts["cavity"]
        places = [(points_mm[:, i] - float(axis[0])) / float(axis[1] - axis[0]) for i, axis in enumerate(chart.axes)]
        inside = scipy.ndimage.map_coordinates(chart.values, places, order=1, mode="nearest")
        return np.asarray(-inside - self.gap_mm, dtype=np.float64)

    def paint(self, axes: Axes) -> Painted:
        """The head on the rectilinear grid of ``axes`` (mm, rising)."""
        charts = {name: chart.on(axes) for name, chart in self.charts.items()}
        label, chi_label, brain = self._layers(axes, charts)
        self._solids(axes, self.cavities, label, chi_label, charts, walled=True)
        self._solids(axes, self.nuclei, label, chi_label, charts, wandering=True)
        self._solids(axes, self.veins, label, chi_label, charts)
        self._lesions(axes, label, chi_label)
        chi = np.array([t.chi_ppm for t in self.tissues], dtype=np.float32)[chi_label]
        chi += np.array([t.chi_sd_ppm for t in self.tissues], dtype=np.float32)[chi_label] * charts["chi texture"]
        foreign = np.array([t.name in OUTSIDE_BRAIN for t in self.tissues])[label]
        return Painted(label, chi, brain, foreign, charts["texture"])

    def _layers(
        self, axes: Axes, charts: dict[str, FloatArray]
    ) -> tuple[LabelArray, LabelArray, npt.NDArray[np.bool_]]:
        """Air, scalp, skull, CSF, cortex and white matter: what depth and folding decide."""
        outside, skin, bump = charts["cavity"], charts["skin"], charts["bump"]
        label = np.full(outside.shape, LABEL["muscle"], dtype=np.uint8)
        pads = (outside > 14) & (bump + 0.4 * charts["texture"] > 0.4)
        label[pads | (skin > -5.5 - bump)] = LABEL["fat"]
        label[skin > -1.6] = LABEL["skin"]
        bone = 6.6 + bump
        label[outside < bone] = LABEL["bone"]
        label[(outside > 2.2) & (outside < bone - 2.2)] = LABEL["marrow"]
        label[skin > 0] = LABEL["air"]

        depth = -outside - self.gap_mm * (1 + 0.2 * bump)
        brain = (depth > 0) & (skin < 0)
        label[outside < 0] = LABEL["csf"]
        sulcus = 13 + 5 * charts["sulcus"]
        fissure = self._fissure(axes, charts)
        csf = np.minimum(depth, _sheet(charts["fold"], depth - sulcus, 0.45 + 0.25 * self.gap_mm))
        csf = np.minimum(csf, np.minimum(fissure, charts["cisterns"]))
        chi_label = label.copy()
        rim = 2.9 + 0.3 * bump
        for target, wander in ((label, np.float32(0)), (chi_label, charts["slip"])):
            target[brain & (csf > 0)] = LABEL["grey matter"]
            target[brain & (csf > rim + wander)] = LABEL["white matter"]
        self._hindbrain(charts, brain, label, chi_label)
        reach = np.hypot(charts["fold"], depth - 0.8)
        draining = brain & (reach < 0.75) & (charts["sulcus"] + 0.6 * charts["texture"] > 0.5)
        for target in (label, chi_label):
            target[draining] = LABEL["vein"]
        return label, chi_label, brain

    def _fissure(self, axes: Axes, charts: dict[str, FloatArray]) -> FloatArray:
        """Distance to the interhemispheric fissure, which ends at the corpus callosum."""
        beside = np.abs(axes[0][:, None, None] + 0.7 * charts["bump"])
        return _sheet(beside, -charts["callosum"], 0.7 + 0.2 * self.gap_mm)

    @staticmethod
    def _hindbrain(
        charts: dict[str, FloatArray],
        brain: npt.NDArray[np.bool_],
        label: LabelArray,
        chi_label: LabelArray,
    ) -> None:
        """Cerebellum and brainstem: folia are fingers of white matter between a cortex and its fissures."""
        inside = -charts["cerebellum"]
        folia = charts["folia"]
        for target, wander in ((label, np.float32(0)), (chi_label, charts["slip"])):
            target[brain & (inside > 0)] = LABEL["cerebellar cortex"]
            target[brain & (inside > 0) & (inside < 3.5 - 9 * (folia + 0.75))] = LABEL["csf"]
            target[brain & (inside > 10 - 6.5 * folia + wander)] = LABEL["white matter"]
            target[charts["brainstem"] < 0] = LABEL["white matter"]

    @staticmethod
    def _solids(
        axes: Axes,
        parts: tuple[Part, ...],
        label: LabelArray,
        chi_label: LabelArray,
        charts: dict[str, FloatArray],
        wandering: bool = False,
        walled: bool = False,
    ) -> None:
        """Paint solids in order: with wandering edges of susceptibility, or walled off from the brain by bone."""
        margin = 2.5
        for part in parts:
            low, high = part.solid.box_mm()
            box = window(
                axes,
                (low[0] - margin, low[1] - margin, low[2] - margin),
                (high[0] + margin, high[1] + margin, high[2] + margin),
            )
            if box is None:
                continue
            # A bump may not be thicker than the solid: thin ones keep their shape.
            thin = part.solid.radius_mm if isinstance(part.solid, Tube) else min(part.solid.radii_mm)
            distance = part.solid.distance_mm(cut(axes, box)) + charts["bump"][box] * min(0.5, thin / 8)
            if walled and part.tissue != "bone":
                distance = np.maximum(distance, WALL_MM - charts["cavity"][box])
            label[box][distance < 0] = LABEL[part.tissue]
            wander = charts["slip"][box] * min(1.0, thin / 5) if wandering else np.float32(0)
            chi_label[box][distance + wander < 0] = LABEL[part.tissue]

    def _lesions(self, axes: Axes, label: LabelArray, chi_label: LabelArray) -> None:
        for index, lesion in enumerate(self.lesions):
            x, y, z = lesion.centre_mm
            r = lesion.reach_mm + 1
            box = window(axes, (x - r, y - r, z - r), (x + r, y + r, z + r))
            if box is None:
                continue
            inside = lesion.distance_mm(cut(axes, box)) < 0
            label[box][inside] = chi_label[box][inside] = self.label_of(index)


def _sheet(across_mm: FloatArray, beyond_mm: FloatArray, half_mm: float) -> FloatArray:
    """Distance to a sheet of half thickness ``half_mm`` that ends where ``beyond_mm`` becomes positive."""
    side = np.maximum(np.abs(across_mm) - half_mm, 0)
    past = np.maximum(beyond_mm, 0)
    return np.asarray(np.sqrt(side * side + past * past), dtype=np.float32)


def head(seed: int = 1, lesions: tuple[Lesion, ...] | None = None) -> Head:
    """A head whose anatomy is drawn from ``seed``.

    Parameters
    ----------
    lesions
        Lesions in head coordinates; ``None`` places ``DEMO_LESIONS``, moved with the size of the head.
    """
    rng = np.random.default_rng([seed, 1])
    scale = rng.uniform(0.97, 1.03, 3)
    atrophy = float(rng.uniform(0, 1))
    if lesions is None:
        lesions = tuple(
            replace(lesion, centre_mm=tuple((np.array(lesion.centre_mm) * scale).tolist())) for lesion in DEMO_LESIONS
        )
    return Head(
        seed=seed,
        lesions=lesions,
        scale=(float(scale[0]), float(scale[1]), float(scale[2])),
        gap_mm=1.5 + 1.2 * atrophy,
        charts=_charts(rng, scale),
        cavities=_varied(rng, CAVITIES, scale, size=0.12) + _mastoid_cells(rng),
        nuclei=_varied(rng, NUCLEI, scale, size=0.07, csf_growth=1 + 0.25 * atrophy),
        veins=_varied(rng, VEINS, scale, size=0.1),
    )


def _charts(rng: np.random.Generator, scale: npt.NDArray[np.float64]) -> dict[str, Chart]:
    """The layers of the head and its random fields on the chart grid."""
    x, y, z = (np.arange(low, high + CHART_MM / 2, CHART_MM, dtype=np.float32) for low, high in REACH)
    shape = (x.size, y.size, z.size)
    own: Axes = (x, y, z)
    template: Axes = (x / np.float32(scale[0]), y / np.float32(scale[1]), z / np.float32(scale[2]))

    def union(solids: tuple[Solid, ...], blend_mm: float) -> FloatArray:
        return smooth_union([solid.distance_mm(template) for solid in solids], blend_mm)

    def noise(wavelength_mm: float, spread: float = 1.0) -> FloatArray:
        return np.clip(random_field(rng, shape, CHART_MM, wavelength_mm, spread), -2, 2)

    bump = noise(24)
    outside_vault: FloatArray = np.negative(union(CAVITY, 14))
    cavity: FloatArray = 0.8 * bump - smooth_union([outside_vault, SKULL_BASE.distance_mm(template)], 12)
    brainstem = union(BRAINSTEM, 8) + 0.4 * bump
    cerebellum = union(CEREBELLUM, 8) + 0.5 * bump
    below = np.maximum(brainstem - 3.0, template[2][None, None, :] + 12)
    values = {
        "cavity": cavity,
        "skin": smooth_union([cavity - 11.5, *(solid.distance_mm(template) for solid in SURFACE)], 16),
        "cerebellum": np.maximum(cerebellum, 1.5 - brainstem),
        "brainstem": brainstem,
        "cisterns": np.minimum(np.minimum(union(CISTERNS, 3) + 0.4 * bump, cerebellum - 1.8), below),
        "callosum": CALLOSUM.distance_mm(template),
        "fold": _folding(rng, template),
        "folia": _folia(template, bump),
        "bump": bump,
        "sulcus": noise(30),
        "slip": 0.45 * noise(14),
        "texture": noise(9),
        "chi texture": noise(9),
    }
    return {name: Chart(np.ascontiguousarray(value, np.float32), own) for name, value in values.items()}


def _folding(rng: np.random.Generator, axes: Axes) -> FloatArray:
    """Signed distance in mm to the middle of the nearest sulcus.

    The zeros of band-passed noise are a labyrinth like the cortex's; read on the sphere of directions they become
    sheets that run inwards from the surface.
    """
    x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    labyrinth = random_field(rng, (112, 136, 104), 1.5, 21.0, 0.3)
    radii, middle = (62.0, 80.0, 52.0), (np.array(labyrinth.shape) - 1) / 2
    u, v, w = x / radii[0], y / radii[1], (z - 2) / radii[2]
    r = np.sqrt(u * u + v * v + w * w) + np.float32(0.05)
    # A slow change with depth bends the sulci.
    onto = (0.75 + 0.25 * r) / r
    places = [
        (direction * onto * radius) / 1.5 + centre
        for direction, radius, centre in zip((u, v, w), radii, middle, strict=True)
    ]
    level = scipy.ndimage.map_coordinates(labyrinth, places, order=1, mode="mirror")
    slope = np.sqrt(sum(np.gradient(level, float(a[1] - a[0]), axis=i) ** 2 for i, a in enumerate(axes)))
    slope = scipy.ndimage.uniform_filter(slope, 5)
    return np.asarray(np.clip(level / np.maximum(slope, 0.05), -15, 15), dtype=np.float32)


def _folia(axes: Axes, bump: FloatArray) -> FloatArray:
    """A wave of -1..1 over the cerebellum whose crests are the cores of its folia."""
    y, z = axes[1][None, :, None] - 26, axes[2][None, None, :] + 34
    angle = np.arctan2(z, y) + 0.08 * bump
    return np.asarray(np.cos(angle * 15), dtype=np.float32)


def _varied(
    rng: np.random.Generator,
    parts: tuple[Part, ...],
    scale: npt.NDArray[np.float64],
    size: float,
    csf_growth: float = 1.0,
) -> tuple[Part, ...]:
    """The parts scaled with the head, both sides of pairs, each moved and sized a little at random."""
    varied = []
    for part in parts:
        for solid in (part.solid, mirrored(part.solid)) if part.paired else (part.solid,):
            shift = rng.normal(0, 0.5, 3)
            grow = np.exp(rng.normal(0, size, 3)) * (csf_growth if part.tissue == "csf" else 1.0)
            if isinstance(solid, Tube):
                points = np.array(solid.points_mm) * scale
                moved = tuple((float(a), float(b), float(c)) for a, b, c in points)
                varied.append(Part(part.tissue, Tube(moved, float(solid.radius_mm * grow[0]))))
                continue
            centre = (np.array(solid.centre_mm) * scale + shift).tolist()
            radii = (np.array(solid.radii_mm) * scale * grow).tolist()
            varied.append(
                Part(
                    part.tissue,
                    replace(
                        solid,
                        centre_mm=(centre[0], centre[1], centre[2]),
                        radii_mm=(radii[0], radii[1], radii[2]),
                    ),
                )
            )
    return tuple(varied)


def _mastoid_cells(rng: np.random.Generator) -> tuple[Part, ...]:
    """Air cells of both mastoids, in the bone behind the ears."""
    cells = []
    for side in (1.0, -1.0):
        for _ in range(16):
            x, y, z = rng.normal((59, 30, -46), (4, 7, 7)).tolist()
            a, b, c = rng.uniform(1.5, 4.0, 3).tolist()
            cells.append(Part("air", Ellipsoid((side * x, y, z), (a, b, c))))
    return tuple(cells)
