"""Solids and smooth random fields in millimetres, evaluated on any rectilinear grid.

A solid is an approximate signed distance in mm: negative inside, positive outside. Nothing here knows anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import scipy.fft

from phantoms.kernels import trilinear
from recon.kernels import threads
from recon.types import FloatArray, Shape, Vector

Axes = tuple[FloatArray, FloatArray, FloatArray]
"""The x, y, z coordinates in mm of a rectilinear grid: three float32 vectors."""


@lru_cache(1024)
def rotation(angles_deg: Vector) -> npt.NDArray[np.float64]:
    """The matrix that turns by ``angles_deg`` about x, then y, then z; read-only."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in np.deg2rad(angles_deg))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn = np.asarray(about_z @ about_y @ about_x)
    turn.flags.writeable = False
    return turn


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A superellipsoid ``|x/a|^n + |y/b|^n + |z/c|^n = 1``, turned by ``angles_deg`` about x, then y, then z.

    The exponent ``n`` is ``power``: 2 is the ellipsoid, larger is more box-like.
    """

    centre_mm: Vector
    radii_mm: Vector
    angles_deg: Vector = (0.0, 0.0, 0.0)
    power: float = 2.0

    def reach_mm(self) -> Vector:
        """Half the edges of the box, along the axes, that holds the solid."""
        corner = np.abs(rotation(self.angles_deg)) @ np.array(self.radii_mm)
        return float(corner[0]), float(corner[1]), float(corner[2])

    def box_mm(self) -> tuple[Vector, Vector]:
        """The lowest and the highest corner of the box that holds the solid."""
        centre, reach = np.array(self.centre_mm), np.array(self.reach_mm())
        low, high = (centre - reach).tolist(), (centre + reach).tolist()
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def distance_mm(self, axes: Axes) -> FloatArray:
        """First-order distance ``(g - 1) / |grad g|`` to the surface g = 1, on the grid of ``axes``."""
        x, y, z = axes
        turn = rotation(self.angles_deg).astype(np.float32)
        offsets = (
            x[:, None, None] - np.float32(self.centre_mm[0]),
            y[None, :, None] - np.float32(self.centre_mm[1]),
            z[None, None, :] - np.float32(self.centre_mm[2]),
        )
        total = slope = np.float32(0)
        for own in range(3):
            radius = np.float32(self.radii_mm[own])
            # Without the terms that are 0 an upright solid's powers are those of three vectors.
            q = np.abs(sum(turn[i, own] * offsets[i] for i in range(3) if turn[i, own] != 0)) / radius
            if self.power == 2:
                total, slope = total + q * q, slope + (q / radius) ** 2
            else:
                total = total + q**self.power
                slope = slope + (q ** (self.power - 1) / radius) ** 2
        # With G = sum q^n and g = G^(1/n): |grad g| = g / G sqrt(sum (q^(n-1)/r)^2).
        total = np.maximum(total, np.float32(1e-6))
        level = np.sqrt(total) if self.power == 2 else total ** np.float32(1 / self.power)
        steepness = level / total * np.sqrt(slope)
        return np.asarray((level - 1) / np.maximum(steepness, np.float32(1e-4)), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Tube:
    """A chain of straight pieces through ``points_mm``, of radius ``radius_mm`` with round ends."""

    points_mm: tuple[Vector, ...]
    radius_mm: float

    def box_mm(self) -> tuple[Vector, Vector]:
        """The lowest and the highest corner of the box that holds the solid."""
        points = np.array(self.points_mm)
        low = (points.min(axis=0) - self.radius_mm).tolist()
        high = (points.max(axis=0) + self.radius_mm).tolist()
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def distance_mm(self, axes: Axes) -> FloatArray:
        """Distance to the surface, on the grid of ``axes``."""
        x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
        nearest = np.full((x.size, y.size, z.size), np.inf, dtype=np.float32)
        points = np.array(self.points_mm, dtype=np.float32)
        for start, end in pairwise(points):
            along = end - start
            rx, ry, rz = x - start[0], y - start[1], z - start[2]
            t = np.clip((rx * along[0] + ry * along[1] + rz * along[2]) / (along @ along), 0, 1)
            squared = (rx - t * along[0]) ** 2 + (ry - t * along[1]) ** 2 + (rz - t * along[2]) ** 2
            np.minimum(nearest, squared, out=nearest)
        return np.asarray(np.sqrt(nearest) - np.float32(self.radius_mm), dtype=np.float32)


Solid = Ellipsoid | Tube


def mirrored(solid: Solid) -> Solid:
    """The solid on the other side of the plane x = 0."""
    if isinstance(solid, Tube):
        return Tube(tuple((-x, y, z) for x, y, z in solid.points_mm), solid.radius_mm)
    (x, y, z), (about_x, about_y, about_z) = solid.centre_mm, solid.angles_deg
    return Ellipsoid((-x, y, z), solid.radii_mm, (about_x, -about_y, -about_z), solid.power)


def smooth_union(distances: Sequence[FloatArray], blend_mm: float) -> FloatArray:
    """Union of solids whose seams are rounded over ``blend_mm``: a polynomial smooth minimum."""
    result, *others = distances
    for other in others:
        overlap = np.maximum(blend_mm - np.abs(result - other), 0) / blend_mm
        result = np.minimum(result, other) - overlap * overlap * np.float32(blend_mm / 4)
    return result


def window(axes: Axes, low_mm: Vector, high_mm: Vector) -> tuple[slice, slice, slice] | None:
    """The part of the grid inside a box; ``None`` when it is empty."""
    spans = []
    for axis, low, high in zip(axes, low_mm, high_mm, strict=True):
        start, stop = np.searchsorted(axis, low), np.searchsorted(axis, high, side="right")
        if start >= stop:
            return None
        spans.append(slice(int(start), int(stop)))
    return spans[0], spans[1], spans[2]


def cut(axes: Axes, part: tuple[slice, slice, slice]) -> Axes:
    """The axes of a part of the grid."""
    return axes[0][part[0]], axes[1][part[1]], axes[2][part[2]]


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """A volume on a regular grid of the head, read between its points linearly and beyond its faces as on them.

    ``values`` float32 (X, Y, Z), C-ordered.
    """

    values: FloatArray
    axes: Axes

    def on(self, axes: Axes) -> FloatArray:
        """The volume on another rectilinear grid."""
        result = np.empty((axes[0].size, axes[1].size, axes[2].size), dtype=np.float32)
        trilinear(self.values, *self._places(axes, 0), *self._places(axes, 1), *self._places(axes, 2), result)
        return result

    def _places(self, axes: Axes, axis: int) -> tuple[npt.NDArray[np.intp], FloatArray]:
        """The point below each coordinate, and the share of the way to the next one."""
        own = self.axes[axis]
        place = np.clip((axes[axis] - own[0]) / (own[1] - own[0]), 0, own.size - 1)
        below = np.minimum(place.astype(np.intp), own.size - 2)
        return below, (place - below).astype(np.float32)


def random_field(
    rng: np.random.Generator, shape: Shape, voxel_mm: float, wavelength_mm: float, spread: float
) -> FloatArray:
    """Gaussian noise of zero mean and unit variance, float32, with power around one wavelength.

    The spectrum is a Gaussian in |k| about ``1 / wavelength_mm`` of relative width ``spread``; a spread of 1 or
    more is a low pass (blobs), a small one a labyrinth of nearly equal spacing.
    """
    size = tuple(scipy.fft.next_fast_len(n + int(wavelength_mm / voxel_mm), real=True) for n in shape)
    noise = rng.standard_normal(size, dtype=np.float32)
    kx, ky = (np.fft.fftfreq(n, voxel_mm).astype(np.float32) for n in size[:2])
    kz = np.fft.rfftfreq(size[2], voxel_mm).astype(np.float32)
    k = np.sqrt(kx[:, None, None] ** 2 + ky[None, :, None] ** 2 + kz[None, None, :] ** 2)
    centre = 0.0 if spread >= 1 else 1 / wavelength_mm
    gain = np.exp(-0.5 * ((k - centre) * (wavelength_mm / spread)) ** 2)
    spectrum = scipy.fft.rfftn(noise, workers=threads()) * gain
    field = scipy.fft.irfftn(spectrum, s=size, workers=threads())[: shape[0], : shape[1], : shape[2]]
    field -= field.mean()
    field /= field.std()
    return np.ascontiguousarray(field, dtype=np.float32)
