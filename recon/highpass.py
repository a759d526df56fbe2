"""The GRE phase image that radiologists know: homodyne high-pass filtered phase of one echo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from recon import echo_kernels
from recon.kernels import threads
from recon.types import Acquisition, BadRecipe, ComplexArray, FloatArray


@dataclass(frozen=True, slots=True)
class Homodyne:
    """Phase of the image divided by its low-pass image (Wang et al. 2000, J Magn Reson Imaging 12:661).

    Parameters
    ----------
    samples
        The low-pass image keeps this many in-plane k-space samples along each axis, under a Hann window.
    te_s
        The echo nearest to this time is used (Chen et al. 2014, Radiology 270:496: 25.8 ms).
    """

    samples: int = 64
    te_s: float = 25.8e-3

    def __post_init__(self) -> None:
        if self.samples < 2 or not 0 < self.te_s < 1:
            raise BadRecipe(f"Homodyne needs two samples or more and an echo time in s, got {self}")


def homodyne(acquisition: Acquisition, filter_: Homodyne) -> tuple[FloatArray, float]:
    """High-passed phase, float32 (X, Y, Z) in rad within [-pi, pi], rising with the field; and its echo time in s.

    Two-dimensional, slice by slice, over the whole field of view: a crop would change the cut-off frequency.
    """
    echo = int(np.argmin(np.abs(np.array(acquisition.te_s) - filter_.te_s)))
    nx, ny, nz = acquisition.geometry.shape
    highpass = np.empty((nx, ny, nz), dtype=np.float32)
    for first in range(0, nz, SLAB):
        slices = slice(first, min(first + SLAB, nz))
        image = np.empty((nx, ny, slices.stop - first), dtype=np.complex64)
        echo_kernels.complex_signal(acquisition.magnitude[echo], acquisition.phase[echo], first, image)
        low = lowpass(image, filter_.samples)
        echo_kernels.phase_difference(image, low, first, highpass)
    return highpass, acquisition.te_s[echo]


SLAB = 32
"""Slices that are filtered at once: enough for long runs, few enough to need little memory."""


def lowpass(image: ComplexArray, samples: int) -> ComplexArray:
    """What the central ``samples`` in-plane k-space samples show, under a Hann window; complex64 (X, Y, Z).

    The other samples are 0, so only lines through the central ones are transformed.
    """
    (nx, ny, nz), workers = image.shape, threads()
    (kx, wx), (ky, wy) = (_hann(n, samples) for n in (nx, ny))
    rows = scipy.fft.fft(image, axis=0, workers=workers)[kx]
    kept = scipy.fft.fft(rows, axis=1, workers=workers)[:, ky]
    kept *= wx[:, None, None] * wy[None, :, None]
    rows = np.zeros((kx.size, ny, nz), dtype=np.complex64)
    rows[:, ky] = kept
    spectrum = np.zeros((nx, ny, nz), dtype=np.complex64)
    spectrum[kx] = scipy.fft.ifft(rows, axis=1, workers=workers, overwrite_x=True)
    low: ComplexArray = scipy.fft.ifft(spectrum, axis=0, workers=workers, overwrite_x=True)
    return low


def _hann(n: int, samples: int) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Places of the central ``samples`` of ``n`` frequencies in FFT order, and the Hann window there."""
    frequency = scipy.fft.fftfreq(n, 1 / n)
    central = np.flatnonzero(2 * np.abs(frequency) < samples)
    window = 0.5 + 0.5 * np.cos(2 * np.pi * frequency[central] / samples)
    return central, window.astype(np.float32)
