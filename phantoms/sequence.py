"""The gradient echo sequence: signal of the spins on the fine grid, read out as k-space of the acquired one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.fft

from phantoms import kernels
from phantoms.anatomy import Head, LabelArray
from phantoms.physics import centred_axes, decimate, in_blocks, slab_profile, steady_state
from phantoms.protocol import Protocol
from phantoms.shapes import Chart
from recon.types import ComplexArray, FloatArray

ROWS = 2
"""Rows of acquired voxels along y that are worked on together: their arrays stay in the cache."""


def images(
    head: Head,
    label: LabelArray,
    field_hz: FloatArray,
    receiver: tuple[Chart, Chart],
    protocol: Protocol,
    seed: int,
) -> Iterator[ComplexArray]:
    r"""Noise-free images, complex64 (X, Y, Z), one echo after the other.

    .. math:: s(t) = A e^{-R_2^* t - G t^2} e^{i (2 \pi f t + \phi_0)}, \quad G = \pi^2/6 \sum_a (h_a \partial_a f)^2

    G is what the field's slope dephases inside one fine voxel of edges h: sinc(x) = exp(-(pi x)^2 / 6) + O(x^4).

    Parameters
    ----------
    label, field_hz
        uint8 and float32 Hz, on the fine grid.
    receiver
        Sensitivity, and phase offset in rad.
    seed
        Draws where blood flows to outside the tubes.
    """
    factor, fine = protocol.oversampling, protocol.fine_shape
    axes = centred_axes(fine, protocol.fine_voxel_mm)
    tables = _tables(head, protocol)
    profile = slab_profile(fine[2])
    bipolar, flow, motion = protocol.bipolar, protocol.flow, protocol.motion
    drift = flow.drift(seed) if flow else None
    lines = np.empty((len(protocol.te_s), protocol.shape[0], fine[1], protocol.shape[2]), dtype=np.complex64)

    def rows(own: slice) -> None:
        here = (axes[0], axes[1][own], axes[2])
        received, offset_rad = (chart.on(here) for chart in receiver)
        received *= profile
        amplitude, r2s_hz, slope, omega = (np.empty(received.shape, dtype=np.float32) for _ in range(4))
        texture = head.charts["texture"].on(here)
        kernels.spins(label, texture, received, field_hz, own.start, tables, amplitude, r2s_hz, slope, omega)
        flow_rad = flow.phase_rad(head, label[:, own], drift, here) if flow and drift else None
        signal = np.empty(received.shape, dtype=np.complex64)
        for echo, te_s in enumerate(protocol.te_s):
            phase = offset_rad
            if bipolar:
                phase = phase + bipolar.phase_rad(echo, axes[0])
            if flow_rad is not None:
                phase = phase + flow_rad * np.float32((te_s / protocol.te_s[0]) ** 2)
            kernels.echo(amplitude, r2s_hz, slope, omega, phase, np.float32(te_s), signal)
            if protocol.bandwidth_hz is None:
                lines[echo, :, own] = decimate(decimate(signal, 2, factor), 0, factor)
            else:
                direction = -1 if bipolar and echo % 2 else 1
                per_hz = direction / protocol.bandwidth_hz
                spectrum = np.empty((protocol.shape[0], *signal.shape[1:]), dtype=np.complex64)
                kernels.displaced(signal, omega, per_hz, factor, spectrum)
                lines[echo, :, own] = scipy.fft.ifft(decimate(spectrum, 2, factor), axis=0)

    in_blocks(fine[1], ROWS * factor, rows)
    for read in lines:
        image = np.empty(protocol.shape, dtype=np.complex64)

        def phase_encoding(own: slice, read: ComplexArray = read, image: ComplexArray = image) -> None:
            image[own] = decimate(read[own], 1, factor)

        in_blocks(len(image), 8, phase_encoding)
        yield motion.moved(image, protocol.voxel_mm) if motion else image


def _tables(head: Head, protocol: Protocol) -> FloatArray:
    """Steady-state signal, R2* in 1/s and chemical shift in Hz of every label, float32 (3, labels)."""
    rows = [
        [steady_state(tissue, protocol.tr_s, protocol.flip_deg) for tissue in head.tissues],
        [tissue.r2s_hz for tissue in head.tissues],
        [protocol.f0_mhz * tissue.shift_ppm for tissue in head.tissues],
    ]
    return np.array(rows, dtype=np.float32)
