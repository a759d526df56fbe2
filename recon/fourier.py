"""The Fourier grid: sizes, transforms, and the symbols of the operators that it diagonalises.

The only place that knows the FFT library and its number of workers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.fft

from recon.kernels import threads
from recon.types import ComplexArray, FloatArray, Shape, Vector


def good_size(n: int) -> int:
    """Smallest even 7-smooth size >= n that is not a multiple of 64.

    Odd factors up to 7 are what the FFT handles fastest; a stride of 64 lines makes the cache's sets collide.
    """
    size = n + n % 2
    while not _is_smooth(size) or size % 64 == 0:
        size += 2
    return size


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def rfft(volume: FloatArray) -> ComplexArray:
    """Real-to-complex 3D transform, complex64 (X, Y, Z // 2 + 1)."""
    spectrum: ComplexArray = scipy.fft.rfftn(volume, workers=threads())
    return spectrum


def irfft(spectrum: ComplexArray, shape: Shape) -> FloatArray:
    """Inverse of :func:`rfft`; the spectrum is destroyed."""
    volume: FloatArray = scipy.fft.irfftn(spectrum, shape, workers=threads(), overwrite_x=True)
    return volume


def filtered(volume: FloatArray, symbol: FloatArray) -> FloatArray:
    """The volume with its :func:`rfft` multiplied by a real symbol."""
    spectrum = rfft(volume)
    spectrum *= symbol
    x, y, z = volume.shape
    return irfft(spectrum, (x, y, z))


def fft_pair(pair: ComplexArray) -> ComplexArray:
    """Transform of two real volumes as the parts of a complex one, in place: a fifth to a third faster than apart."""
    spectrum: ComplexArray = scipy.fft.fftn(pair, workers=threads(), overwrite_x=True)
    return spectrum


def ifft_pair(spectrum: ComplexArray) -> ComplexArray:
    """Inverse of :func:`fft_pair`, in place."""
    pair: ComplexArray = scipy.fft.ifftn(spectrum, workers=threads(), overwrite_x=True)
    return pair


def rfft_mean(symbol: FloatArray, shape: Shape) -> float:
    """Mean over the whole k-space of a symbol on the :func:`rfft` grid, whose inner planes stand for two."""
    doubled = symbol[..., 1 : (shape[2] + 1) // 2].sum(dtype=np.float64)
    return float((symbol.sum(dtype=np.float64) + doubled) / np.prod(shape))


def frequencies(shape: Shape, voxel_mm: Vector) -> tuple[npt.NDArray[np.float64], ...]:
    """Frequencies in 1/mm along x, y, z of the :func:`rfft` grid, shaped to broadcast."""
    (nx, ny, nz), (hx, hy, hz) = shape, voxel_mm
    return (
        scipy.fft.fftfreq(nx, hx)[:, None, None],
        scipy.fft.fftfreq(ny, hy)[None, :, None],
        scipy.fft.rfftfreq(nz, hz)[None, None, :],
    )


def dipole_kernel(shape: Shape, voxel_mm: Vector, b0_dir: Vector) -> FloatArray:
    r"""Unit dipole in k-space, float32 on the :func:`rfft` grid.

    .. math:: D(k) = \frac13 - \frac{(k \cdot b)^2}{|k|^2}, \qquad D(0) = 0

    (Salomir 2003, Concepts Magn Reson 19B:26; Marques & Bowtell 2005, 25B:65.) The field of the Lorentz-corrected
    sphere: a relative shift, ppm of B0 per ppm of susceptibility. On the Nyquist planes of even axes k and -k are
    one sample, so there D is the mean over both signs: the terms odd in that frequency vanish.
    """
    k = frequencies(shape, voxel_mm)
    odd = [np.where(2 * np.abs(ki) * h >= 1 - 1e-9, 0.0, ki) for ki, h in zip(k, voxel_mm, strict=True)]
    b = b0_dir
    along = sum((ki * bi) ** 2 for ki, bi in zip(k, b, strict=True))
    cross = odd[0] * odd[1] * (b[0] * b[1]) + odd[0] * odd[2] * (b[0] * b[2]) + odd[1] * odd[2] * (b[1] * b[2])
    square = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    square[0, 0, 0] = 1.0
    kernel = 1 / 3 - (along + 2 * cross) / square
    kernel[0, 0, 0] = 0.0
    return kernel.astype(np.float32)


def gradient_power(shape: Shape, voxel_mm: Vector) -> FloatArray:
    r"""Symbol of :math:`\nabla^T\nabla` of the periodic forward differences per voxel edge, on the rfft grid.

    Differences are taken in units of the smallest edge (:func:`edge_scales`), float32, dimensionless.
    """
    axes = zip(frequencies(shape, voxel_mm), voxel_mm, edge_scales(voxel_mm), strict=True)
    power = sum((2 - 2 * np.cos(2 * np.pi * ki * h)) * s**2 for ki, h, s in axes)
    return np.asarray(power, dtype=np.float32)


def edge_scales(voxel_mm: Vector) -> Vector:
    """What a difference between neighbours along x, y, z is multiplied by: smallest edge over this edge."""
    x, y, z = (min(voxel_mm) / h for h in voxel_mm)
    return x, y, z
