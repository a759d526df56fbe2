"""A multi-echo spoiled gradient echo of a head: susceptibility -> field -> signal -> k-space -> noisy images.

Everything happens on a finer grid than the acquired one, and the images are a crop of its k-space: partial volume,
intravoxel dephasing and the point spread function come out as on a scanner, and the reconstruction never meets the
grid that made its data. Knows nothing about files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms import kernels
from phantoms.anatomy import Head, LabelArray
from phantoms.atlas import LABEL, Tissue
from phantoms.lesions import Lesion
from phantoms.physics import (
    box_mean,
    centred_axes,
    dipole_field,
    in_blocks,
)
from phantoms.protocol import SMALL_PROTOCOL, Protocol
from phantoms.receiver import receive_coils, shim
from phantoms.sequence import ROWS, images
from phantoms.shapes import Axes
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

    ``seed`` draws what differs from scan to scan: noise, remaining shim error, receive coils, phase offset, where
    blood flows. The same arguments give the same phantom, on any number of cores.
    """
    rng = np.random.default_rng([seed, 2])
    axes = centred_axes(protocol.fine_shape, protocol.fine_voxel_mm)
    bias, offset_rad = receive_coils(rng, protocol.shading)
    chi_ppm = np.empty(protocol.fine_shape, dtype=np.float32)
    obj = _paint(head, protocol, axes, chi_ppm)
    field_hz = dipole_field(chi_ppm, protocol.fine_voxel_mm, protocol.b0_dir)
    del chi_ppm
    field_hz *= np.float32(protocol.f0_mhz)
    shim(rng, field_hz, axes, obj.brain, protocol)

    white = (obj.labels == LABEL["white matter"]) & obj.brain
    if not white.any():
        raise BadInput(f"no voxel of {protocol.voxel_mm} mm is white matter alone: the SNR is undefined")
    magnitude = np.empty((len(protocol.te_s), *protocol.shape), dtype=np.float32)
    phase = np.empty_like(magnitude)
    sd = np.float32(0)
    for echo, image in enumerate(images(head, obj.label, field_hz, (bias, offset_rad), protocol, seed)):
        if echo == 0:
            sd = np.float32(np.abs(image[white]).mean() / protocol.snr)
        _add_noise(rng, image, sd, magnitude[echo], phase[echo])
    return Phantom(
        acquisition=Acquisition(magnitude, phase, protocol.te_s, protocol.f0_mhz, protocol.geometry),
        chi_ppm=obj.truth_ppm,
        brain=obj.brain,
        labels=obj.labels,
        tissues=head.tissues,
        lesions=tuple(_placed(head, index, obj, protocol) for index in range(len(head.lesions))),
        protocol=protocol,
        head_seed=head.seed,
        seed=seed,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Object:
    """What the signal comes from, on the fine grid, and the truth, on the acquired one."""

    label: LabelArray
    truth_ppm: FloatArray
    brain: BoolArray
    labels: LabelArray
    fractions: tuple[FloatArray, ...]


def _paint(head: Head, protocol: Protocol, axes: Axes, chi_ppm: FloatArray) -> _Object:
    """Paint the head, some rows along y at a time; its susceptibility into ``chi_ppm``, on the fine grid."""
    factor, fine, coarse = protocol.oversampling, protocol.fine_shape, protocol.shape
    obj = _Object(
        label=np.empty(fine, dtype=np.uint8),
        truth_ppm=np.empty(coarse, dtype=np.float32),
        brain=np.empty(coarse, dtype=np.bool_),
        labels=np.empty(coarse, dtype=np.uint8),
        fractions=tuple(np.zeros(coarse, dtype=np.float32) for _ in head.lesions),
    )

    def block(acquired: slice) -> None:
        own = slice(acquired.start * factor, acquired.stop * factor)
        painted = head.paint((axes[0], axes[1][own], axes[2]))
        obj.label[:, own], chi_ppm[:, own] = painted.label, painted.chi_ppm
        obj.truth_ppm[:, acquired] = box_mean(painted.chi_ppm, factor)
        inside, foreign = box_mean(painted.brain, factor), box_mean(painted.foreign, factor)
        obj.brain[:, acquired] = (inside >= 0.5) & (foreign == 0)
        obj.labels[:, acquired] = _pure(painted.label, factor)
        for index, fraction in enumerate(obj.fractions):
            own_voxels = head.where_lesion(index, painted.chi_label)
            if own_voxels.any():
                fraction[:, acquired] = box_mean(own_voxels, factor)

    in_blocks(coarse[1], ROWS, block)
    return obj


def _pure(label: LabelArray, factor: int) -> LabelArray:
    """The label of cubes that hold one alone, else ``MIXED``."""
    corner = label[::factor, ::factor, ::factor]
    pure = np.ones(corner.shape, dtype=np.bool_)
    for i, j, k in np.ndindex(factor, factor, factor):
        pure &= label[i::factor, j::factor, k::factor] == corner
    return np.where(pure, corner, np.uint8(MIXED))


def _placed(head: Head, index: int, obj: _Object, protocol: Protocol) -> PlacedLesion:
    fraction = obj.fractions[index]
    mask = fraction >= 0.5
    return PlacedLesion(
        lesion=head.lesions[index],
        mask=mask,
        volume_mm3=float(fraction.sum(dtype=np.float64) * np.prod(protocol.voxel_mm)),
        mean_chi_ppm=float(obj.truth_ppm[mask].mean(dtype=np.float64)) if mask.any() else float("nan"),
    )


def _add_noise(
    rng: np.random.Generator, image: ComplexArray, sd: np.float32, magnitude: FloatArray, phase: FloatArray
) -> None:
    """Magnitude and phase of an image with complex noise, into the last two."""
    real, imaginary = (rng.standard_normal(image.shape, dtype=np.float32) for _ in range(2))

    def block(own: slice) -> None:
        kernels.noisy(image[own], real[own], imaginary[own], sd, magnitude[own], phase[own])

    in_blocks(len(image), 8, block)
