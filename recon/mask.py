"""The automatic brain mask, from magnitude and phase coherence; no atlas, no download, no other program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from recon.morphology import closed, dilate, distance_mm, erode, opened
from recon.types import Acquisition, BadRecipe, BoolArray, FloatArray, NoMask, Vector

S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True, slots=True)
class AutoMask:
    """Brain = bright, coherent in phase, away from air, connected after erosion; then grown to its edge.

    All radii are in mm, magnitudes are relative to the brain's.

    Parameters
    ----------
    grid_mm
        Edge of the working grid of block means.
    last_te_s
        Echoes up to this time are used, at least one.
    coherence, coherence_box_mm
        Least phase coherence |sum H| / sum |H| over a box of this edge, H the product of neighbouring echoes. Bone,
        air and most of the scalp are incoherent.
    core_level, edge_level
        Least magnitude of the core and of the edge.
    depth_mm
        Least depth of the core below the head's surface.
    radii_mm
        Radii of erosion, tried in this order until the mask does not touch the scalp.
    skin_contact
        Greatest fraction of a good mask that lies within 1.5 ``depth_mm`` of the surface.
    reach_mm
        How far the mask may grow beyond the core.
    closing_mm
        Dark places up to twice this width belong to the brain: a hemorrhage has no signal.
    """

    grid_mm: float = 1.6
    last_te_s: float = 14.5e-3
    coherence: float = 0.8
    coherence_box_mm: float = 5.5
    core_level: float = 0.5
    edge_level: float = 0.42
    depth_mm: float = 5.0
    radii_mm: tuple[float, ...] = (5.0, 6.5, 8.0, 10.0, 12.0)
    skin_contact: float = 0.002
    reach_mm: float = 6.0
    closing_mm: float = 8.0

    def __post_init__(self) -> None:
        lengths = (
            self.grid_mm,
            self.last_te_s,
            self.coherence_box_mm,
            self.depth_mm,
            self.reach_mm,
            self.closing_mm,
        )
        shares = 0 < self.edge_level <= self.core_level < 1 and 0 < self.coherence < 1 and 0 <= self.skin_contact < 1
        if not self.radii_mm or not all(x > 0 for x in (*lengths, *self.radii_mm)) or not shares:
            raise BadRecipe(f"AutoMask needs positive lengths and 0 < edge_level <= core_level < 1, got {self}")


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
    voxel_mm = acquisition.geometry.voxel_mm
    block = np.array([max(1, round(method.grid_mm / h)) for h in voxel_mm])
    x, y, z = (float(h * b) for h, b in zip(voxel_mm, block, strict=True))
    grid_mm = (x, y, z)
    fine_magnitude, product, modulus = _first_echoes(acquisition, method.last_te_s)
    if not fine_magnitude.any():
        raise NoMask("no head in the magnitude: it is 0 everywhere")
    magnitude = _block_mean(fine_magnitude, block)
    box = [max(1, round(method.coherence_box_mm / h)) for h in grid_mm]
    coherence = _coherence(_block_mean(product, block), _block_mean(modulus, block), box)

    tissue = _foreground(magnitude)
    head = ndimage.binary_fill_holes(closed(tissue, grid_mm, 10.0))
    depth = distance_mm(~head, grid_mm, 2 * method.depth_mm)
    bias = _smooth_ratio(magnitude, tissue, grid_mm, 25.0)
    relative = np.where(tissue, magnitude / bias, 0)
    bright = (relative > method.core_level) & (coherence > method.coherence)
    core, contact = _core(bright, depth, grid_mm, method)

    bias = _smooth_ratio(magnitude, core, grid_mm, 20.0)
    middle = np.median(bias[core])
    bias = np.clip(bias, 0.35 * middle, 3 * middle)
    bright = tissue & (magnitude > method.edge_level * bias)
    other = opened(bright & (coherence > method.coherence) & ~dilate(core, grid_mm, 2.0), grid_mm, 2.0)
    brain = dilate(core, grid_mm, method.reach_mm) & bright & ~other
    brain = _central(opened(brain, grid_mm, 2.5) | core, grid_mm)
    filled = closed(brain, grid_mm, method.closing_mm) & (depth > method.depth_mm)
    filled = _filled(brain | filled)
    dark = filled & ~brain

    mask = _fine_edge(filled, dark, fine_magnitude, bias, block, grid_mm, method.edge_level)
    return BrainMask(mask, _judged(mask, contact, acquisition.geometry.voxel_mm3, method))


def _first_echoes(
    acquisition: Acquisition, last_te_s: float
) -> tuple[FloatArray, npt.NDArray[np.complex64], FloatArray]:
    """Root mean square magnitude of the first echoes, sum of products of neighbouring echoes, and of their moduli.

    With one echo the product is the signal itself.
    """
    used = max(1, int(np.searchsorted(acquisition.te_s, last_te_s, side="right")))
    magnitude, phase = acquisition.magnitude[:used], acquisition.phase[:used]
    root = np.sqrt(np.mean(magnitude**2, axis=0))
    if len(acquisition.te_s) == 1:
        return root, magnitude[0] * np.exp(1j * phase[0]), magnitude[0]
    product = np.zeros(root.shape, dtype=np.complex64)
    modulus = np.zeros(root.shape, dtype=np.float32)
    for e in range(max(1, used - 1)):
        weight = acquisition.magnitude[e] * acquisition.magnitude[e + 1]
        product += weight * np.exp(1j * (acquisition.phase[e + 1] - acquisition.phase[e]))
        modulus += weight
    return root, product, modulus


def _block_mean(volume: npt.NDArray[S], block: npt.NDArray[np.int64]) -> npt.NDArray[S]:
    """Means over blocks; the last block of an axis is smaller where the size does not divide."""
    for axis, size in enumerate(block):
        start = np.arange(0, volume.shape[axis], size)
        counts = np.diff(np.append(start, volume.shape[axis])).reshape([-1 if a == axis else 1 for a in range(3)])
        volume = (np.add.reduceat(volume, start, axis=axis) / counts.astype(np.float32)).astype(
            volume.dtype, copy=False
        )
    return volume


def _coherence(product: npt.NDArray[np.complex64], modulus: FloatArray, box: list[int]) -> FloatArray:
    real, imag = (ndimage.uniform_filter(part, box) for part in (product.real, product.imag))
    coherence: FloatArray = np.hypot(real, imag) / (ndimage.uniform_filter(modulus, box) + 1e-30)
    return coherence


def _foreground(magnitude: FloatArray) -> BoolArray:
    """Voxels above Otsu's threshold of the log magnitude, without specks below 0.5 % of the largest component."""
    log = np.log(magnitude + 1e-3 * magnitude.mean() + 1e-30)
    tissue = log > _otsu(log)
    labels, count = ndimage.label(tissue)
    if count == 0:
        raise NoMask("no head in the magnitude: it is the same everywhere")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: BoolArray = (sizes > 0.005 * sizes.max())[labels]
    return kept


def _otsu(values: FloatArray) -> float:
    """Threshold with the largest variance between the two classes (Otsu 1979, IEEE Trans SMC 9:62)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), counts.sum()
    moment = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below - total * moment) ** 2 / (below * (total - below).astype(float))
    return float(centres[int(np.nanargmax(np.where(np.isfinite(between), between, -1)))])


def _smooth_ratio(magnitude: FloatArray, where: BoolArray, grid_mm: Vector, sigma_mm: float) -> FloatArray:
    """Gaussian mean of the magnitude over ``where``: the coil's bias, in the unit of the magnitude."""
    sigma = [sigma_mm / h for h in grid_mm]
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma, truncate=3)
    level = ndimage.gaussian_filter(np.where(where, magnitude, np.float32(0)), sigma, truncate=3)
    ratio: FloatArray = level / np.maximum(weight, 1e-3)
    floor: FloatArray = np.maximum(ratio, np.float32(1e-6) * ratio.max())
    return floor


def _core(bright: BoolArray, depth: FloatArray, grid_mm: Vector, method: AutoMask) -> tuple[BoolArray, float]:
    """Central component after the first erosion that cuts it from the scalp, and its contact with the scalp."""
    condition = bright & (depth > method.depth_mm)
    inside = distance_mm(~condition, grid_mm, max(method.radii_mm) + 2)
    tried: list[tuple[float, BoolArray]] = []
    for radius in method.radii_mm:
        eroded = inside > radius
        if not eroded.any():
            break
        core = dilate(_central(eroded, grid_mm), grid_mm, radius + 1) & condition
        contact = float(np.mean(depth[core] < 1.5 * method.depth_mm))
        tried.append((contact, core))
        if contact < method.skin_contact:
            break
    if not tried:
        raise NoMask(
            f"no region deeper than {method.depth_mm + method.radii_mm[0]:.0f} mm with signal and coherent phase"
        )
    lowest = min(contact for contact, _ in tried)
    contact, core = next(t for t in tried if t[0] <= 1.3 * lowest)
    return core, contact


def _central(mask: BoolArray, grid_mm: Vector) -> BoolArray:
    """The component with the largest mass, weighted towards the middle of the array."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    axes = [(np.arange(n) - (n - 1) / 2) * h for n, h in zip(mask.shape, grid_mm, strict=True)]
    weight = [np.exp(-0.5 * (a / 60.0) ** 2) for a in axes]
    central = weight[0][:, None, None] * weight[1][None, :, None] * weight[2][None, None, :]
    mass = np.bincount(labels.ravel(), central.ravel())
    mass[0] = 0
    chosen: BoolArray = labels == mass.argmax()
    return chosen


def _filled(mask: BoolArray) -> BoolArray:
    """Holes filled, also those that a cut end slice opens."""
    filled: BoolArray = ndimage.binary_fill_holes(mask)
    for end in (0, -1):
        filled[:, :, end] = ndimage.binary_fill_holes(filled[:, :, end])
    closed_up: BoolArray = ndimage.binary_fill_holes(filled)
    return closed_up


def _fine_edge(
    mask: BoolArray,
    dark: BoolArray,
    magnitude: FloatArray,
    bias: FloatArray,
    block: npt.NDArray[np.int64],
    grid_mm: Vector,
    level: float,
) -> BoolArray:
    """The mask at full resolution: within 2 mm of its surface it follows the magnitude, but keeps dark places."""

    def fine(volume: npt.NDArray[S]) -> npt.NDArray[S]:
        for axis, size in enumerate(block):
            volume = np.repeat(volume, size, axis=axis)
        return volume[tuple(slice(n) for n in magnitude.shape)]

    sure = fine(erode(mask, grid_mm, 2.0) | dark)
    possible = fine(dilate(mask, grid_mm, 2.0)) & (magnitude > level * fine(bias))
    edge: BoolArray = ndimage.binary_opening(sure | possible) | sure
    labels, count = ndimage.label(edge)
    if count > 1:
        edge = labels == np.bincount(labels[sure]).argmax()
    return _filled(edge)


def _judged(mask: BoolArray, contact: float, voxel_mm3: float, method: AutoMask) -> tuple[str, ...]:
    """Refuse what cannot be a brain; say what is unusual."""
    volume_ml = float(np.count_nonzero(mask)) * voxel_mm3 / 1000
    if volume_ml < 150:
        raise NoMask(f"the automatic mask holds {volume_ml:.0f} mL, a brain at least 150 mL: supply a mask")
    warnings = []
    if volume_ml > 2200:
        warnings.append(f"the automatic mask holds {volume_ml:.0f} mL, more than most brains: check it")
    if contact > 4 * method.skin_contact:
        warnings.append(f"{100 * contact:.1f} % of the mask's core lies at the scalp: check it")
    return tuple(warnings)
