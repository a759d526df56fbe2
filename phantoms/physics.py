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
from phantoms.kernels import dipole
from phantoms.shapes import Axes
from recon.kernels import threads
from recon.types import BoolArray, ComplexArray, FloatArray, Shape, Vector


def centred_axes(shape: Shape, voxel_mm: Vector) -> Axes:
    """Coordinates in mm of the voxel centres of a grid whose middle is the origin."""
    x, y, z = (
        ((np.arange(n) - (n - 1) / 2) * edge).astype(np.float32) for n, edge in zip(shape, voxel_mm, strict=True)
    )
    return x, y, z


def in_blocks(count: int, size: int, work: Callable[[slice], None]) -> None:
    """Run ``work`` on blocks of ``size`` of ``count`` indices, on every core."""
    blocks = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    with ThreadPoolExecutor(threads()) as pool:
        for _ in pool.map(work, blocks):
            pass


def box_mean(volume: FloatArray | BoolArray, factor: int) -> FloatArray:
    """Mean over cubes of ``factor`` voxels along each edge, float32."""
    total = np.zeros([n // factor for n in volume.shape], dtype=np.float32)
    for i, j, k in np.ndindex(factor, factor, factor):
        total += volume[i::factor, j::factor, k::factor]
    total *= np.float32(1 / factor**3)
    return total


def decimate(volume: npt.NDArray[np.generic], axis: int, factor: int) -> ComplexArray:
    """The volume at the centres of ``factor`` neighbours along an axis, from the lowest frequencies alone.

    Cropping k-space keeps every ``factor``-th point of the fine grid; the centre of the acquired voxel lies
    (factor - 1) / 2 points farther, which is a linear phase in k-space.
    """
    fine = volume.shape[axis]
    coarse = fine // factor
    rising = (coarse + 1) // 2
    spectrum = scipy.fft.fft(volume, axis=axis)
    order = scipy.fft.fftfreq(coarse, 1 / coarse)
    ramp = (np.exp(1j * np.pi * order * (factor - 1) / fine) / factor).astype(np.complex64)
    kept = np.empty([coarse if i == axis else n for i, n in enumerate(volume.shape)], dtype=np.complex64)
    for here, there in ((slice(rising), slice(rising)), (slice(rising, None), slice(fine - coarse + rising, None))):
        shape = [-1 if i == axis else 1 for i in range(volume.ndim)]
        np.multiply(spectrum[_along(axis, there)], ramp[here].reshape(shape), out=kept[_along(axis, here)])
    return np.asarray(scipy.fft.ifft(kept, axis=axis, overwrite_x=True))


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    """Index of a part of a volume along one axis."""
    return (*[slice(None)] * axis, part)


def dipole_field(chi_ppm: FloatArray, voxel_mm: Vector, b0_dir: Vector, padding: float = 1.5) -> FloatArray:
    r"""Relative field in ppm of B0, Lorentz sphere corrected: :math:`\hat f = (1/3 - (k \cdot b)^2 / k^2)\,\hat\chi`.

    The volume goes on beyond its faces as it is on them (the neck goes on, air stays air), over ``padding`` times
    its size; the constant part of the field is 0. (Salomir R. et al., Concepts Magn Reson 2003;19B:26.)
    """
    shape = [_odd_size(int(np.ceil(n * padding))) for n in chi_ppm.shape]
    margins = [((p - n) // 2, p - n - (p - n) // 2) for p, n in zip(shape, chi_ppm.shape, strict=True)]
    inner = [slice(before, before + n) for (before, _), n in zip(margins, chi_ppm.shape, strict=True)]
    b = (np.asarray(b0_dir, dtype=np.float64) / np.linalg.norm(b0_dir)).astype(np.float32)
    kx, ky = (scipy.fft.fftfreq(n, h).astype(np.float32) for n, h in zip(shape[:2], voxel_mm[:2], strict=True))
    kz = scipy.fft.rfftfreq(shape[2], voxel_mm[2]).astype(np.float32)
    # Padding along one axis is the same before and after a transform along another: lines of padding are left out.
    spectrum = np.empty((*chi_ppm.shape[:2], kz.size), dtype=np.complex64)
    field = np.empty(chi_ppm.shape, dtype=np.float32)

    def pad(block: npt.NDArray[np.inexact], axis: int) -> npt.NDArray[np.inexact]:
        return np.pad(block, [margins[i] if i == axis else (0, 0) for i in range(3)], mode="edge")

    def forward(own: slice) -> None:
        spectrum[own] = scipy.fft.rfft(pad(chi_ppm[own], 2), axis=2)

    def planes(own: slice) -> None:
        block = scipy.fft.fft(pad(spectrum[..., own], 1), axis=1, overwrite_x=True)
        block = scipy.fft.fft(pad(block, 0), axis=0, overwrite_x=True)
        dipole(block, kx, ky, kz[own], b)
        block = scipy.fft.ifft(block, axis=0, overwrite_x=True)[inner[0]]
        spectrum[..., own] = scipy.fft.ifft(block, axis=1)[:, inner[1]]

    def backward(own: slice) -> None:
        field[own] = scipy.fft.irfft(spectrum[own], shape[2], axis=2)[..., inner[2]]

    in_blocks(chi_ppm.shape[0], 8, forward)
    in_blocks(kz.size, 8, planes)
    in_blocks(chi_ppm.shape[0], 8, backward)
    return field


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
