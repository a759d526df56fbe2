"""A surface that grows inside the head until it meets the skull (Smith 2002, Hum Brain Mapp 17:143).

It is too smooth to follow the brain, but it never runs through a thin bridge into the neck or the orbits: it bounds
a mask that might.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recon.mask import kernels
from recon.morphology import filled
from recon.types import BoolArray, FloatArray, Vector

Triangles = npt.NDArray[np.int32]

STEPS = 1200
START_MM = 60.0


def inside_surface(relative: FloatArray, voxel_mm: Vector, centre_mm: Vector, share: float) -> BoolArray:
    """Voxels inside the surface, bool (X, Y, Z).

    Parameters
    ----------
    relative
        float32 (X, Y, Z), magnitude relative to the brain's, 0 in air.
    centre_mm
        Middle of the sphere at the start, in mm from the first voxel.
    share
        Of the brightest voxel within 10 mm below the surface: darker ones within 20 mm draw it inwards.
    """
    unit, triangles = icosphere(3)
    vertices = np.asarray(centre_mm, dtype=np.float32) + np.float32(START_MM) * unit
    neighbours, degree = _neighbours(triangles, len(vertices))
    step = np.asarray(voxel_mm, dtype=np.float32)
    kernels.deform(vertices, triangles, neighbours, degree, relative, step, np.float32(share), STEPS)
    return _solid(vertices, triangles, relative.shape, step)


def icosphere(divisions: int) -> tuple[FloatArray, Triangles]:
    """Unit vectors float32 (V, 3) and triangles int32 (T, 3), outside in front, of a divided icosahedron."""
    golden = (1 + 5**0.5) / 2
    corners = [(s, t * golden, 0.0) for t in (1, -1) for s in (-1.0, 1.0)]
    points = [p[-k:] + p[:-k] for k in range(3) for p in corners]
    unit = [np.array(p) / np.linalg.norm(p) for p in points]
    near = np.linalg.norm(np.array(unit)[:, None] - np.array(unit)[None], axis=2) < 1.1
    count = range(12)
    triangles = [
        (a, b, c)
        for a in count
        for b in count
        for c in count
        if a < min(b, c) and near[a, b] and near[b, c] and near[a, c]
        and np.linalg.det([unit[a], unit[b], unit[c]]) > 0
    ]  # fmt: skip
    for _ in range(divisions):
        middle: dict[tuple[int, int], int] = {}
        finer = []
        for corner in triangles:
            between = []
            for a, b in zip(corner, (*corner[1:], corner[0]), strict=True):
                key = (min(a, b), max(a, b))
                if key not in middle:
                    middle[key] = len(unit)
                    half = unit[a] + unit[b]
                    unit.append(half / np.linalg.norm(half))
                between.append(middle[key])
            (a, b, c), (ab, bc, ca) = corner, between
            finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        triangles = finer
    return np.array(unit, dtype=np.float32), np.array(triangles, dtype=np.int32)


def _neighbours(triangles: Triangles, count: int) -> tuple[Triangles, npt.NDArray[np.int32]]:
    """Neighbours of every vertex (V, 6), and how many there are."""
    sets: list[set[int]] = [set() for _ in range(count)]
    for a, b, c in triangles.tolist():
        sets[a] |= {b, c}
        sets[b] |= {a, c}
        sets[c] |= {a, b}
    table = np.array([(sorted(s) * 2)[:6] for s in sets], dtype=np.int32)
    return table, np.array([len(s) for s in sets], dtype=np.int32)


def _solid(
    vertices: FloatArray, triangles: Triangles, shape: tuple[int, ...], voxel_mm: npt.NDArray[np.float32]
) -> BoolArray:
    """Voxels of a closed surface and of what it encloses."""
    a, b, c = (vertices[triangles[:, k]] / voxel_mm for k in range(3))
    longest = max(float(np.linalg.norm(p - q, axis=1).max()) for p, q in ((a, b), (b, c), (c, a)))
    parts = int(np.ceil(longest / 0.5))
    shell = np.zeros([n + 2 for n in shape], dtype=np.bool_)
    for i in range(parts + 1):
        for j in range(parts + 1 - i):
            u, v = i / parts, j / parts
            at = np.rint((1 - u - v) * a + u * b + v * c).astype(np.intp) + 1
            shell[at[:, 0], at[:, 1], at[:, 2]] = True
    return np.ascontiguousarray(filled(shell)[1:-1, 1:-1, 1:-1])
