"""A human head drawn from the template of ``phantoms.atlas``, and the function that paints it on any grid.

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

from phantoms.ageing import aged, atrophy, with_calcified_plexus
from phantoms.atlas import CAVITIES, LABEL, NUCLEI, OUTSIDE_BRAIN, TISSUES, VEINS, Part, Tissue
from phantoms.charts import draw_charts
from phantoms.lesions import DEMO_LESIONS, Lesion
from phantoms.shapes import Axes, Chart, Ellipsoid, Tube, cut, mirrored, window
from recon.types import FloatArray

LabelArray = npt.NDArray[np.uint8]


WALL_MM = 2.2
"""Bone between the brain's cavity and an orbit or a sinus, at the least."""


@dataclass(frozen=True, slots=True, eq=False)
class Painted:
    """The head on a grid.

    ``label`` uint8 chooses the tissue of the signal in ``Head.tissues``, ``chi_label`` that of the susceptibility,
    ``chi_ppm`` float32 is the susceptibility relative to water, ``brain`` bool is everything inside the pia,
    ``foreign`` bool what is no part of the brain wherever it lies (bone, air, dural sinuses), ``texture`` float32 a
    smooth field of unit variance for the relative variation of the signal.
    """

    label: LabelArray
    chi_label: LabelArray
    chi_ppm: FloatArray
    brain: npt.NDArray[np.bool_]
    foreign: npt.NDArray[np.bool_]
    texture: FloatArray


@dataclass(frozen=True, eq=False)
class Head:
    """A head with its lesions: the charts of its layers, the solids inside them.

    ``gap_mm`` is the width of the fluid over the brain, ``skull_mm`` the thickness of the bone, ``healthy`` the
    tissues in the order of ``TISSUES``; other values than ``head`` chooses make unusual heads.
    """

    seed: int
    lesions: tuple[Lesion, ...]
    scale: tuple[float, float, float]
    gap_mm: float
    charts: dict[str, Chart]
    cavities: tuple[Part, ...]
    nuclei: tuple[Part, ...]
    veins: tuple[Part, ...]
    skull_mm: float = 6.6
    healthy: tuple[Tissue, ...] = TISSUES

    @cached_property
    def tissues(self) -> tuple[Tissue, ...]:
        """The tissue of every label: the healthy ones, then one for every lesion, then one for every core."""
        return (
            self.healthy
            + tuple(Tissue(le.kind, le.chi_ppm, le.r2s_hz, le.t1_s, le.pd) for le in self.lesions)
            + tuple(Tissue("core", c.chi_ppm, c.r2s_hz, c.t1_s, c.pd) for le in self.lesions if (c := le.core))
        )

    def labels_of(self, lesion: int) -> tuple[int, ...]:
        """The label of the lesion with this index, and of its core if it has one."""
        own = len(TISSUES) + lesion
        if self.lesions[lesion].core is None:
            return (own,)
        cores = sum(le.core is not None for le in self.lesions[:lesion])
        return own, len(TISSUES) + len(self.lesions) + cores

    def where_lesion(self, lesion: int, label: LabelArray) -> npt.NDArray[np.bool_]:
        """Whether a label is that of the lesion with this index, core included."""
        own, *core = self.labels_of(lesion)
        return np.isin(label, [*core, own]) if core else np.equal(label, own)

    def depth_mm(self, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Depth of points (N, 3) below the surface of the brain in mm, (N,); negative in bone and sinuses too."""
        chart = self.charts["cavity"]
        places = [(points_mm[:, i] - float(axis[0])) / float(axis[1] - axis[0]) for i, axis in enumerate(chart.axes)]
        inside = scipy.ndimage.map_coordinates(chart.values, places, order=1, mode="nearest")
        depth = np.asarray(-inside - self.gap_mm, dtype=np.float64)
        x, y, z = points_mm.T.astype(np.float32)[:, :, None]
        for part in (*self.cavities, *self.veins):
            if part.tissue in ("bone", "dural sinus"):
                outside = [part.solid.distance_mm((x[i], y[i], z[i])).item() for i in range(len(points_mm))]
                depth = np.minimum(depth, outside)
        return depth

    def paint(self, axes: Axes) -> Painted:
        """The head on the rectilinear grid of ``axes`` (mm, rising)."""
        charts = {name: chart.on(axes) for name, chart in self.charts.items()}
        label, chi_label, brain = self._layers(axes, charts)
        self._solids(axes, self.cavities, label, chi_label, charts, walled=True)
        self._solids(axes, self.nuclei, label, chi_label, charts, wandering=True)
        self._solids(axes, self.veins, label, chi_label, charts)
        host = chi_label.copy() if any(lesion.dispersed for lesion in self.lesions) else chi_label
        self._lesions(axes, label, chi_label, brain)
        of_tissue = np.array([t.chi_ppm for t in self.tissues], dtype=np.float32)
        chi = of_tissue[chi_label]
        chi += np.array([t.chi_sd_ppm for t in self.tissues], dtype=np.float32)[chi_label] * charts["chi texture"]
        for index, lesion in enumerate(self.lesions):
            if lesion.dispersed:
                grains = chi_label == self.labels_of(index)[0]
                chi[grains] += of_tissue[host[grains]]
        foreign = np.array([t.name in OUTSIDE_BRAIN for t in self.tissues])[label]
        return Painted(label, chi_label, chi, brain, foreign, charts["texture"])

    def _layers(
        self, axes: Axes, charts: dict[str, FloatArray]
    ) -> tuple[LabelArray, LabelArray, npt.NDArray[np.bool_]]:
        """Air, scalp, skull, CSF, cortex and white matter: what depth and folding decide."""
        outside, skin, bump = charts["cavity"], charts["skin"], charts["bump"]
        label = np.full(outside.shape, LABEL["muscle"], dtype=np.uint8)
        pads = (outside > 14) & (bump + 0.4 * charts["texture"] > 0.4)
        label[pads | (skin > -5.5 - bump)] = LABEL["fat"]
        label[skin > -1.6] = LABEL["skin"]
        bone = self.skull_mm + bump
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
            target[brain & (csf > 0.5 * wander)] = LABEL["grey matter"]
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

    def _lesions(self, axes: Axes, label: LabelArray, chi_label: LabelArray, brain: npt.NDArray[np.bool_]) -> None:
        """Paint lesions; what would reach beyond the brain is cut off at its surface."""
        for index, lesion in enumerate(self.lesions):
            x, y, z = lesion.centre_mm
            r = lesion.reach_mm + 1
            box = window(axes, (x - r, y - r, z - r), (x + r, y + r, z + r))
            if box is None:
                continue
            distance = lesion.distance_mm(cut(axes, box))
            own, *core = self.labels_of(index)
            for target, margin_mm in ((label, 0.0), (chi_label, lesion.chi_margin_mm)):
                target[box][(distance < margin_mm) & brain[box]] = own
                if lesion.core is not None:
                    target[box][(distance < margin_mm - lesion.core.depth_mm) & brain[box]] = core[0]


def _sheet(across_mm: FloatArray, beyond_mm: FloatArray, half_mm: float) -> FloatArray:
    """Distance to a sheet of half thickness ``half_mm`` that ends where ``beyond_mm`` becomes positive."""
    side = np.maximum(np.abs(across_mm) - half_mm, 0)
    past = np.maximum(beyond_mm, 0)
    return np.asarray(np.sqrt(side * side + past * past), dtype=np.float32)


def head(seed: int = 1, lesions: tuple[Lesion, ...] | None = None, age_years: float | None = None) -> Head:
    """A head whose anatomy is drawn from ``seed``.

    Parameters
    ----------
    lesions
        Lesions in head coordinates; ``None`` places ``DEMO_LESIONS``, moved with the size of the head.
    age_years
        Sets iron, calcium of the choroid plexus and atrophy, and lets the size of heads differ as people's do;
        without an age the nuclei are those of the atlas, atrophy is drawn and sizes differ by 3 %.
    """
    rng = np.random.default_rng([seed, 1])
    scale = rng.uniform(0.97, 1.03, 3)
    loss = float(rng.uniform(0, 1))
    healthy = TISSUES
    if age_years is not None:
        person = np.random.default_rng([seed, 3])
        healthy, loss = aged(TISSUES, age_years, person), atrophy(age_years, person)
        healthy = with_calcified_plexus(healthy, age_years, np.random.default_rng([seed, 4]))
        scale = scale * person.uniform(0.95, 1.03)
    if lesions is None:
        lesions = tuple(
            replace(lesion, centre_mm=tuple((np.array(lesion.centre_mm) * scale).tolist())) for lesion in DEMO_LESIONS
        )
    return Head(
        seed=seed,
        lesions=lesions,
        scale=(float(scale[0]), float(scale[1]), float(scale[2])),
        gap_mm=1.5 + 1.2 * loss,
        charts=draw_charts(rng, scale),
        cavities=_varied(rng, CAVITIES, scale, size=0.12) + _mastoid_cells(rng),
        nuclei=_varied(rng, NUCLEI, scale, size=0.07, csf_growth=1 + 0.25 * loss),
        veins=_varied(rng, VEINS, scale, size=0.1),
        healthy=healthy,
    )


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
