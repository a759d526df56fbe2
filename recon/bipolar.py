"""Bipolar readout: every other echo is read backwards, and its phase is off by a function of place.

Gradient delays and eddy currents change sign with the readout: phase of odd and even echoes differs by a constant and
a slope (Lu et al. 2008, MRM 60:198; Li J. et al. 2015, MRM 73:1850). Echoes that are all read forwards have no such
phase, and correcting them would spoil them: it is measured first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from recon.echoes import Echoes
from recon.types import BadRecipe, FloatArray


@dataclass(frozen=True, slots=True)
class Readout:
    """When echoes count as read in both directions.

    Parameters
    ----------
    least_rad
        Root mean square over the brain of half the difference between odd and even echoes, rad. Less does not
        harm the fit of all echoes.
    coherence
        Least agreement of the voxels with a linear phase, 0 to 1.
    """

    least_rad: float = 0.1
    coherence: float = 0.5

    def __post_init__(self) -> None:
        if self.least_rad <= 0 or not 0 < self.coherence < 1:
            raise BadRecipe(f"Readout needs a positive least_rad and 0 < coherence < 1, got {self}")


@dataclass(frozen=True, slots=True, eq=False)
class ReadoutPhase:
    """The phase theta of the model phi_e = phi_0 + 2 pi f t_e + (-1)^e theta, e = 0, 1, ...

    ``theta_rad`` float32 (N,) or None where nothing is to be corrected; ``words`` say what was found.
    """

    theta_rad: FloatArray | None
    words: str


def readout_phase(echoes: Echoes, method: Readout) -> ReadoutPhase:
    r"""Phase of the readout's direction from second differences, in which offset and field cancel.

    .. math:: \sum_e M_e M_{e+1}^2 M_{e+2} \, e^{\pm i (\phi_e - 2\phi_{e+1} + \phi_{e+2})} \propto e^{4 i \theta(r)},
              \qquad \theta(r) = a + b \cdot r

    on a lattice of about 4 mm. a is known modulo pi / 2, and the smallest is taken: pi / 2 more would shift the whole
    field by a constant. Needs three echoes or more at even spacing; with fewer, field and readout cannot be told
    apart.
    """
    te_s = echoes.te_s
    if len(te_s) < 3:
        return ReadoutPhase(None, f"direction of readout not decidable from {len(te_s)} echoes")
    if np.ptp(np.diff(te_s)) > 0.01 * np.diff(te_s).min():
        return ReadoutPhase(None, "direction of readout not decidable from unevenly spaced echoes")
    stride = [max(1, round(4 / h)) for h in echoes.voxel_mm]
    lattice = np.zeros(echoes.mask.shape, dtype=np.bool_)
    lattice[tuple(slice(None, None, s) for s in stride)] = True
    chosen = np.flatnonzero(lattice[echoes.mask])
    lattice &= echoes.mask
    seen = _second_difference(echoes, chosen)
    signal = np.zeros([-(-n // s) for n, s in zip(echoes.mask.shape, stride, strict=True)], dtype=np.complex128)
    signal[lattice[tuple(slice(None, None, s) for s in stride)]] = seen
    slope = np.array([_slope(signal, axis) / s for axis, s in enumerate(stride)])

    places = np.stack(np.nonzero(lattice), axis=1)
    centre = places.mean(axis=0)
    theta4 = (places - centre) @ slope
    total = (seen * np.exp(-1j * theta4)).sum()
    constant = float(np.angle(total))
    size = float(np.sqrt(np.mean((theta4 + constant) ** 2))) / 4
    coherence = float(np.abs(total) / (np.abs(seen).sum() + 1e-30))
    if coherence < method.coherence or size < method.least_rad:
        return ReadoutPhase(
            None, f"monopolar ({size:.2f} rad between odd and even echoes, coherence {coherence:.2f})"
        )
    everywhere = np.stack(np.nonzero(echoes.mask), axis=1)
    theta = ((everywhere - centre) @ slope + constant) / 4
    return ReadoutPhase(theta.astype(np.float32), f"bipolar, corrected by {size:.2f} rad rms")


def corrected(echoes: Echoes, readout: ReadoutPhase) -> Echoes:
    """The echoes as if all of them had been read forwards."""
    if readout.theta_rad is None:
        return echoes
    phase = echoes.phase.copy()
    phase[::2] -= readout.theta_rad
    phase[1::2] += readout.theta_rad
    return replace(echoes, phase=phase)


def _second_difference(echoes: Echoes, chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.complex128]:
    """Sum over echo triplets at the chosen flat voxels, complex (len(chosen),)."""
    magnitude, phase = (a[:, chosen].astype(np.float64) for a in (echoes.magnitude, echoes.phase))
    total = np.zeros(chosen.size, dtype=np.complex128)
    for e in range(len(echoes.te_s) - 2):
        weight = np.sqrt(magnitude[e] * magnitude[e + 2]) * magnitude[e + 1]
        second = phase[e] - 2 * phase[e + 1] + phase[e + 2]
        total += weight * np.exp(1j * (second if e % 2 == 0 else -second))
    return total


def _slope(signal: npt.NDArray[np.complex128], axis: int) -> float:
    """Phase per lattice step along an axis: from neighbours first, then from partners ever farther apart."""
    slope, lag = 0.0, 1
    while 2 * lag <= signal.shape[axis]:
        after = np.take(signal, range(lag, signal.shape[axis]), axis)
        here = np.take(signal, range(signal.shape[axis] - lag), axis)
        product = (after * here.conj()).sum() * np.exp(-1j * slope * lag)
        slope += float(np.angle(product)) / lag
        lag *= 2
    return slope
