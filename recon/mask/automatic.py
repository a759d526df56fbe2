"""The automatic brain mask, from magnitude and phase coherence; no atlas, no download, no other program.

It has to keep what other masks throw away: hemorrhages and calcifications without signal at the surface of the brain.
Works on blocks near 1.6 mm (``recon.mask.headgrid``), whose axes are the patient's; only the edge is found at full
resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from recon.mask import kernels
from recon.mask.check import BAD_CONTACT, GOOD_CONTACT, NO_SCALP, Signs, judged
from recon.mask.headgrid import HeadGrid, cut_faces, touched
from recon.mask.levels import brain_level, foreground, smooth_mean
from recon.mask.surface import inside_surface
from recon.mask.symmetry import MirrorPlane, midsagittal
from recon.morphology import Ends, closed, dilate, distance_mm, erode, filled, joined, opened
from recon.types import Acquisition, BadRecipe, BoolArray, FloatArray, NoMask, Vector

RADII_MM = (3.0, 4.0, 5.0, 6.5, 8.0, 10.0, 12.0)
"""Radii of erosion that cut the brain from its surroundings, tried in this order."""
LARGE_RADIUS_MM = 5.5
"""A core that needed more than this, or still touches the scalp, is bounded by the deformable surface."""
SHARES, LOST_OVERLAP = (0.70, 0.66, 0.62, 0.56), 0.002
"""Tightness of the surface, tried in this order; how much symmetry it may cost."""
CENTRAL_MM = 60.0
"""Standard deviation of the weight towards the middle of the head."""
REACH_MM, THIN_MM = 6.0, 3.0
"""The brain reaches this far beyond its core, but not into what is thinner than twice the second length."""
THICK_MM, MARGIN_MM = 2.5, 5.0
"""A dark dent thicker than twice the first length is a lesion; it goes on for the second beyond the brain's hull."""
OUTWARD_MM, INWARD_MM = 1.0, 2.0
"""How far the edge at full resolution may lie from that of the blocks."""
BRAIN_LIKE = 0.5
"""What is at least so bright relative to brain may be brain, whatever the method's levels are."""
CORD_CM2 = 6.0
"""Layers with less than this below the brain are cord."""


@dataclass(frozen=True, slots=True)
class AutoMask:
    """Brain = bright, coherent in phase, away from air, connected after erosion; grown to its edge, lesions included.

    Parameters
    ----------
    coherence
        Least phase coherence |sum H| / sum |H| over a box of 5.5 mm, H the product of neighbouring echoes. Bone, air
        and most of the scalp are incoherent.
    core_level, edge_level
        Least magnitude of the core and of the edge, relative to the brain's.
    depth_mm
        Least depth of the brain below the head's surface.
    closing_mm
        Radius of the ball that rolls over the brain: a dark dent that it cannot enter may be a lesion.
    """

    coherence: float = 0.8
    core_level: float = 0.5
    edge_level: float = 0.42
    depth_mm: float = 5.0
    closing_mm: float = 25.0

    def __post_init__(self) -> None:
        shares = 0 < self.edge_level <= self.core_level < 1 and 0 < self.coherence < 1
        if not shares or self.depth_mm <= 0 or self.closing_mm <= 0:
            raise BadRecipe(
                f"AutoMask needs 0 < edge_level <= core_level < 1, 0 < coherence < 1 and positive lengths, got {self}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class BrainMask:
    """bool (X, Y, Z), and what somebody should look at before trusting it."""

    mask: BoolArray
    warnings: tuple[str, ...]


def automatic_mask(acquisition: Acquisition, method: AutoMask) -> BrainMask:
    """Brain mask on the acquired grid.

    Raises
    ------
    NoMask
        If there is no head in the image, or what was found cannot be a brain.
    """
    grid = HeadGrid.of(acquisition)
    voxel_mm, magnitude, coherent = grid.voxel_mm, grid.magnitude, grid.coherence > method.coherence

    tissue = foreground(magnitude)
    cut = cut_faces(tissue, grid)
    head = filled(closed(tissue, voxel_mm, 10.0, cut))
    depth = distance_mm(~head, voxel_mm, 1.5 * method.depth_mm)
    bias = smooth_mean(magnitude, tissue, voxel_mm, 25.0)
    bright = tissue & coherent & (magnitude > method.core_level * bias)
    core = find_core(bright, depth, voxel_mm, method.depth_mm)
    inside = core.mask
    limited = core.radius_mm > LARGE_RADIUS_MM or core.contact > BAD_CONTACT
    if limited:
        inside = within_surface(inside, magnitude, tissue, voxel_mm)

    bias = brain_level(magnitude, inside, voxel_mm)
    bright = tissue & (magnitude > method.edge_level * bias)
    brain = grown(inside, bright, coherent, voxel_mm, cut)
    plane = midsagittal(brain, voxel_mm)
    dim = ~(bright & coherent) & ~brain
    if core.scalp:
        dim &= depth > method.depth_mm
    lesions = dark_lesions(dim, brain, plane, voxel_mm, method.closing_mm)
    whole = closed(brain | lesions, voxel_mm, 4.0) & (brain | lesions | dim)
    whole = without_cord(capped(whole, cut), voxel_mm)

    mask = fine_mask(grid, whole, whole & ~brain, bias, method.edge_level)
    block_ml = float(np.prod(voxel_mm)) / 1000
    signs = Signs(
        volume_ml=float(np.count_nonzero(mask)) * acquisition.geometry.voxel_mm3 / 1000,
        head_ml=float(np.count_nonzero(head)) * block_ml,
        dark_ml=float(np.count_nonzero(lesions)) * block_ml,
        extent_mm=extent_mm(whole, voxel_mm),
        contact=core.contact,
        scalp=core.scalp,
        limited=limited,
        overlap=plane.overlap,
        bright_share=bright_share(whole, tissue & (magnitude > BRAIN_LIKE * bias), voxel_mm),
        faces=touched(whole, grid),
    )
    return BrainMask(mask, judged(signs))


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """What is surely brain; its share near the head's surface; the radius that cut it out; whether a scalp exists."""

    mask: BoolArray
    contact: float
    radius_mm: float
    scalp: bool = True


def find_core(bright: BoolArray, depth: FloatArray, voxel_mm: Vector, depth_mm: float) -> Core:
    """Central component after the first erosion that cuts it from the scalp, or nearly does.

    Raises
    ------
    NoMask
        If nothing is left after the smallest erosion.
    """
    tried = _cores(bright & (depth > depth_mm), depth, voxel_mm, depth_mm)
    if tried and min(core.contact for core in tried) > NO_SCALP:
        first = _cores(bright, depth, voxel_mm, depth_mm)[0]
        return Core(first.mask, 0.0, first.radius_mm, scalp=False)
    if not tried:
        raise NoMask(f"no region deeper than {depth_mm + RADII_MM[0]:.0f} mm with signal and coherent phase")
    lowest = min(core.contact for core in tried)
    return next(core for core in tried if core.contact <= max(1.3 * lowest, GOOD_CONTACT))


def _cores(condition: BoolArray, depth: FloatArray, voxel_mm: Vector, depth_mm: float) -> list[Core]:
    """A core for every radius, until one is good."""
    thickness = distance_mm(~condition, voxel_mm, max(RADII_MM) + 2)
    weight = thickness * _from_middle(depth.shape, voxel_mm)
    tried: list[Core] = []
    for radius in RADII_MM:
        eroded = thickness > radius
        if not eroded.any():
            break
        core = dilate(_central(eroded, weight), voxel_mm, radius + 1) & condition
        contact = float(np.mean(depth[core] < 1.5 * depth_mm))
        tried.append(Core(core, contact, radius))
        if contact < GOOD_CONTACT:
            break
    return tried


def _from_middle(shape: tuple[int, ...], voxel_mm: Vector) -> FloatArray:
    """Weight of every voxel, 1 in the middle of the array."""
    x, y, z = (
        np.exp(-0.5 * ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * (h / CENTRAL_MM)) ** 2).astype(np.float32)
        for n, h in zip(shape, voxel_mm, strict=True)
    )
    return np.asarray(x[:, None, None] * y[None, :, None] * z[None, None, :])


def _central(mask: BoolArray, weight: FloatArray) -> BoolArray:
    """The component with the largest sum of weights."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    mass = np.bincount(labels.ravel(), weight.ravel())
    mass[0] = 0
    chosen: BoolArray = labels == mass.argmax()
    return chosen


def within_surface(core: BoolArray, magnitude: FloatArray, tissue: BoolArray, voxel_mm: Vector) -> BoolArray:
    """The core inside a deformable surface that starts around its deepest central point.

    The tightest surface that leaves the core as symmetric as it was: one that fell into a sulcus or a hemorrhage
    does so on one side.
    """
    weight = distance_mm(~core, voxel_mm, 40.0) * _from_middle(core.shape, voxel_mm)
    x, y, z = (float(i * h) for i, h in zip(np.unravel_index(weight.argmax(), core.shape), voxel_mm, strict=True))
    i, j, k = (np.arange(n, dtype=np.float32) * h for n, h in zip(core.shape, voxel_mm, strict=True))
    ball = (i[:, None, None] - x) ** 2 + (j[None, :, None] - y) ** 2 + (k[None, None, :] - z) ** 2 < 35.0**2
    bias = brain_level(magnitude, core & ball, voxel_mm)
    relative = np.where(tissue, magnitude / bias, np.float32(0))
    least = midsagittal(core, voxel_mm).overlap - LOST_OVERLAP
    inside = core
    for share in SHARES:
        surface = inside_surface(relative, voxel_mm, (x, y, z), share)
        inside = core & dilate(surface, voxel_mm, 3.0)
        if midsagittal(inside, voxel_mm).overlap >= least:
            break
    return inside


def grown(core: BoolArray, bright: BoolArray, coherent: BoolArray, voxel_mm: Vector, cut: Ends) -> BoolArray:
    """The core with what is bright around it, but for other coherent tissue and for what is thin."""
    away = distance_mm(core, voxel_mm, REACH_MM + 0.1)
    other = opened(bright & coherent & (away > 2), voxel_mm, 2.0)
    around = core | (bright & (away <= REACH_MM) & ~other)
    thick = joined(erode(around, voxel_mm, THIN_MM), core)
    brain = core | (around & dilate(thick, voxel_mm, THIN_MM))
    return capped(closed(brain, voxel_mm, 4.0, cut) & (brain | ~other), cut)


def dark_lesions(
    dim: BoolArray, brain: BoolArray, plane: MirrorPlane, voxel_mm: Vector, closing_mm: float
) -> BoolArray:
    """Dents in the brain whose mirror image is brain, or dark with brain below; thick dark ones with what is around.

    Gaps of the skull base are symmetric and open downwards. Lesions are not, and the vault has brain below. A large
    calcification may hold signal behind a dark rim: it is no dark dent, but has its mirror image.
    """
    dents = closed(brain, voxel_mm, closing_mm) & ~brain
    above = dim & np.logical_or.accumulate(brain, axis=2)
    lesions = opened(dents & (above | plane.is_mirrored(dents & ~above, brain, voxel_mm)), voxel_mm, 1.5)
    return lesions | (dim & dilate(opened(lesions, voxel_mm, THICK_MM), voxel_mm, MARGIN_MM))


def capped(mask: BoolArray, cut: Ends) -> BoolArray:
    """The mask with its holes, also those that a cut face opens."""
    result = mask.copy()
    for axis in range(3):
        for side in (0, 1):
            if cut[axis][side]:
                face = np.moveaxis(result, axis, 0)[-side]
                face |= ndimage.binary_fill_holes(face)
    return filled(result)


def without_cord(mask: BoolArray, voxel_mm: Vector) -> BoolArray:
    """The mask without the cord that hangs below it: from its largest layer downwards, up to the first small one."""
    area_cm2 = np.count_nonzero(mask, axis=(0, 1)) * voxel_mm[0] * voxel_mm[1] / 100
    small = np.flatnonzero(area_cm2[: int(area_cm2.argmax())] < CORD_CM2)
    result = mask.copy()
    if small.size:
        result[:, :, : small[-1] + 1] = False
    return result


def fine_mask(grid: HeadGrid, whole: BoolArray, dark: BoolArray, bias: FloatArray, level: float) -> BoolArray:
    """The mask at full resolution: near its surface it follows the magnitude, but keeps its ``dark`` parts."""
    kind = dilate(whole, grid.voxel_mm, OUTWARD_MM).astype(np.uint8)
    kind += erode(whole, grid.voxel_mm, INWARD_MM) | (dark & whole)
    mask = np.empty(grid.root.shape, dtype=np.bool_)
    block = np.array(grid.block)
    kernels.fine_edge(grid.acquired(kind), grid.acquired(bias), grid.root, block, np.float32(level), mask)
    return mask


def bright_share(mask: BoolArray, bright: BoolArray, voxel_mm: Vector) -> float:
    """Share of the layer of 3 mm, or of one voxel, around the mask that is as bright as brain."""
    layer_mm = max(3.0, 1.001 * min(voxel_mm))
    away = distance_mm(mask, voxel_mm, layer_mm + 0.5)
    around = (away > 0) & (away <= layer_mm)
    return float(np.mean(bright[around])) if around.any() else 1.0


def extent_mm(mask: BoolArray, voxel_mm: Vector) -> Vector:
    """Edges of the mask's bounding box; 0 if it is empty."""
    spans = [np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    x, y, z = (float((s[-1] - s[0] + 1) * h) if s.size else 0.0 for s, h in zip(spans, voxel_mm, strict=True))
    return x, y, z
