"""What all numba kernels share: the decorator, float32 constants, and trigonometry of wrapped angles.

Literals in kernels are float32 constants, because one float64 literal would turn the loop into float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def kernel(parallel: bool = True, inline: Literal["never", "always"] = "never") -> Callable[[F], F]:
    """Compile a function, keep it on disk; float32 sums may be contracted, not reordered."""
    flags = {"contract", "nsz", "arcp"}
    jit = numba.njit(cache=True, parallel=parallel, inline=inline, error_model="numpy", fastmath=flags)
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
