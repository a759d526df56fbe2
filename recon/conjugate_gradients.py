"""Conjugate gradients for A x = b with a symmetric, positive semidefinite operator."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from recon import kernels
from recon.solve import Step
from recon.types import FloatArray


def conjugate_gradients(
    operator: Callable[[FloatArray], FloatArray],
    right: FloatArray,
    limit: int,
    tolerance: float,
    precondition: Callable[[FloatArray], FloatArray] | None = None,
    x0: FloatArray | None = None,
) -> Generator[Step, None, FloatArray]:
    r"""Minimise :math:`\tfrac12 x^T A x - b^T x` (Hestenes & Stiefel 1952).

    Parameters
    ----------
    operator
        A, from volume to volume.
    right
        float32 (X, Y, Z), b.
    limit, tolerance
        Stop after so many iterations, or when the residual has fallen to this fraction of b.
    precondition
        An approximate inverse of A, symmetric and positive.
    x0
        Where to start, 0 if absent.

    Yields
    ------
    Step with the norm of the residual relative to b.
    """
    x = np.zeros_like(right) if x0 is None else x0.copy()
    residual = right.copy() if x0 is None else right - operator(x)
    scaled = residual if precondition is None else precondition(residual)
    direction = scaled.copy()
    product = _dot(residual, scaled)
    start, norm = _dot(right, right), _dot(residual, residual)
    for iteration in range(1, limit + 1):
        if norm <= tolerance**2 * start:
            break
        image = operator(direction)
        step = np.float32(product / _dot(direction, image))
        kernels.cg_step(x.ravel(), residual.ravel(), direction.ravel(), image.ravel(), step)
        scaled = residual if precondition is None else precondition(residual)
        previous, product = product, _dot(residual, scaled)
        norm = product if precondition is None else _dot(residual, residual)
        kernels.cg_turn(direction.ravel(), scaled.ravel(), np.float32(product / previous))
        yield Step(iteration, limit, float(np.sqrt(norm / start)))
    return x


def _dot(a: FloatArray, b: FloatArray) -> float:
    """Scalar product that does not depend on the number of threads, as that of a BLAS does.

    When the iteration stops depends on it, and one more or less is seen in the map.
    """
    sums = np.empty(len(a), dtype=np.float64)
    kernels.plane_dots(a, b, sums)
    return float(sums.sum())
