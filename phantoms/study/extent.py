"""The extent of a lesion on an image: volume, and the sum over it.

The rule is one for all images: a threshold at half between the median of the lesion and that of its surroundings, the
component that touches the lesion, within 5 mm of it. On phase the absolute value stands for the value, and the sum
takes the phase "adjusted to 0-2 pi in each voxel" (Chen W. et al., Radiology 2014;270:496).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from phantoms.study.reading import Site
from phantoms.study.record import Extent
from recon.types import BoolArray, FloatArray, Vector

MARGIN_MM = 5.0


def susceptibility_extent(chi_ppb: FloatArray, place: Site, voxel_mm: Vector) -> Extent:
    """Volume in cm3 and total susceptibility in ppb cm3, of the whole map float32 (X, Y, Z) in ppb."""
    values = chi_ppb[place.box]
    found = component(values, place, voxel_mm)
    return _extent(values, found, voxel_mm)


def phase_extent(phase_mrad: FloatArray, place: Site, voxel_mm: Vector) -> Extent:
    """Volume in cm3 and total phase in rad cm3, of the displayed phase float32 (X, Y, Z) in mrad."""
    phase_rad = phase_mrad[place.box] / np.float32(1000)
    found = component(np.abs(phase_rad), place, voxel_mm)
    return _extent(np.mod(phase_rad, np.float32(2 * np.pi)), found, voxel_mm)


def component(values: FloatArray, place: Site, voxel_mm: Vector) -> BoolArray:
    """The voxels of ``place.box`` that are the lesion by its values; none when it does not stand out."""
    shell = place.shell
    inside = float(np.median(values[place.lesion]))
    outside = float(np.median(values[shell])) if shell.any() else 0.0
    half = (inside + outside) / 2
    beyond = values > half if inside > outside else values < half
    near = ndimage.distance_transform_edt(~place.lesion, sampling=voxel_mm) <= MARGIN_MM
    labels, _ = ndimage.label(beyond & near & (place.around | place.lesion))
    touching = np.unique(labels[place.lesion & (labels > 0)])
    return np.isin(labels, touching[touching > 0])


def _extent(values: FloatArray, found: BoolArray, voxel_mm: Vector) -> Extent:
    voxel_cm3 = float(np.prod(voxel_mm)) / 1000
    return Extent(float(found.sum()) * voxel_cm3, float(values[found].sum(dtype=np.float64)) * voxel_cm3)
