"""The GRE phase image that radiologists know: homodyne high-pass filtered phase of one echo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from recon.kernels import threads
from recon.types import Acquisition, BadRecipe, FloatArray


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
    window = [_hann(n, filter_.samples) for n in acquisition.geometry.shape[:2]]
    highpass = np.empty(acquisition.geometry.shape, dtype=np.float32)
    for z in range(highpass.shape[2]):
        image = acquisition.magnitude[echo, :, :, z] * np.exp(1j * acquisition.phase[echo, :, :, z])
        spectrum = scipy.fft.fft2(image, workers=threads())
        spectrum *= window[0][:, None] * window[1][None, :]
        lowpass = scipy.fft.ifft2(spectrum, workers=threads(), overwrite_x=True)
        highpass[:, :, z] = np.angle(image * lowpass.conj())
    return highpass, acquisition.te_s[echo]


def _hann(n: int, samples: int) -> FloatArray:
    """Hann window over the central ``samples`` of ``n`` frequencies, in FFT order; 1 at frequency 0."""
    frequency = scipy.fft.fftfreq(n, 1 / n)
    window = np.where(2 * np.abs(frequency) < samples, 0.5 + 0.5 * np.cos(2 * np.pi * frequency / samples), 0.0)
    return window.astype(np.float32)
