"""Field to susceptibility: one file per method; the type of the parameters chooses the method."""

from __future__ import annotations

from typing import assert_never

from recon.inversion.direct import ClosedFormL2, Tkd, closed_form_l2, tkd
from recon.inversion.linear_tv import LinearTv, linear_tv
from recon.inversion.medi import Medi, medi
from recon.inversion.problem import Inverting, Problem
from recon.inversion.tv import NonlinearTv, nonlinear_tv

Inversion = NonlinearTv | LinearTv | Medi | ClosedFormL2 | Tkd

__all__ = ["ClosedFormL2", "Inversion", "LinearTv", "Medi", "NonlinearTv", "Problem", "Tkd", "invert"]


def invert(problem: Problem, method: Inversion) -> Inverting:
    """Solve the dipole inversion with a method and its parameters."""
    match method:
        case NonlinearTv():
            return nonlinear_tv(problem, method)
        case LinearTv():
            return linear_tv(problem, method)
        case Medi():
            return medi(problem, method)
        case ClosedFormL2():
            return closed_form_l2(problem, method)
        case Tkd():
            return tkd(problem, method)
        case _:
            assert_never(method)
