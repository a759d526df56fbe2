"""From complex echoes to the total field: first field, phase offset, maximum-likelihood fit.

All functions work on the flat voxels of a mask, ``(E, N)`` and ``(N,)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from recon import echo_kernels
from recon.types import Acquisition, BadRecipe, BoolArray, ComplexArray, FieldMap, FloatArray, Vector

OFFSET_PASSES = 8
"""Smoothings of what the last one missed; 2 leave a third of the error at the edge, 8 a sixth."""


@dataclass(frozen=True, slots=True)
class ComplexFit:
    """Voxelwise maximum-likelihood fit of the complex echoes.

    .. math:: \\min_{A, R, f} \\sum_e |S_e e^{-i\\phi_0} - A e^{-R t_e} e^{2\\pi i f t_e}|^2

    Gaussian complex noise makes this the maximum-likelihood field (Liu et al. 2013, MRM 69:467); decoupled
    Gauss-Newton steps. The phase offset phi_0 is smooth and the same in every echo, as in MCPC-3D-S (Eckstein et
    al. 2018, MRM 79:2996).

    Parameters
    ----------
    steps
        At most this many Gauss-Newton steps.
    offset_block_mm, offset_sigma_mm
        The offset is averaged over blocks of this edge, then smoothed by a Gaussian of this sd.
    """

    steps: int = 12
    offset_block_mm: float = 4.0
    offset_sigma_mm: float = 6.0

    def __post_init__(self) -> None:
        if not all(x > 0 for x in (self.steps, self.offset_block_mm, self.offset_sigma_mm)):
            raise BadRecipe(f"ComplexFit needs positive parameters, got {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Echoes:
    """The voxels of a mask in every echo.

    Parameters
    ----------
    magnitude, phase
        float32 (E, N); arbitrary unit, rad.
    te_s
        float32 (E,), s.
    mask
        bool, N voxels set: where the flat voxels stand in volumes.
    voxel_mm
        Voxel edges in mm.
    """

    magnitude: FloatArray
    phase: FloatArray
    te_s: FloatArray
    mask: BoolArray
    voxel_mm: Vector

    @staticmethod
    def of(acquisition: Acquisition, brain: BoolArray, mask: BoolArray) -> Echoes:
        """The ``brain`` voxels of an acquisition; ``mask`` holds the same voxels, in the same order."""
        index = np.flatnonzero(brain)
        return Echoes(
            _gathered(acquisition.magnitude, index),
            _gathered(acquisition.phase, index),
            np.array(acquisition.te_s, dtype=np.float32),
            mask,
            acquisition.geometry.voxel_mm,
        )

    def volume(self, values: FloatArray) -> FloatArray:
        """Flat values back in the volume, 0 outside the mask."""
        volume = np.zeros(self.mask.shape, dtype=np.float32)
        volume[self.mask] = values
        return volume


def echo_spacing_s(te_s: Sequence[float] | FloatArray) -> float:
    """The shortest time between two echoes, or the echo time itself where there is one echo.

    The first field is known modulo one turn in this time.
    """
    return float(min(np.diff(te_s), default=te_s[0]))


def shortest_pairs(te_s: FloatArray) -> npt.NDArray[np.int64]:
    """int (P, 2): pairs of successive echoes whose spacing is the shortest one, to 1 %."""
    spacing = np.diff(te_s)
    first = np.flatnonzero(spacing <= 1.01 * spacing.min())
    return np.stack([first, first + 1], axis=1)


def _gathered(volumes: FloatArray, index: npt.NDArray[np.int64]) -> FloatArray:
    values = np.empty((len(volumes), index.size), dtype=np.float32)
    echo_kernels.gather(volumes.reshape(len(volumes), -1), index, values)
    return values


def first_phase(echoes: Echoes) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Wrapped phase per echo spacing, another estimate of the same phase, and the amplitude behind them; (N,).

    With two echoes or more: argument and square root modulus of the sum over the shortest pairs of
    ``conj(S_a) S_b``, free of the phase offset, and argument of the first pair alone. With one echo: its phase,
    twice, and its magnitude.
    """
    if len(echoes.te_s) == 1:
        phase = _wrapped(echoes.phase[0])
        return phase, phase, echoes.magnitude[0]
    first, second, amplitude = (np.empty(echoes.magnitude.shape[1], dtype=np.float32) for _ in range(3))
    pairs = shortest_pairs(echoes.te_s)
    echo_kernels.pair_phase(echoes.magnitude, echoes.phase, pairs, first, second, amplitude)
    return first, second, amplitude


def _wrapped(phase: FloatArray) -> FloatArray:
    turns: FloatArray = np.round(phase / np.float32(2 * np.pi))
    return phase - np.float32(2 * np.pi) * turns


def whole_turns(echoes: Echoes, field_hz: FloatArray) -> int:
    """Turns per echo spacing to add to a field that is unwrapped in space but known to whole turns only.

    The field with the right number of turns explains all echoes: after taking it out, they have one phase. At even
    spacing every number does, and 0 is given.
    """
    spacing_s = echo_spacing_s(echoes.te_s)
    if len(echoes.te_s) < 3 or np.ptp(np.diff(echoes.te_s)) < 0.01 * spacing_s:
        return 0
    bright = np.argsort(echoes.magnitude[0])[-20_000:]
    magnitude, phase = echoes.magnitude[:, bright], echoes.phase[:, bright]
    total = np.empty((2, bright.size), dtype=np.float32)

    def agreement(turns: int) -> float:
        field = field_hz[bright] + np.float32(turns / spacing_s)
        echo_kernels.demodulated_sum(magnitude, phase, field, echoes.te_s, np.arange(len(echoes.te_s)), total)
        return float(np.hypot(*total).sum(dtype=np.float64))

    return max(range(-3, 4), key=lambda turns: (agreement(turns), -abs(turns)))


def phase_offset(echoes: Echoes, field_hz: FloatArray, fit: ComplexFit) -> FloatArray:
    """Phase at echo time 0, rad (N,): the first two echoes with the field taken out, smoothed over blocks.

    0 with a single echo, where offset and field cannot be told apart.
    """
    if len(echoes.te_s) == 1:
        return np.zeros_like(field_hz)
    total = np.empty((2, field_hz.size), dtype=np.float32)
    echo_kernels.demodulated_sum(echoes.magnitude, echoes.phase, field_hz, echoes.te_s, np.arange(2), total)
    index, shape = np.flatnonzero(echoes.mask), np.array(echoes.mask.shape)
    block = np.array([max(1, round(fit.offset_block_mm / h)) for h in echoes.voxel_mm])
    sigma = [fit.offset_sigma_mm / (h * b) for h, b in zip(echoes.voxel_mm, block, strict=True)]
    smooth = smooth_phase(block_sums(total, index, shape, block), sigma)
    offset = np.empty_like(field_hz)
    echo_kernels.trilinear_argument(np.exp(1j * smooth).astype(np.complex64), block, index, shape, offset)
    return offset


def smooth_phase(signal: ComplexArray, sigma: Sequence[float]) -> FloatArray:
    """Phase of a complex volume, rad, smoothed by a Gaussian of ``sigma`` voxels.

    At the edge of the brain a mean sees one side only, and a phase with a slope comes out wrong there by
    sigma times the slope: 0.3 Hz in the field of the outermost voxels. So what the mean missed is smoothed and
    added, again and again (twicing: Tukey 1977, Exploratory Data Analysis, ch. 16).
    """
    phase: FloatArray = np.angle(gaussian_filter(signal.real, sigma) + 1j * gaussian_filter(signal.imag, sigma))
    raw, weight = np.angle(signal), np.abs(signal)
    around = gaussian_filter(weight, sigma) + np.float32(1e-6) * weight.max()
    for _ in range(OFFSET_PASSES):
        phase += gaussian_filter(weight * _wrapped(raw - phase), sigma) / around
    return phase


def block_sums(
    values: FloatArray, index: npt.NDArray[np.int64], shape: npt.NDArray[np.int64], block: npt.NDArray[np.int64]
) -> ComplexArray:
    """Sums of flat voxels, real and imaginary parts (2, N), over blocks of ``block`` voxels; complex64."""
    grid = -(-shape // block)
    starts = np.searchsorted(index, np.arange(grid[0] + 1) * block[0] * shape[1] * shape[2])
    coarse = np.zeros((2, *grid))
    echo_kernels.block_sums(values, index, shape, block, starts, coarse)
    sums: ComplexArray = (coarse[0] + 1j * coarse[1]).astype(np.complex64)
    return sums


def fit_field(echoes: Echoes, field_hz: FloatArray, offset_rad: FloatArray, fit: ComplexFit) -> FieldMap:
    """Maximum-likelihood field, R2* and amplitude from the start ``field_hz`` float32 (N,), on the right branch.

    The noise is the median residual of the fit over the mask.
    """
    field = field_hz.copy()
    r2s, amplitude, lever, square = (np.empty_like(field) for _ in range(4))
    limit_hz = np.float32(0.25 / echo_spacing_s(echoes.te_s))
    steps = fit.steps if len(echoes.te_s) > 1 else 0
    echo_kernels.fit_echoes(
        echoes.magnitude, echoes.phase, offset_rad, echoes.te_s, steps, limit_hz,
        field, r2s, amplitude, lever, square,
    )  # fmt: skip
    noise = noise_sd(echoes, square)
    sd_hz: FloatArray = np.float32(noise) / (np.float32(2 * np.pi) * np.sqrt(lever) + np.float32(1e-12))
    freedom = np.float32(max(1, 2 * len(echoes.te_s) - 3))
    misfit: FloatArray = np.sqrt(square / freedom) / np.float32(noise)
    return FieldMap(
        echoes.volume(field),
        echoes.volume(sd_hz),
        echoes.volume(r2s),
        echoes.volume(amplitude),
        echoes.volume(misfit),
        noise,
    )


def noise_sd(echoes: Echoes, residual_square: FloatArray) -> float:
    """Noise sd per real channel: the fit's median residual, or 1 % of the median signal where nothing is left over.

    One echo leaves no residual; two leave one degree of freedom of four.
    """
    freedom = 2 * len(echoes.te_s) - 3
    if freedom < 1:
        return 0.01 * float(np.median(echoes.magnitude[0]))
    # Median of chi^2 with n degrees of freedom: Wilson-Hilferty.
    median = freedom * (1 - 2 / (9 * freedom)) ** 3
    sd = float(np.sqrt(np.median(residual_square) / median))
    return max(sd, 1e-6 * float(echoes.magnitude[0].mean(dtype=np.float64)))
