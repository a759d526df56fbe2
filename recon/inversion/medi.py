"""Morphology-enabled dipole inversion (MEDI), the method of the seed paper."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from recon.conjugate_gradients import conjugate_gradients
from recon.fourier import dipole_kernel, edge_scales, filtered
from recon.inversion.problem import Inverting, Problem
from recon.inversion.tv import merit
from recon.operators import gradient, gradient_adjoint
from recon.solve import Step, solved
from recon.types import BadRecipe, BoolArray, FloatArray, Vector

MEAN_DIPOLE2 = 4 / 45
"""Mean of the squared dipole kernel over all directions."""


@dataclass(frozen=True, slots=True)
class Medi:
    r"""Nonlinear data term, L1 norm of the gradient away from the edges of the magnitude.

    .. math:: \min_\chi \; \sum_{data} \frac{W^2}{2 k^2} |e^{i k D \chi} - e^{i k f}|^2
              + \alpha \sum M \sqrt{|\nabla \chi|^2 + \epsilon^2}
              + \frac{\lambda_{csf}}{2} \sum_{csf} (\chi - \bar\chi_{csf})^2

    by Gauss-Newton steps with conjugate gradients inside (Liu J. et al. 2012, NeuroImage 59:2560; nonlinear term and
    MERIT: Liu T. et al. 2013, MRM 69:467; the last term, MEDI+0: Liu Z. et al. 2018, MRM 79:2795). M is 0 on the
    faces where the magnitude changes most, 1 elsewhere. Voxels whose weighted residual exceeds ``merit_factor`` times
    its root mean square lose weight after every outer step, as in :class:`~recon.inversion.tv.NonlinearTv`.

    W^2 has mean 1 and the field is in ppm, so alpha is in ppm. The papers multiply the data term, in rad, by lambda
    instead: alpha = 1 / (2 lambda k^2).

    Parameters
    ----------
    alpha_ppm
        Weight of the gradient, ppm, for a field that is known to 0.5 Hz; in proportion where the noise is higher.
    edge_share
        Share of the faces inside the brain that count as edges.
    smoothing_ppm
        The epsilon that makes the norm differentiable.
    csf_weight
        Weight of the uniformity of cerebrospinal fluid; 0 is plain MEDI.
    outer, inner, inner_tolerance
        Gauss-Newton steps; at most this many conjugate gradient steps in each, which end at this residual.
    change
        Stop when an outer step changes chi by less than this, relative.
    merit_factor
        MERIT's threshold.
    """

    alpha_ppm: float = 2e-4
    edge_share: float = 0.3
    smoothing_ppm: float = 1e-3
    csf_weight: float = 0.03
    outer: int = 10
    inner: int = 60
    inner_tolerance: float = 0.02
    change: float = 0.03
    merit_factor: float = 6.0

    def __post_init__(self) -> None:
        positive = (self.alpha_ppm, self.smoothing_ppm, self.outer, self.inner, self.change, self.merit_factor)
        if not all(x > 0 for x in positive) or self.csf_weight < 0:
            raise BadRecipe(f"Medi needs positive parameters and csf_weight >= 0, got {self}")
        if not (0 <= self.edge_share < 1 and 0 < self.inner_tolerance < 1):
            raise BadRecipe(f"Medi needs 0 <= edge_share < 1 and 0 < inner_tolerance < 1, got {self}")


def medi(problem: Problem, method: Medi) -> Inverting:
    """Susceptibility in ppm, float32 (X, Y, Z), up to a constant.

    Yields
    ------
    Step with the relative change of chi over the brain.
    """
    brain, shape = problem.brain, problem.brain.shape
    dipole = dipole_kernel(shape, problem.voxel_mm, problem.b0_dir)
    scales = edge_scales(problem.voxel_mm)
    smooth = morphology(problem.magnitude, brain, scales, method.edge_share)
    w2 = np.where(problem.local.mask, problem.weight2, np.float32(0))
    field, k = problem.masked_field_ppm, np.float32(problem.rad_per_ppm)
    alpha, epsilon2 = np.float32(method.alpha_ppm), np.float32(method.smoothing_ppm**2)
    csf_weight = np.float32(method.csf_weight)

    def field_of(chi: FloatArray) -> FloatArray:
        return filtered(chi, dipole)

    chi = np.zeros(shape, dtype=np.float32)
    dchi = np.zeros(shape, dtype=np.float32)
    for outer in range(1, method.outer + 1):
        slope = gradient(chi, scales)
        weight = alpha * smooth / np.sqrt((smooth * slope**2).sum(axis=0) + epsilon2)

        def hessian(step: FloatArray, w2: FloatArray = w2, weight: FloatArray = weight) -> FloatArray:
            out = field_of(w2 * field_of(step)) + gradient_adjoint(weight * gradient(step, scales), scales)
            return out + csf_weight * uniformity(step, problem.csf)

        downhill = field_of(w2 * np.sin(k * (field - dchi)) / k) - gradient_adjoint(weight * slope, scales)
        downhill -= csf_weight * uniformity(chi, problem.csf)
        diagonal = np.float32(MEAN_DIPOLE2 * w2.mean()) + 2 * weight.sum(axis=0) + csf_weight * problem.csf
        step = solved(
            conjugate_gradients(hessian, downhill, method.inner, method.inner_tolerance, partial(divided, diagonal))
        )
        chi += step
        dchi = field_of(chi)
        residual = np.sqrt(w2) * np.float32(2) * np.abs(np.sin(k * (dchi - field) / 2)) / k
        merit(w2, residual, method.merit_factor)
        change = float(np.linalg.norm(step[brain]) / (np.linalg.norm(chi[brain]) + 1e-30))
        yield Step(outer, method.outer, change)
        if change < method.change:
            break
    return chi


def divided(diagonal: FloatArray, residual: FloatArray) -> FloatArray:
    """The residual divided by an approximate diagonal of the Hessian."""
    return residual / diagonal


def uniformity(chi_ppm: FloatArray, region: BoolArray) -> FloatArray:
    """Deviation from the mean over ``region``, 0 outside it: the gradient of half its squared norm."""
    if not region.any():
        return np.zeros_like(chi_ppm)
    return np.where(region, chi_ppm - chi_ppm[region].mean(dtype=np.float64), 0).astype(np.float32)


def morphology(magnitude: FloatArray, brain: BoolArray, scales: Vector, edge_share: float) -> FloatArray:
    """M of every face, float32 (3, X, Y, Z): 1 inside the brain, 0 on the strongest edges and outside."""
    inside = np.stack([brain & np.roll(brain, -1, axis) for axis in range(3)])
    strength = np.abs(gradient(magnitude, scales))
    limit = np.quantile(strength[inside], 1 - edge_share) if inside.any() else 0.0
    return (inside & (strength <= limit)).astype(np.float32)
