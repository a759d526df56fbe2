"""Field to susceptibility: one file per method; the type of the parameters chooses the method."""

from __future__ import annotations

from recon.inversion.problem import Inverting, Problem
from recon.inversion.tv import NonlinearTv, nonlinear_tv

Inversion = NonlinearTv

__all__ = ["Inversion", "NonlinearTv", "Problem", "invert"]


def invert(problem: Problem, method: Inversion) -> Inverting:
    """Solve the dipole inversion with a method and its parameters."""
    return nonlinear_tv(problem, method)
