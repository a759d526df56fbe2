"""Total-variation inversion with a linear data term, by ADMM."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace

from recon.inversion.problem import Inverting, Problem
from recon.inversion.tv import NonlinearTv, nonlinear_tv
from recon.solve import Step
from recon.types import BadRecipe, FloatArray

SMALL_RAD_PER_PPM = 1e-3
"""|exp(i k a) - exp(i k b)|^2 / k^2 is (a - b)^2 to 1e-7 where k times the field is so small."""


@dataclass(frozen=True, slots=True)
class LinearTv:
    r"""Linear data term, total variation inside the mask (Bilgic et al. 2014, MRM 72:1444).

    .. math:: \min_\chi \; \sum_{data} \frac{W^2}{2} (D \chi - f)^2 + \alpha \sum_{faces} |\nabla \chi|_1

    The limit of small k of :class:`~recon.inversion.tv.NonlinearTv`, and solved as such: no turn of the phase is
    forgiven, no voxel loses weight.

    Parameters
    ----------
    alpha_ppm
        Weight of total variation, ppm.
    mu_gradient, mu_data, relaxation, iterations
        As in NonlinearTv.
    """

    alpha_ppm: float = 4e-4
    mu_gradient: float = 60.0
    mu_data: float = 0.08
    relaxation: float = 1.7
    iterations: int = 40

    def __post_init__(self) -> None:
        positive = (self.alpha_ppm, self.mu_gradient, self.mu_data, self.iterations)
        if not all(x > 0 for x in positive) or not 0 < self.relaxation < 2:
            raise BadRecipe(f"LinearTv needs positive parameters and 0 < relaxation < 2, got {self}")


def linear_tv(problem: Problem, method: LinearTv) -> Inverting:
    """Susceptibility in ppm, float32 (X, Y, Z), up to a constant."""
    limit = NonlinearTv(
        alpha_ppm=method.alpha_ppm,
        mu_gradient=method.mu_gradient,
        mu_data=method.mu_data,
        relaxation=method.relaxation,
        iterations=method.iterations,
        merit_at=(),
        reweight_at=(),
        edge_ratio=math.inf,
    )
    solver: Generator[Step, None, FloatArray] = nonlinear_tv(replace(problem, rad_per_ppm=SMALL_RAD_PER_PPM), limit)
    return (yield from solver)
