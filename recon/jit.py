"""What all numba kernels share: the decorator, float32 constants, and elementary functions.

The functions are polynomials without branches or calls, so that LLVM runs 8 or 16 voxels at once; the C library's
would take five to ten times as long.

Literals in kernels are float32 constants, because one float64 literal would turn the loop into float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def kernel(parallel: bool = True, inline: Literal["never", "always"] = "never") -> Callable[[F], F]:
    """Compile a function, keep it on disk.

    Without ``fastmath``: whether a product and a sum become one instruction depends on what is compiled together, and
    a process that compiled for itself gave other last bits than one that found the kernels on disk. Kernels of
    one thread let others run meanwhile; parallel ones do not, since not every threading layer bears two at once.
    """
    jit = numba.njit(cache=True, parallel=parallel, inline=inline, error_model="numpy", nogil=not parallel)
    return cast(Callable[[F], F], jit)


ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
TWO_PI, PER_TURN = np.float32(2 * np.pi), np.float32(1 / (2 * np.pi))
TINY = np.float32(1e-12)

# Polynomials in x^2 on [-pi, pi] through the Chebyshev nodes; errors 6e-7 (sin) and 5e-7 (cos).
S0, S1, S2 = np.float32(0.99999994), np.float32(-0.16666621), np.float32(8.3327917e-3)
S3, S4, S5 = np.float32(-1.981763e-4), np.float32(2.708831e-6), np.float32(-2.0698135e-8)
C1, C2, C3 = np.float32(-0.49999988), np.float32(4.166649e-2), np.float32(-1.3887803e-3)
C4, C5, C6 = np.float32(2.476988e-5), np.float32(-2.707903e-7), np.float32(1.7245092e-9)


@kernel(parallel=False, inline="always")
def wrap(x: Any) -> Any:
    """x modulo 2 pi, in [-pi, pi)."""
    return x - TWO_PI * np.floor(x * PER_TURN + HALF)


@kernel(parallel=False, inline="always")
def sin_wrapped(x: Any) -> Any:
    """sin x for x in [-pi, pi]."""
    u = x * x
    return x * (S0 + u * (S1 + u * (S2 + u * (S3 + u * (S4 + u * S5)))))


@kernel(parallel=False, inline="always")
def cos_wrapped(x: Any) -> Any:
    """cos x for x in [-pi, pi]."""
    u = x * x
    return ONE + u * (C1 + u * (C2 + u * (C3 + u * (C4 + u * (C5 + u * C6)))))


# atan(q) / q in q^2 on [0, 1] through the Chebyshev nodes; error 1.2e-7.
A0, A1, A2, A3 = np.float32(0.99999988), np.float32(-0.33331811), np.float32(0.19966961), np.float32(-0.1400329)
A4, A5, A6, A7 = np.float32(0.098688655), np.float32(-0.058829755), np.float32(0.023780519), np.float32(-4.5597921e-3)
PI, HALF_PI, SMALLEST = np.float32(np.pi), np.float32(np.pi / 2), np.float32(1.2e-38)


@kernel(parallel=False, inline="always")
def argument(re: Any, im: Any) -> Any:
    """Argument of re + i im in [-pi, pi], to 4e-7 rad; 0 for 0."""
    x, y = abs(re), abs(im)
    q = min(x, y) / max(x, y, SMALLEST)
    u = q * q
    angle = q * (A0 + u * (A1 + u * (A2 + u * (A3 + u * (A4 + u * (A5 + u * (A6 + u * A7)))))))
    angle = HALF_PI - angle if y > x else angle
    angle = PI - angle if re < ZERO else angle
    return -angle if im < ZERO else angle


# e^y on [-ln 2 / 2, ln 2 / 2], error 9e-8; log(1 + m) / m on [sqrt(1/2) - 1, sqrt(2) - 1], error 2.3e-7.
E0, E1, E2 = np.float32(1.0000001), np.float32(1), np.float32(0.49998823)
E3, E4, E5 = np.float32(0.16666499), np.float32(0.041922502), np.float32(8.3698612e-3)
L0, L1, L2, L3 = np.float32(0.99999994), np.float32(-0.50000376), np.float32(0.33334607), np.float32(-0.24968907)
L4, L5, L6, L7 = np.float32(0.19913349), np.float32(-0.17278206), np.float32(0.16126248), np.float32(-0.098953508)
LN_2, PER_LN_2 = np.float32(np.log(2)), np.float32(1 / np.log(2))
SQRT_HALF_BITS = np.int32(np.sqrt(np.float32(0.5)).view(np.int32))


@kernel(parallel=False, inline="always")
def exp_bounded(x: Any) -> Any:
    """exp x for x in [-80, 80], to 3e-7 and the rounding of x; the interval's end beyond."""
    x = min(max(x, np.float32(-80)), np.float32(80))
    k = np.floor(x * PER_LN_2 + HALF)
    y = x - k * LN_2
    power = np.int32((np.int32(k) + 127) << 23).view(np.float32)
    return power * (E0 + y * (E1 + y * (E2 + y * (E3 + y * (E4 + y * E5)))))


@kernel(parallel=False, inline="always")
def log_positive(x: Any) -> Any:
    """log x of a normal number x > 0, to 3e-7 and the rounding of the result."""
    bits = np.int32(np.float32(x).view(np.int32) - SQRT_HALF_BITS)
    m = np.int32((bits & 0x7FFFFF) + SQRT_HALF_BITS).view(np.float32) - ONE
    fraction = m * (L0 + m * (L1 + m * (L2 + m * (L3 + m * (L4 + m * (L5 + m * (L6 + m * L7)))))))
    return np.float32(bits >> 23) * LN_2 + fraction
