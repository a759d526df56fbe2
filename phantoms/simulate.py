"""A multi-echo spoiled gradient echo of a head: susceptibility -> field -> signal -> k-space -> noisy images.

Everything happens on a finer grid than the acquired one, and the images are a crop of its k-space: partial volume,
intravoxel dephasing and the point spread function come out as on a scanner, and the reconstruction never meets the
grid that made its data. Knows nothing about files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.anatomy import Head, LabelArray
from phantoms.atlas import LABEL, Tissue
from phantoms.lesions import Lesion
from phantoms.physics import (
    box_mean,
    centred_axes,
    decimate,
    dipole_field,
    in_slabs,
    slab_profile,
    squared_steps,
    steady_state,
)
from phantoms.protocol import SMALL_PROTOCOL, Protocol
from phantoms.receiver import receive_coils, shim
from phantoms.shapes import Axes, Chart
from recon.types import Acquisition, BadInput, BoolArray, ComplexArray, FloatArray

MIXED = 255
"""The label of an acquired voxel that holds more than one tissue."""


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
    bias, offset_rad = receive_coils(rng, protocol.shading)
    obj = _paint(head, protocol, axes, bias)
    field_hz = dipole_field(obj.chi_ppm, protocol.fine_voxel_mm, protocol.b0_dir)
    field_hz *= np.float32(protocol.f0_mhz)
    shim(rng, field_hz, axes, obj.brain, protocol)

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
            own_voxels = painted.chi_label == head.label_of(index)
            if own_voxels.any():
                fraction[..., acquired] = box_mean(own_voxels, factor)

    in_slabs(protocol.shape[2], factor, slab)
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

        in_slabs(protocol.shape[2], factor, slab)
        images[echo] = decimate(half_done, 2, factor)
    return images
