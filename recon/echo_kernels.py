"""Numba kernels of the echoes, nothing else: gather, phase of echo pairs, phase offset, complex fit.

Loops run over short runs of neighbouring voxels inside loops over echoes, so that one instruction takes many voxels;
sums of a run stand in a small array. float32, no fresh memory beyond that. Nothing is summed across threads, so
results do not depend on their number.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from recon.jit import (
    HALF,
    ONE,
    SMALLEST,
    TINY,
    TWO_PI,
    ZERO,
    argument,
    cos_wrapped,
    exp_bounded,
    kernel,
    log_positive,
    sin_wrapped,
    wrap,
)  # fmt: skip
from recon.types import ComplexArray, FloatArray

RUN = 512
"""Voxels of a run: its sums stay in the first-level cache."""
LANES = 32
"""Voxels that are fitted side by side until the last of them has settled."""


@kernel()
def gather(volumes: FloatArray, index: Any, values: FloatArray) -> None:
    """The flat voxels ``index`` (N,) of ``volumes`` (E, V), into ``values`` (E, N)."""
    echoes, n = values.shape
    for run in numba.prange((n + RUN - 1) // RUN):
        for e in range(echoes):
            for i in range(run * RUN, min(n, (run + 1) * RUN)):
                values[e, i] = volumes[e, index[i]]


# H = sum over pairs (a, b) of M_a M_b exp(i (phi_b - phi_a))
@kernel()
def pair_phase(
    magnitude: FloatArray, phase: FloatArray, pairs: Any, first: FloatArray, second: FloatArray, amplitude: FloatArray
) -> None:
    """Argument of the inter-echo Hermitian product H of echoes (E, N) over ``pairs`` int (P, 2), into ``first`` (N,).

    ``second`` receives that of the first pair alone, ``amplitude`` the root of the sum of M_a M_b.
    """
    n = magnitude.shape[1]
    for run in numba.prange((n + RUN - 1) // RUN):
        low, high = run * RUN, min(n, (run + 1) * RUN)
        total = np.zeros((3, RUN), dtype=np.float32)
        for p in range(pairs.shape[0]):
            m_a, m_b = magnitude[pairs[p, 0], low:high], magnitude[pairs[p, 1], low:high]
            phi_a, phi_b = phase[pairs[p, 0], low:high], phase[pairs[p, 1], low:high]
            for j in range(high - low):
                m = m_a[j] * m_b[j]
                angle = wrap(phi_b[j] - phi_a[j])
                total[0, j] += m * cos_wrapped(angle)
                total[1, j] += m * sin_wrapped(angle)
                total[2, j] += m
            if p == 0:
                out = second[low:high]
                for j in range(high - low):
                    out[j] = argument(total[0, j], total[1, j])
        out, root = first[low:high], amplitude[low:high]
        for j in range(high - low):
            out[j] = argument(total[0, j], total[1, j])
            root[j] = np.sqrt(total[2, j])


# O = sum over the given echoes of M_e exp(i (phi_e - 2 pi f t_e))
@kernel()
def demodulated_sum(
    magnitude: FloatArray, phase: FloatArray, field_hz: FloatArray, te_s: FloatArray, echoes: Any, total: FloatArray
) -> None:
    """Real and imaginary part of the sum over ``echoes`` with the field taken out; (E, N), (N,) -> (2, N)."""
    n = magnitude.shape[1]
    for run in numba.prange((n + RUN - 1) // RUN):
        low, high = run * RUN, min(n, (run + 1) * RUN)
        part = np.zeros((2, RUN), dtype=np.float32)
        f = field_hz[low:high]
        for k in range(echoes.shape[0]):
            e = echoes[k]
            m, phi, turn = magnitude[e, low:high], phase[e, low:high], TWO_PI * te_s[e]
            for j in range(high - low):
                angle = wrap(phi[j] - turn * f[j])
                part[0, j] += m[j] * cos_wrapped(angle)
                part[1, j] += m[j] * sin_wrapped(angle)
        for k in range(2):
            out = total[k, low:high]
            for j in range(high - low):
                out[j] = part[k, j]


@kernel()
def block_sums(values: FloatArray, index: Any, shape: Any, block: Any, starts: Any, coarse: FloatArray) -> None:
    """Sums of ``values`` (2, N) at the flat voxels ``index`` of ``shape`` over blocks, into ``coarse`` (2, x, y, z).

    ``starts`` (x + 1,): where the voxels of every layer of blocks begin in ``index``.
    """
    for bx in numba.prange(coarse.shape[1]):
        for i in range(starts[bx], starts[bx + 1]):
            y, z = divmod(index[i] % (shape[1] * shape[2]), shape[2])
            coarse[0, bx, y // block[1], z // block[2]] += values[0, i]
            coarse[1, bx, y // block[1], z // block[2]] += values[1, i]


@kernel()
def trilinear_argument(coarse: ComplexArray, block: Any, index: Any, shape: Any, fine: FloatArray) -> None:
    """Argument of ``coarse``, means over blocks of ``block`` voxels, at the flat voxels ``index`` of ``shape``."""
    cx, cy, cz = coarse.shape
    for i in numba.prange(index.shape[0]):
        x, rest = divmod(index[i], shape[1] * shape[2])
        y, z = divmod(rest, shape[2])
        px = min(max((np.float32(x) + HALF) / np.float32(block[0]) - HALF, ZERO), np.float32(cx - 1))
        py = min(max((np.float32(y) + HALF) / np.float32(block[1]) - HALF, ZERO), np.float32(cy - 1))
        pz = min(max((np.float32(z) + HALF) / np.float32(block[2]) - HALF, ZERO), np.float32(cz - 1))
        x0, y0, z0 = int(px), int(py), int(pz)
        x1, y1, z1 = min(x0 + 1, cx - 1), min(y0 + 1, cy - 1), min(z0 + 1, cz - 1)
        fx, fy, fz = px - np.float32(x0), py - np.float32(y0), pz - np.float32(z0)
        near = (coarse[x0, y0, z0] * (ONE - fz) + coarse[x0, y0, z1] * fz) * (ONE - fy)
        near += (coarse[x0, y1, z0] * (ONE - fz) + coarse[x0, y1, z1] * fz) * fy
        far = (coarse[x1, y0, z0] * (ONE - fz) + coarse[x1, y0, z1] * fz) * (ONE - fy)
        far += (coarse[x1, y1, z0] * (ONE - fz) + coarse[x1, y1, z1] * fz) * fy
        value = near * (ONE - fx) + far * fx
        fine[i] = argument(value.real, value.imag)


@kernel()
def complex_signal(magnitude: FloatArray, phase: FloatArray, first: int, image: ComplexArray) -> None:
    """M exp(i phi) of the slices from ``first`` on, into ``image`` (X, Y, slices)."""
    nx, ny, nz = image.shape
    for x in numba.prange(nx):
        for y in range(ny):
            m, phi, out = magnitude[x, y, first : first + nz], phase[x, y, first : first + nz], image[x, y]
            for z in range(nz):
                angle = wrap(phi[z])
                out[z] = complex(m[z] * cos_wrapped(angle), m[z] * sin_wrapped(angle))


@kernel()
def phase_difference(a: ComplexArray, b: ComplexArray, first: int, difference: FloatArray) -> None:
    """Argument of a conj(b), both (X, Y, slices), into the slices of ``difference`` from ``first`` on."""
    nx, ny, nz = a.shape
    for x in numba.prange(nx):
        for y in range(ny):
            p, q, out = a[x, y], b[x, y], difference[x, y, first : first + nz]
            for z in range(nz):
                re = p[z].real * q[z].real + p[z].imag * q[z].imag
                im = p[z].imag * q[z].real - p[z].real * q[z].imag
                out[z] = argument(re, im)


# Rows of the state of voxels that are fitted side by side: parameters, then sums over the echoes.
F, R, A, TOP, MOVING = 0, 1, 2, 3, 4
INFORMATION, SLOPE, SQUARE, JAA, JAR, GA, GR, ROWS = 5, 6, 7, 8, 9, 10, 11, 12


@kernel()
def fit_echoes(
    magnitude: FloatArray,
    phase: FloatArray,
    offset: FloatArray,
    te_s: FloatArray,
    steps: int,
    limit_hz: Any,
    field_hz: FloatArray,
    r2s_hz: FloatArray,
    amplitude: FloatArray,
    lever: FloatArray,
    square: FloatArray,
) -> None:
    """Fit echoes (E, N) voxel by voxel from the start ``field_hz`` (N,), which becomes the result.

    ``r2s_hz``, ``amplitude`` receive the other parameters, ``lever`` sum m_e^2 t_e^2 (the field's Fisher information
    over (2 pi / sigma)^2), ``square`` the residual sum of squares. ``limit_hz`` bounds a single step of the field;
    the amplitude stays below three times the largest magnitude, which the fit of noise would leave by many orders.
    """
    echoes, n = magnitude.shape
    for run in numba.prange((n + RUN - 1) // RUN):
        state = np.zeros((ROWS, LANES), dtype=np.float32)
        m, phi = np.zeros((echoes, LANES), dtype=np.float32), np.zeros((echoes, LANES), dtype=np.float32)
        for low in range(run * RUN, min(n, (run + 1) * RUN), LANES):
            lanes = min(LANES, n - low)
            for e in range(echoes):
                for j in range(lanes):
                    m[e, j] = magnitude[e, low + j]
                    phi[e, j] = phase[e, low + j] - offset[low + j]
            for j in range(lanes):
                state[F, j] = field_hz[low + j]
            log_linear(m, te_s, state)
            gauss_newton(m, phi, te_s, steps, limit_hz, state)
            for j in range(lanes):
                field_hz[low + j], r2s_hz[low + j], amplitude[low + j] = state[F, j], state[R, j], state[A, j]
                lever[low + j], square[low + j] = state[INFORMATION, j], state[SQUARE, j]


# line through log M, weighted with M^2: R2* = -slope, A = exp(intercept)
@kernel(parallel=False)
def log_linear(m: FloatArray, te_s: FloatArray, state: FloatArray) -> None:
    """Start of R2* and amplitude, and the amplitude's bound, from magnitudes (E, LANES)."""
    echoes = m.shape[0]
    total = np.zeros((5, LANES), dtype=np.float32)
    for j in range(LANES):
        state[TOP, j] = SMALLEST
    for e in range(echoes):
        for j in range(LANES):
            state[TOP, j] = max(state[TOP, j], m[e, j])
    for e in range(echoes):
        for j in range(LANES):
            level = max(m[e, j] / state[TOP, j], np.float32(1e-6))
            total[0, j] += level * level
            total[1, j] += level * level * te_s[e]
            total[2, j] += level * level * log_positive(level)
    for j in range(LANES):
        total[1, j] /= total[0, j]
        total[2, j] /= total[0, j]
    for e in range(echoes):
        for j in range(LANES):
            level = max(m[e, j] / state[TOP, j], np.float32(1e-6))
            t = te_s[e] - total[1, j]
            total[3, j] += level * level * t * (log_positive(level) - total[2, j])
            total[4, j] += level * level * t * t
    for j in range(LANES):
        r = min(max(-total[3, j] / (total[4, j] + TINY), ZERO), np.float32(2000))
        state[R, j] = r
        state[A, j] = min(exp_bounded(total[2, j] + r * total[1, j]), np.float32(3)) * state[TOP, j]
        state[TOP, j] *= np.float32(3)


# min over A, R2*, f of  sum_e |S_e exp(-i phi_0) - A exp(-R2* t_e) exp(2 pi i f t_e)|^2, Gauss-Newton:
# with m_e = A exp(-R2* t_e), y_e = S_e exp(-i phi_0 - 2 pi i f t_e):
#   df         = sum m_e t_e Im y_e / (2 pi sum m_e^2 t_e^2)
#   (dA, dR)   = least squares of Re y_e - m_e on (m_e / A, -t_e m_e)
@kernel(parallel=False)
def gauss_newton(
    m: FloatArray, phi: FloatArray, te_s: FloatArray, steps: int, limit_hz: Any, state: FloatArray
) -> None:
    """Steps of the fit until every lane's field moves by less than 1e-3 Hz; four of them are taken anyway."""
    s = np.empty((ROWS, LANES), dtype=np.float32)
    s[:] = state
    s[MOVING] = ONE
    for step in range(steps + 1):
        s[INFORMATION:] = ZERO
        for e in range(m.shape[0]):
            t = te_s[e]
            for j in range(LANES):
                decay = exp_bounded(-s[R, j] * t)
                model = s[A, j] * decay
                angle = wrap(phi[e, j] - TWO_PI * s[F, j] * t)
                im = m[e, j] * sin_wrapped(angle)
                rest = m[e, j] * cos_wrapped(angle) - model
                s[INFORMATION, j] += model * t * model * t
                s[SLOPE, j] += model * t * im
                s[SQUARE, j] += rest * rest + im * im
                s[JAA, j] += decay * decay
                s[JAR, j] -= decay * model * t
                s[GA, j] += decay * rest
                s[GR, j] -= model * t * rest
        moving = ZERO
        for j in range(LANES):
            moving += s[MOVING, j]
        if step == steps or moving == ZERO:
            break
        for j in range(LANES):
            df = min(max(s[SLOPE, j] / (TWO_PI * (s[INFORMATION, j] + TINY)), -limit_hz), limit_hz)
            determinant = s[JAA, j] * s[INFORMATION, j] - s[JAR, j] * s[JAR, j]
            regular = determinant > np.float32(1e-6) * s[JAA, j] * s[INFORMATION, j]
            per = ONE / (determinant if regular else ONE)
            both = (s[INFORMATION, j] * s[GA, j] - s[JAR, j] * s[GR, j]) * per
            da = both if regular else s[GA, j] / max(s[JAA, j], TINY)
            dr = (s[JAA, j] * s[GR, j] - s[JAR, j] * s[GA, j]) * per if regular else ZERO
            s[F, j] += s[MOVING, j] * df
            s[A, j] = min(max(s[A, j] + s[MOVING, j] * da, ZERO), s[TOP, j])
            s[R, j] = min(max(s[R, j] + s[MOVING, j] * dr, ZERO), np.float32(2000))
            s[MOVING, j] = ZERO if step > 1 and abs(df) < np.float32(1e-3) else s[MOVING, j]
    state[:] = s
