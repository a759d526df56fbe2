"""Direct inversions: one division in k-space, no data weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recon.fourier import dipole_kernel, filtered, gradient_power, irfft, rfft, rfft_mean
from recon.inversion.problem import Inverting, Problem
from recon.solve import Step
from recon.types import BadRecipe


@dataclass(frozen=True, slots=True)
class Tkd:
    r"""Thresholded k-space division (Shmueli et al. 2009, MRM 62:1510).

    .. math:: \hat\chi = \frac{\hat f}{c \tilde D}, \qquad \tilde D = \mathrm{sign}(D) \max(|D|, t),
              \qquad c = \langle D / \tilde D \rangle_k

    c is the peak of the point-spread function: without it, values come out too low (Schweser et al. 2013, MRM
    69:1582).

    Parameters
    ----------
    threshold
        Smallest modulus of the dipole kernel that is divided by.
    """

    threshold: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 2 / 3:
            raise BadRecipe(f"Tkd needs 0 < threshold < 2/3, got {self.threshold}")


@dataclass(frozen=True, slots=True)
class ClosedFormL2:
    r"""Tikhonov regularisation of the gradient, in closed form (Bilgic et al. 2014, MRM 72:1444).

    .. math:: \min_\chi \tfrac12 \|D\chi - f\|^2 + \tfrac\beta2 \|\nabla\chi\|^2
              \quad\Rightarrow\quad \hat\chi = \frac{D \hat f}{D^2 + \beta |\hat\nabla|^2}

    Parameters
    ----------
    beta
        Weight of the gradient, which is taken in units of the smallest voxel edge; dimensionless.
    """

    beta: float = 3e-3

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise BadRecipe(f"ClosedFormL2 needs a positive beta, got {self.beta}")


def tkd(problem: Problem, method: Tkd) -> Inverting:
    """Susceptibility in ppm, float32 (X, Y, Z), up to a constant."""
    field = problem.masked_field_ppm
    dipole = dipole_kernel(field.shape, problem.voxel_mm, problem.b0_dir)
    cut = np.copysign(np.maximum(np.abs(dipole), np.float32(method.threshold)), dipole)
    peak = rfft_mean((dipole / cut).astype(np.float32), field.shape)
    chi = irfft(rfft(field) / (np.float32(peak) * cut), field.shape)
    yield Step(1, 1, 0.0)
    return chi


def closed_form_l2(problem: Problem, method: ClosedFormL2) -> Inverting:
    """Susceptibility in ppm, float32 (X, Y, Z), up to a constant."""
    field = problem.masked_field_ppm
    dipole = dipole_kernel(field.shape, problem.voxel_mm, problem.b0_dir)
    power = gradient_power(field.shape, problem.voxel_mm)
    power[0, 0, 0] = 1
    inverse = (dipole / (dipole**2 + np.float32(method.beta) * power)).astype(np.float32)
    chi = filtered(field, inverse)
    yield Step(1, 1, 0.0)
    return chi
