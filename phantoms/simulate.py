"""A multi-echo spoiled gradient echo of a head: susceptibility -> field -> signal -> k-space -> noisy images.

Everything happens on a finer grid than the acquired one, and the images are a crop of its k-space: partial volume,
intravoxel dephasing and the point spread function come out as on a scanner, and the reconstruction never meets the
grid that made its data. Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from phantoms.anatomy import Head, LabelArray
from phantoms.atlas import LABEL, Tissue
from phantoms.lesions import Lesion
from phantoms.physics import box_mean, centred_axes, decimate, dipole_field, slab_profile, squared_steps, steady_state
from phantoms.shapes import Axes, Chart
from recon.kernels import threads
from recon.types import (
    GAMMA_MHZ_PER_T,
    Acquisition,
    BadInput,
    BoolArray,
    ComplexArray,
    FloatArray,
    Geometry,
    Shape,
    Vector,
)

MIXED = 255
"""The label of an acquired voxel that holds more than one tissue."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """How the head is scanned.

    Parameters
    ----------
    shape, voxel_mm
        The acquired grid.
    te_s, tr_s, flip_deg
        Echo times and repetition time in s, flip angle in degrees.
    b0_t, b0_dir
        Field strength in T; direction of B0 in array axes (the slices follow the head).
    snr
        Mean magnitude of white matter at the first echo over the standard deviation of the noise of each of the
        real and imaginary channels.
    oversampling
        Points of the fine grid along each edge of an acquired voxel.
    shading
        Exponent of the coil's receive sensitivity: at 1 the rim of the brain is about 1.7 times as bright as its
        centre, at 2 three times.
    """

    shape: Shape
    voxel_mm: Vector
    te_s: tuple[float, ...]
    tr_s: float
    flip_deg: float
    b0_t: float = 3.0
    b0_dir: Vector = (0.0, 0.0, 1.0)
    snr: float = 60.0
    oversampling: int = 2
    shading: float = 1.0

    def __post_init__(self) -> None:
        if min(self.shape) < 8 or self.oversampling < 1:
            raise BadInput(f"the grid {self.shape} x {self.oversampling} is too small to simulate")
        if min(self.te_s) <= 0 or max(self.te_s) >= self.tr_s:
            raise BadInput(f"te_s must lie between 0 and tr_s = {self.tr_s}, got {self.te_s}")
        if self.snr <= 0:
            raise BadInput(f"snr must be positive, got {self.snr}")

    @property
    def f0_mhz(self) -> float:
        """Imaging frequency in MHz."""
        return GAMMA_MHZ_PER_T * self.b0_t

    @property
    def geometry(self) -> Geometry:
        """The acquired grid in the patient."""
        return Geometry.of(self.shape, self.voxel_mm, self.b0_dir)

    @property
    def fine_shape(self) -> Shape:
        """Shape of the fine grid."""
        x, y, z = (n * self.oversampling for n in self.shape)
        return x, y, z

    @property
    def fine_voxel_mm(self) -> Vector:
        """Voxel edges of the fine grid in mm."""
        x, y, z = (edge / self.oversampling for edge in self.voxel_mm)
        return x, y, z


REFERENCE_PROTOCOL = Protocol(
    shape=(416, 320, 72),
    voxel_mm=(240 / 416, 240 / 320, 2.0),
    te_s=tuple(0.0057 + 0.0067 * echo for echo in range(8)),
    tr_s=0.057,
    flip_deg=20.0,
)
"""The protocol of Chen W. et al., Radiology 2014;270:496: 3 T, 8 echoes, field of view 24 cm."""

SMALL_PROTOCOL = replace(REFERENCE_PROTOCOL, shape=(128, 128, 72), voxel_mm=(1.6, 1.6, 2.0))
"""The same sequence on a grid that simulates and reconstructs in seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class PlacedLesion:
    """A lesion on the acquired grid.

    ``mask`` bool (X, Y, Z) holds the voxels whose susceptibility is the lesion's to one half or more,
    ``volume_mm3`` is the volume of that susceptibility, ``mean_chi_ppm`` the mean of the true map over ``mask`` (NaN
    when no voxel is half lesion).
    """

    lesion: Lesion
    mask: BoolArray
    volume_mm3: float
    mean_chi_ppm: float


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A simulated acquisition and the truth behind it.

    Parameters
    ----------
    acquisition
        What the scanner would give.
    chi_ppm
        float32 (X, Y, Z), true susceptibility relative to water, mean over each acquired voxel.
    brain
        bool (X, Y, Z), voxels of which half or more lie inside the pia and nothing is bone, air or dural sinus.
    labels
        uint8 (X, Y, Z), index into ``tissues`` where a voxel holds one tissue, else ``MIXED``.
    tissues
        What the labels mean.
    lesions
        The lesions on this grid.
    protocol, head_seed, seed
        What this was made from: the protocol, the seeds of anatomy and of scan.
    """

    acquisition: Acquisition
    chi_ppm: FloatArray
    brain: BoolArray
    labels: LabelArray
    tissues: tuple[Tissue, ...]
    lesions: tuple[PlacedLesion, ...]
    protocol: Protocol
    head_seed: int
    seed: int


def simulate(head: Head, protocol: Protocol = SMALL_PROTOCOL, seed: int = 0) -> Phantom:
    """Scan a head.

    ``seed`` draws what differs from scan to scan: noise, remaining shim error, receive coils, phase offset. The same
    arguments give the same phantom.
    """
    rng = np.random.default_rng([seed, 2])
    axes = centred_axes(protocol.fine_shape, protocol.fine_voxel_mm)
    bias, offset_rad = _receiver(rng, protocol.shading)
    obj = _paint(head, protocol, axes, bias)
    field_hz = dipole_field(obj.chi_ppm, protocol.fine_voxel_mm, protocol.b0_dir)
    field_hz *= np.float32(protocol.f0_mhz)
    _shim(rng, field_hz, axes, obj.brain, protocol)

    clean = _images(obj, field_hz, offset_rad, axes, protocol)
    labels = obj.labels
    white = (labels == LABEL["white matter"]) & obj.brain
    if not white.any():
        raise BadInput(f"no voxel of {protocol.voxel_mm} mm is white matter alone: the SNR is undefined")
    noise = np.float32(np.abs(clean[0][white]).mean() / protocol.snr)
    magnitude = np.empty(clean.shape, dtype=np.float32)
    phase = np.empty_like(magnitude)
    for echo, image in enumerate(clean):
        image.real += noise * rng.standard_normal(image.shape, dtype=np.float32)
        image.imag += noise * rng.standard_normal(image.shape, dtype=np.float32)
        np.abs(image, out=magnitude[echo])
        np.arctan2(image.imag, image.real, out=phase[echo])
    return Phantom(
        acquisition=Acquisition(magnitude, phase, protocol.te_s, protocol.f0_mhz, protocol.geometry),
        chi_ppm=obj.truth_ppm,
        brain=obj.brain,
        labels=labels,
        tissues=head.tissues,
        lesions=tuple(_placed(head, index, obj, protocol) for index in range(len(head.lesions))),
        protocol=protocol,
        head_seed=head.seed,
        seed=seed,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """The head on the fine grid, as the sequence sees it, and the truth on the acquired grid."""

    chi_ppm: FloatArray
    amplitude: FloatArray
    r2s_hz: FloatArray
    shift_ppm: FloatArray
    truth_ppm: FloatArray
    brain: BoolArray
    labels: LabelArray
    fractions: tuple[FloatArray, ...]


def _slabs(protocol: Protocol, work: Callable[[slice, slice], None]) -> None:
    """Run ``work(fine slices, acquired slices)`` on slabs of about four acquired slices, on every core."""
    last, factor = protocol.shape[2], protocol.oversampling
    starts = range(0, last, 4)
    acquired = [slice(start, min(start + 4, last)) for start in starts]
    fine = [slice(s.start * factor, s.stop * factor) for s in acquired]
    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(work, fine, acquired))


def _paint(head: Head, protocol: Protocol, axes: Axes, bias: Chart) -> _Object:
    """Paint the head slab by slab."""
    factor, fine, coarse = protocol.oversampling, protocol.fine_shape, protocol.shape
    signal = np.array([steady_state(t, protocol.tr_s, protocol.flip_deg) for t in head.tissues], dtype=np.float32)
    r2s = np.array([t.r2s_hz for t in head.tissues], dtype=np.float32)
    shift = np.array([t.shift_ppm for t in head.tissues], dtype=np.float32)
    profile = slab_profile(fine[2])
    obj = _Object(
        chi_ppm=np.empty(fine, dtype=np.float32),
        amplitude=np.empty(fine, dtype=np.float32),
        r2s_hz=np.empty(fine, dtype=np.float32),
        shift_ppm=np.empty(fine, dtype=np.float32),
        truth_ppm=np.empty(coarse, dtype=np.float32),
        brain=np.empty(coarse, dtype=np.bool_),
        labels=np.empty(coarse, dtype=np.uint8),
        fractions=tuple(np.zeros(coarse, dtype=np.float32) for _ in head.lesions),
    )

    def slab(own: slice, acquired: slice) -> None:
        here = (axes[0], axes[1], axes[2][own])
        painted = head.paint(here)
        obj.chi_ppm[..., own] = painted.chi_ppm
        received = bias.on(here) * profile[own]
        obj.amplitude[..., own] = signal[painted.label] * (1 + 0.03 * painted.texture) * received
        obj.r2s_hz[..., own] = r2s[painted.label] * (1 + 0.06 * painted.texture)
        obj.shift_ppm[..., own] = shift[painted.label]
        obj.truth_ppm[..., acquired] = box_mean(painted.chi_ppm, factor)
        inside, foreign = box_mean(painted.brain, factor), box_mean(painted.foreign, factor)
        obj.brain[..., acquired] = (inside >= 0.5) & (foreign == 0)
        x, y, z = obj.labels[..., acquired].shape
        cubes = painted.label.reshape(x, factor, y, factor, z, factor)
        low, high = cubes.min(axis=(1, 3, 5)), cubes.max(axis=(1, 3, 5))
        obj.labels[..., acquired] = np.where(low == high, low, MIXED)
        for index, fraction in enumerate(obj.fractions):
            own_voxels = head.where_lesion(index, painted.chi_label)
            if own_voxels.any():
                fraction[..., acquired] = box_mean(own_voxels, factor)

    _slabs(protocol, slab)
    return obj


def _placed(head: Head, index: int, obj: _Object, protocol: Protocol) -> PlacedLesion:
    fraction = obj.fractions[index]
    mask = fraction >= 0.5
    return PlacedLesion(
        lesion=head.lesions[index],
        mask=mask,
        volume_mm3=float(fraction.sum(dtype=np.float64) * np.prod(protocol.voxel_mm)),
        mean_chi_ppm=float(obj.truth_ppm[mask].mean(dtype=np.float64)) if mask.any() else float("nan"),
    )


def _receiver(rng: np.random.Generator, shading: float) -> tuple[Chart, Chart]:
    """Sensitivity and phase offset of a combined 12-channel head coil, on a coarse grid.

    Twelve loops of 60 mm radius on two rings around the head. Sensitivity is their root sum of squares, 1 at the
    centre, raised to the power ``shading``; the phase offset the mean of their phases, weighted by sensitivity, plus
    a polynomial of second order.
    """
    x, y, z = (np.arange(-half, half + 1, 8, dtype=np.float32) for half in (128, 128, 104))
    here = (x[:, None, None], y[None, :, None], z[None, None, :])
    middle = tuple(int(a.size // 2) for a in (x, y, z))
    squares = weights = phases = np.zeros((x.size, y.size, z.size), dtype=np.float32)
    for loop in range(12):
        turn = np.pi * (loop % 6 + 0.5 * (loop // 6)) / 3
        place = (118 * np.cos(turn), 136 * np.sin(turn), -35 if loop < 6 else 35)
        distance2 = sum((a - np.float32(c)) ** 2 for a, c in zip(here, place, strict=True))
        sensitivity = (distance2 + np.float32(60**2)) ** np.float32(-1.5)
        sensitivity *= np.float32(rng.uniform(0.85, 1.15))
        squares = squares + sensitivity**2
        weights = weights + sensitivity
        phases = phases + sensitivity * np.float32(rng.normal(0, 1.2))
    bias = np.sqrt(squares)
    bias = (bias / bias[middle]) ** np.float32(shading)
    polynomial = sum(c * t for c, t in zip(rng.normal(0, 0.5, 10), _quadratic((x, y, z)), strict=True))
    offset = np.asarray(phases / weights + polynomial, dtype=np.float32)
    return Chart(bias, (x, y, z)), Chart(offset, (x, y, z))


def _quadratic(axes: Axes) -> list[FloatArray]:
    """The ten polynomials of second order in position over 80 mm, shaped to broadcast."""
    u, v, w = axes[0][:, None, None] / 80, axes[1][None, :, None] / 80, axes[2][None, None, :] / 80
    terms = [np.ones((1, 1, 1)), u, v, w, u * v, u * w, v * w, u * u, v * v, w * w]
    return [term.astype(np.float32) for term in terms]


def _shim_coils(axes: Axes) -> list[FloatArray]:
    """The nine solid harmonics up to second order in position over 80 mm, shaped to broadcast."""
    one, u, v, w, uv, uw, vw, uu, vv, ww = _quadratic(axes)
    return [one, u, v, w, uv, uw, vw, uu - vv, 2 * ww - uu - vv]


def _shim(rng: np.random.Generator, field_hz: FloatArray, axes: Axes, brain: BoolArray, protocol: Protocol) -> None:
    """Take what shim coils of first and second order can make out of the field of the brain, but for a few Hz.

    Their fields are harmonic: any other polynomial would pass for susceptibility.
    """
    factor = protocol.oversampling
    coarse = centred_axes(protocol.shape, protocol.voxel_mm)
    mean = box_mean(field_hz, factor)[brain].astype(np.float64)
    design = np.stack([np.broadcast_to(term, protocol.shape)[brain] for term in _shim_coils(coarse)], axis=1)
    fit = np.linalg.lstsq(design.astype(np.float64), mean, rcond=None)[0]
    fit -= rng.normal(0, 5.0, fit.size)

    def slab(own: slice, _: slice) -> None:
        for coefficient, term in zip(fit, _shim_coils((axes[0], axes[1], axes[2][own])), strict=True):
            field_hz[..., own] -= np.float32(coefficient) * term

    _slabs(protocol, slab)


def _images(obj: _Object, field_hz: FloatArray, offset_rad: Chart, axes: Axes, protocol: Protocol) -> ComplexArray:
    r"""Noise-free images, complex64 (E, X, Y, Z).

    .. math:: s(t) = A e^{-R_2^* t - G t^2} e^{i (2 \pi f t + \phi_0)}, \quad G = \pi^2/6 \sum_a (h_a \partial_a f)^2

    G is what the field's slope dephases inside one fine voxel of edges h: sinc(x) = exp(-(pi x)^2 / 6) + O(x^4).
    """
    factor, fine = protocol.oversampling, protocol.fine_shape
    slope = squared_steps(field_hz)
    slope *= np.float32(np.pi**2 / 6)
    field_hz += np.float32(protocol.f0_mhz) * obj.shift_ppm
    images = np.empty((len(protocol.te_s), *protocol.shape), dtype=np.complex64)
    for echo, te_s in enumerate(protocol.te_s):
        t = np.float32(te_s)
        half_done = np.empty((*protocol.shape[:2], fine[2]), dtype=np.complex64)

        def slab(own: slice, _: slice, t: np.float32 = t, out: ComplexArray = half_done) -> None:
            here = (axes[0], axes[1], axes[2][own])
            envelope = obj.amplitude[..., own] * np.exp(-t * (obj.r2s_hz[..., own] + t * slope[..., own]))
            angle = np.float32(2 * np.pi) * t * field_hz[..., own] + offset_rad.on(here)
            signal = np.empty(angle.shape, dtype=np.complex64)
            np.multiply(envelope, np.cos(angle), out=signal.real)
            np.multiply(envelope, np.sin(angle), out=signal.imag)
            out[..., own] = decimate(decimate(signal, 0, factor), 1, factor)

        _slabs(protocol, slab)
        images[echo] = decimate(half_done, 2, factor)
    return images
