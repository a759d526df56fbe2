"""Numba kernels of the simulation, nothing else: one thread, float32, called on blocks by several threads at once.

Each kernel's formula stands above it; who calls it knows why. No kernel shares numerics with those of ``recon``, but
for the elementary functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recon.jit import HALF, ONE, TWO_PI, ZERO, argument, cos_wrapped, exp_bounded, kernel, sin_wrapped, wrap
from recon.types import ComplexArray, FloatArray

THIRD, DEPHASING = np.float32(1 / 3), np.float32(np.pi**2 / 6)
AMPLITUDE_TEXTURE, R2S_TEXTURE = np.float32(0.03), np.float32(0.06)


# v(x, y, z) between the eight points around it, linear along every axis: point ``low`` and the next one, at ``share``
@kernel(parallel=False)
def trilinear(
    values: FloatArray,
    low_x: Any,
    share_x: FloatArray,
    low_y: Any,
    share_y: FloatArray,
    low_z: Any,
    share_z: FloatArray,
    out: FloatArray,
) -> None:
    """A volume on a finer rectilinear grid, into ``out`` (X, Y, Z)."""
    x0, y0 = low_x.min(), low_y.min()
    lines = np.empty((low_x.max() + 2 - x0, low_y.max() + 2 - y0, out.shape[2]), dtype=np.float32)
    for x in range(lines.shape[0]):
        for y in range(lines.shape[1]):
            line, points = lines[x, y], values[x0 + x, y0 + y]
            for z in range(line.size):
                k = low_z[z]
                line[z] = points[k] + share_z[z] * (points[k + 1] - points[k])
    for x in range(out.shape[0]):
        here, there, across = lines[low_x[x] - x0], lines[low_x[x] + 1 - x0], share_x[x]
        for y in range(out.shape[1]):
            j, along = low_y[y] - y0, share_y[y]
            a, b, c, d, line = here[j], here[j + 1], there[j], there[j + 1], out[x, y]
            for z in range(line.size):
                near = a[z] + along * (b[z] - a[z])
                far = c[z] + along * (d[z] - c[z])
                line[z] = near + across * (far - near)


# f^ <- (1/3 - (k . b)^2 / k^2) f^, 0 at k = 0
@kernel(parallel=False)
def dipole(spectrum: ComplexArray, kx: FloatArray, ky: FloatArray, kz: FloatArray, b0_dir: FloatArray) -> None:
    """Field of a susceptibility in k-space, in place, at the frequencies kx (X,), ky (Y,), kz (Z,)."""
    for x in range(kx.size):
        for y in range(ky.size):
            square = kx[x] * kx[x] + ky[y] * ky[y]
            along = kx[x] * b0_dir[0] + ky[y] * b0_dir[1]
            line = spectrum[x, y]
            for z in range(kz.size):
                k2, kb = square + kz[z] * kz[z], along + kz[z] * b0_dir[2]
                line[z] *= THIRD - kb * kb / k2 if k2 > ZERO else ZERO


# A = S(label) (1 + 0.03 texture) B,  R = R2*(label) (1 + 0.06 texture),  w = 2 pi (f + f0 shift(label)),
# G = pi^2 / 6 sum_a (step of f along a)^2: central differences, one-sided on the faces of the volume
@kernel(parallel=False)
def spins(
    label: Any,
    texture: FloatArray,
    received: FloatArray,
    field_hz: FloatArray,
    start: int,
    tables: FloatArray,
    amplitude: FloatArray,
    r2s_hz: FloatArray,
    slope: FloatArray,
    omega: FloatArray,
) -> None:
    """What the signal of the rows ``start`` and following along y is made of, into the last four, (X, rows, Z).

    ``label`` and ``field_hz`` are whole volumes (X, Y, Z), ``texture`` and ``received`` these rows; ``tables``
    float32 (3, labels) holds steady-state signal, R2* in 1/s and chemical shift in Hz of each label.
    """
    nx, ny, nz = field_hz.shape
    for x in range(nx):
        x0, x1 = max(x - 1, 0), min(x + 1, nx - 1)
        per_x = ONE / np.float32(x1 - x0)
        for row in range(texture.shape[1]):
            y = start + row
            y0, y1 = max(y - 1, 0), min(y + 1, ny - 1)
            per_y = ONE / np.float32(y1 - y0)
            here, f = label[x, y], field_hz[x, y]
            left, right, front, back = field_hz[x0, y], field_hz[x1, y], field_hz[x, y0], field_hz[x, y1]
            out = slope[x, row]
            for z in range(1, nz - 1):
                dx, dy = per_x * (right[z] - left[z]), per_y * (back[z] - front[z])
                dz = HALF * (f[z + 1] - f[z - 1])
                out[z] = DEPHASING * (dx * dx + dy * dy + dz * dz)
            for z, dz in ((0, f[1] - f[0]), (nz - 1, f[nz - 1] - f[nz - 2])):
                dx, dy = per_x * (right[z] - left[z]), per_y * (back[z] - front[z])
                out[z] = DEPHASING * (dx * dx + dy * dy + dz * dz)
            for z in range(nz):
                own, t = here[z], texture[x, row, z]
                amplitude[x, row, z] = tables[0, own] * (ONE + AMPLITUDE_TEXTURE * t) * received[x, row, z]
                r2s_hz[x, row, z] = tables[1, own] * (ONE + R2S_TEXTURE * t)
                omega[x, row, z] = TWO_PI * (f[z] + tables[2, own])


# s(t) = A exp(-R t - G t^2) exp(i (w t + phi))
@kernel(parallel=False)
def echo(
    amplitude: FloatArray,
    r2s_hz: FloatArray,
    slope: FloatArray,
    omega: FloatArray,
    offset_rad: FloatArray,
    t: Any,
    signal: ComplexArray,
) -> None:
    """Signal at the echo time ``t`` in s, into ``signal`` (X, Y, Z)."""
    nx, ny, nz = signal.shape
    for x in range(nx):
        for y in range(ny):
            a, r, g = amplitude[x, y], r2s_hz[x, y], slope[x, y]
            w, phi, out = omega[x, y], offset_rad[x, y], signal[x, y]
            for z in range(nz):
                envelope = a[z] * exp_bounded(-t * (r[z] + t * g[z]))
                angle = wrap(t * w[z] + phi[z])
                out[z] = complex(envelope * cos_wrapped(angle), envelope * sin_wrapped(angle))


# M exp(i phi) = s + noise
@kernel(parallel=False)
def noisy(
    image: ComplexArray, real: FloatArray, imaginary: FloatArray, sd: Any, magnitude: FloatArray, phase: FloatArray
) -> None:
    """Magnitude and phase of an image with noise of standard deviation ``sd`` in both channels, (X, Y, Z)."""
    nx, ny, nz = image.shape
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                re, im = image[x, y, z].real + sd * real[x, y, z], image[x, y, z].imag + sd * imaginary[x, y, z]
                magnitude[x, y, z] = np.sqrt(re * re + im * im)
                phase[x, y, z] = argument(re, im)


# S(n) = 1/F sum_x s(x) exp(-2 pi i n (x - (F - 1)/2 + F w(x) / (2 pi b)) / N),  N fine points, F of them per voxel
@kernel(parallel=False)
def displaced(signal: ComplexArray, omega: FloatArray, per_hz: Any, factor: int, spectrum: ComplexArray) -> None:
    """Lowest frequencies along x of points displaced by their off-resonance, into ``spectrum`` (n, Y, Z).

    ``omega`` in rad/s; ``per_hz`` is 1 / b, in acquired voxels per Hz. The turn from one n to the next is a product;
    16 lines at a time.
    """
    nx, ny, nz = signal.shape
    count, lanes = spectrum.shape[0], 16
    first = count // 2
    re, im = np.empty((2, count, lanes), dtype=np.float32)
    p, q, u, v = np.empty((4, lanes), dtype=np.float32)
    middle, per_point, scale = 0.5 * (factor - 1), -2 * np.pi / nx, ONE / np.float32(factor)
    fine_per_rad = factor * per_hz / (2 * np.pi)
    for y in range(ny):
        for start in range(0, nz, lanes):
            width = min(lanes, nz - start)
            re[:], im[:], p[:], q[:], u[:], v[:] = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
            for x in range(nx):
                line, turn = signal[x, y, start : start + width], omega[x, y, start : start + width]
                seen = False
                for j in range(width):
                    seen = seen or line[j].real != ZERO or line[j].imag != ZERO
                if not seen:
                    continue
                for j in range(width):
                    # In float64: what is wrong with a turn grows with the number of products.
                    step = per_point * (x - middle + fine_per_rad * turn[j])
                    u[j], v[j] = np.cos(step), np.sin(step)
                    c, s = scale * np.float32(np.cos(-first * step)), scale * np.float32(np.sin(-first * step))
                    p[j] = line[j].real * c - line[j].imag * s
                    q[j] = line[j].real * s + line[j].imag * c
                for n in range(count):
                    for j in range(lanes):
                        re[n, j] += p[j]
                        im[n, j] += q[j]
                        p[j], q[j] = p[j] * u[j] - q[j] * v[j], p[j] * v[j] + q[j] * u[j]
            for n in range(count):
                for j in range(width):
                    spectrum[(n - first) % count, y, start + j] = complex(re[n, j], im[n, j])
