"""Nonlinear total-variation inversion by ADMM, the default inversion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recon import kernels
from recon.fourier import dipole_kernel, edge_scales, fft_pair, gradient_power, ifft_pair
from recon.inversion.problem import Inverting, Problem
from recon.morphology import erode
from recon.solve import Step
from recon.types import BadRecipe, FloatArray

EDGE_DEPTH_MM = 3.0
"""Nearer to the surface, edges of the magnitude are those of cerebrospinal fluid, bone and air."""


@dataclass(frozen=True, slots=True)
class NonlinearTv:
    r"""Nonlinear data term, total variation inside the mask, ADMM.

    .. math:: \min_\chi \; \sum_{data} \frac{W^2}{2 k^2} |e^{i k D \chi} - e^{i k f}|^2
              + \alpha \sum_{faces} w |\nabla \chi|_1

    with :math:`k = 2\pi f_0 \Delta TE` in rad/ppm, so that a residual turn between two echoes costs nothing
    (nonlinear data term: Liu et al. 2013, MRM 69:467; ADMM: Milovic et al. 2018, MRM 80:814). Sources outside the
    mask stay free and take up what background removal left.

    Voxels that contradict the model lose weight (MERIT, Liu et al. 2013): where W r exceeds ``merit_factor`` times
    its root mean square s, W^2 is multiplied by (s / W r)^4. Later, faces with a large gradient lose weight,
    w = 1 / (1 + |grad chi| / reweight_ppm) (Candes et al. 2008, J Fourier Anal Appl 14:877), except between voxels
    without data. From the start faces have less weight where the magnitude has an edge, as in MEDI (Liu J. et al.
    2012, NeuroImage 59:2560): w is divided by 1 + (|dM| / (max M edge_ratio))^2 deeper than 3 mm below the surface.

    Parameters
    ----------
    alpha_ppm
        Weight of total variation, ppm, for a field that is known to 0.5 Hz; in proportion where the noise is higher.
    mu_gradient
        ADMM penalty of the gradient split, in units of ``alpha_ppm``.
    mu_data
        ADMM penalty of the data split.
    relaxation
        Over-relaxation.
    iterations
        Number of iterations.
    merit_factor, merit_at
        MERIT's threshold and the iterations after which it acts.
    reweight_ppm, reweight_at
        Gradient at which a face keeps half its weight, and the iterations after which faces are reweighted.
    edge_ratio
        Relative step of the magnitude between neighbours at which a face keeps half its weight.
    """

    alpha_ppm: float = 4e-4
    mu_gradient: float = 40.0
    mu_data: float = 0.08
    relaxation: float = 1.7
    iterations: int = 30
    merit_factor: float = 6.0
    merit_at: tuple[int, ...] = (6, 12, 21)
    reweight_ppm: float = 0.02
    reweight_at: tuple[int, ...] = (15, 23)
    edge_ratio: float = 0.4

    def __post_init__(self) -> None:
        penalties = (self.alpha_ppm, self.mu_gradient, self.mu_data)
        positive = (*penalties, self.merit_factor, self.reweight_ppm, self.edge_ratio)
        events = (*self.merit_at, *self.reweight_at)
        if not all(x > 0 for x in positive) or self.iterations < 1 or not 0 < self.relaxation < 2:
            raise BadRecipe(f"NonlinearTv needs positive parameters and 0 < relaxation < 2, got {self}")
        if not all(1 <= at <= self.iterations for at in events):
            raise BadRecipe(
                f"NonlinearTv: merit_at and reweight_at lie beyond {self.iterations} iterations, got {self}"
            )


def nonlinear_tv(problem: Problem, method: NonlinearTv) -> Inverting:
    """Susceptibility in ppm, float32 (X, Y, Z), up to a constant.

    Yields
    ------
    Step with the relative change of chi.
    """
    local, brain, voxel_mm = problem.local, problem.brain, problem.voxel_mm
    shape = brain.shape
    dipole = dipole_kernel(shape, voxel_mm, problem.b0_dir)
    power = gradient_power(shape, voxel_mm)
    power[0, 0, 0] = 1  # neither term knows the mean of chi: keep it at 0
    scales = np.array(edge_scales(voxel_mm), dtype=np.float32)
    mu1, mu2 = np.float32(method.mu_gradient * method.alpha_ppm), np.float32(method.mu_data)
    threshold, rho = np.float32(1 / method.mu_gradient), np.float32(method.relaxation)
    k = np.float32(problem.rad_per_ppm)

    field = local.field_ppm.ravel()
    w2 = np.where(local.mask, problem.weight2, np.float32(0)).ravel()
    deep = erode(brain, voxel_mm, EDGE_DEPTH_MM)
    faces = np.empty((3, *shape), dtype=np.uint8)
    v = np.zeros((3, *shape), dtype=np.float32)
    g = np.zeros(shape, dtype=np.float32)
    z, u = np.zeros(field.size, dtype=np.float32), np.zeros(field.size, dtype=np.float32)
    chi = np.zeros(shape, dtype=np.float32)
    dchi = np.zeros(shape, dtype=np.float32)
    pair, solution = np.empty(shape, dtype=np.complex64), np.empty(shape, dtype=np.complex64)
    residual = np.empty(field.size, dtype=np.float32)

    def weigh_faces(per_half: float) -> None:
        kernels.face_weights(
            chi, w2.reshape(shape), problem.magnitude, brain, deep, scales,
            np.float32(per_half), np.float32(1 / method.edge_ratio), faces,
        )  # fmt: skip

    weigh_faces(0)
    for iteration in range(1, method.iterations + 1):
        kernels.tv_step(chi, faces, scales, threshold, rho, v)
        kernels.tv_divergence(v, faces, scales, threshold, g)
        kernels.data_step(field, dchi.ravel(), w2, k, mu2, rho, z, u)
        kernels.pack(g.ravel(), dchi.ravel(), pair.ravel())
        kernels.solve_chi(fft_pair(pair), dipole, power, mu1, mu2, solution)
        previous = chi[::4].copy()
        kernels.unpack(ifft_pair(solution).ravel(), chi.ravel(), dchi.ravel())
        if iteration in method.merit_at:
            kernels.data_residual(field, dchi.ravel(), w2, k, residual)
            merit(w2, residual, method.merit_factor)
        if iteration in method.reweight_at:
            weigh_faces(1 / method.reweight_ppm)
        yield Step(iteration, method.iterations, relative_change(chi, previous))
    return chi


def relative_change(chi: FloatArray, previous: FloatArray) -> float:
    """Norm of the last change over that of chi, on every fourth plane: a figure to watch, not to stop by."""
    return float(np.linalg.norm(chi[::4] - previous) / (np.linalg.norm(chi[::4]) + 1e-30))


def merit(weight2: FloatArray, residual: FloatArray, factor: float) -> None:
    """Multiply W^2 in place by (s / W r)^4 where W r exceeds s, ``factor`` times its rms over the data."""
    data = weight2 > 0
    s = factor * np.sqrt(np.mean(residual[data] ** 2, dtype=np.float64))
    worse = data & (residual > s)
    weight2[worse] *= (s / residual[worse]) ** 4
