"""The physics of the simulation on plain arrays: field of a susceptibility, steady state, k-space crop.

Shares no numerics with ``recon``, on purpose: a common dipole kernel would hide an error in both.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import scipy.fft

from phantoms.atlas import Tissue
from phantoms.shapes import Axes
from recon.kernels import threads
from recon.types import ComplexArray, FloatArray, Shape, Vector


def centred_axes(shape: Shape, voxel_mm: Vector) -> Axes:
    """Coordinates in mm of the voxel centres of a grid whose middle is the origin."""
    x, y, z = (
        ((np.arange(n) - (n - 1) / 2) * edge).astype(np.float32) for n, edge in zip(shape, voxel_mm, strict=True)
    )
    return x, y, z


def in_slabs(slices: int, factor: int, work: Callable[[slice, slice], None]) -> None:
    """Run ``work(fine slices, acquired slices)`` on slabs of about four acquired slices, on every core."""
    acquired = [slice(start, min(start + 4, slices)) for start in range(0, slices, 4)]
    fine = [slice(s.start * factor, s.stop * factor) for s in acquired]
    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(work, fine, acquired))


def box_mean(volume: npt.NDArray[np.generic], factor: int) -> FloatArray:
    """Mean over cubes of ``factor`` voxels along each edge, float32."""
    x, y, z = (n // factor for n in volume.shape)
    cubes = volume.reshape(x, factor, y, factor, z, factor)
    return np.asarray(cubes.mean(axis=(1, 3, 5), dtype=np.float32))


def decimate(volume: npt.NDArray[np.generic], axis: int, factor: int) -> ComplexArray:
    """The volume at the centres of ``factor`` neighbours along an axis, from the lowest frequencies alone.

    Cropping k-space keeps every ``factor``-th point of the fine grid; the centre of the acquired voxel lies
    (factor - 1) / 2 points farther, which is a linear phase in k-space.
    """
    fine = volume.shape[axis]
    coarse = fine // factor
    spectrum = scipy.fft.fft(volume, axis=axis)
    order = scipy.fft.fftfreq(coarse, 1 / coarse)
    kept = np.take(spectrum, order.astype(np.intp) % fine, axis=axis)
    ramp = np.exp(1j * np.pi * order * (factor - 1) / fine) / factor
    kept *= ramp.astype(np.complex64).reshape([-1 if i == axis else 1 for i in range(3)])
    return np.asarray(scipy.fft.ifft(kept, axis=axis, overwrite_x=True), dtype=np.complex64)


def dipole_field(chi_ppm: FloatArray, voxel_mm: Vector, b0_dir: Vector, padding: float = 1.5) -> FloatArray:
    r"""Relative field in ppm of B0, Lorentz sphere corrected: :math:`\hat f = (1/3 - (k \cdot b)^2 / k^2)\,\hat\chi`.

    The volume goes on beyond its faces as it is on them (the neck goes on, air stays air), over ``padding`` times
    its size; the constant part of the field is 0. (Salomir R. et al., Concepts Magn Reson 2003;19B:26.)
    """
    shape = tuple(_odd_size(int(np.ceil(n * padding))) for n in chi_ppm.shape)
    margins = [((p - n) // 2, p - n - (p - n) // 2) for p, n in zip(shape, chi_ppm.shape, strict=True)]
    spectrum = scipy.fft.rfftn(np.pad(chi_ppm, margins, mode="edge"), workers=threads())
    b = np.asarray(b0_dir, dtype=np.float64) / np.linalg.norm(b0_dir)
    kx, ky = (scipy.fft.fftfreq(n, h).astype(np.float32) for n, h in zip(shape[:2], voxel_mm[:2], strict=True))
    kz = scipy.fft.rfftfreq(shape[2], voxel_mm[2]).astype(np.float32)
    in_plane, along = ky[:, None] ** 2 + kz**2, np.float32(b[1]) * ky[:, None] + np.float32(b[2]) * kz
    for i, k in enumerate(kx):
        square = in_plane + k * k
        square[square == 0] = np.inf
        spectrum[i] *= np.float32(1 / 3) - (along + np.float32(b[0]) * k) ** 2 / square
    spectrum[0, 0, 0] = 0
    field = scipy.fft.irfftn(spectrum, shape, workers=threads(), overwrite_x=True)
    inner = tuple(slice(before, before + n) for (before, _), n in zip(margins, chi_ppm.shape, strict=True))
    return np.ascontiguousarray(field[inner], dtype=np.float32)


def _odd_size(n: int) -> int:
    """The next odd size that transforms fast: without a Nyquist plane the kernel is right for oblique B0 too."""
    n += 1 - n % 2
    while scipy.fft.next_fast_len(n) != n:
        n += 2
    return n


def steady_state(tissue: Tissue, tr_s: float, flip_deg: float) -> float:
    """Signal of a perfectly spoiled gradient echo at echo time 0 (Ernst, Anderson, Rev Sci Instrum 1966;37:93)."""
    flip, e1 = np.deg2rad(flip_deg), np.exp(-tr_s / tissue.t1_s)
    return float(tissue.pd * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1))


def slab_profile(slices: int) -> FloatArray:
    """Excitation over the slab, float32 (slices,): 1, and fading to 0 over the outer 4 % at both ends."""
    to_end = (np.arange(slices) + 0.5) / slices
    rise = np.clip(np.minimum(to_end, 1 - to_end) / 0.04, 0, 1)
    return np.asarray(np.sin(np.pi / 2 * rise) ** 2, dtype=np.float32)


def squared_steps(field: FloatArray) -> FloatArray:
    """Sum over the axes of the squared central difference between neighbours, per voxel."""
    total = np.zeros_like(field)
    for axis in range(3):
        step = np.gradient(field, axis=axis)
        step *= step
        total += step
    return total
