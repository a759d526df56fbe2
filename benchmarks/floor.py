"""How fast this machine could be: transforms and memory traffic that a stage cannot do without, at measured speed.

    floor of a stage = pairs of real 3D transforms x time of a pair + bytes moved / memory bandwidth

A pair is ``rfftn`` and ``irfftn`` of the working grid in float32 with all cores. Bytes count every array that a stage
must read or write once per iteration if everything between two transforms is one loop; what fits the caches is free.

=================  ==============================  ==========================================================
stage              pairs                           bytes (v: acquired, n: working grid, m: mask, e: echoes)
=================  ==============================  ==========================================================
GRE phase          complex transforms along x and  12 v: magnitude and phase in, phase out; 32 v: image and
                   back of every line, v points    its low-pass image between transforms
checks, mask       0                               2 v, v: a given mask's shape, signal and parts
field              0                               48 e m: echoes gathered (in and out), phase of pairs, phase
                                                   offset, fit; 64 n: volumes of unwrapping and of the fit
background (PDF)   2 i + 4, and 2 j + 1 on the     per iteration 72 n: x, r, d and A d, mask, weight; spectrum
                   coarse grid                     times dipole, twice; as much of the coarse grid
inversion (TV)     2 i                             per iteration 102 n: gradient split 31, its divergence 19,
                                                   data split 32, solution 20; 32 v: results on the full grid
=================  ==============================  ==========================================================

i is the number of iterations in the stage's trace, j that of the other steps which the stage reports. Other methods
have no floor here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import log2, prod
from statistics import median

import numpy as np

from recon.fourier import irfft, rfft
from recon.kernels import threads
from recon.types import Shape, Trace


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured time of a transform pair on the working grid in s, and memory bandwidth in bytes/s."""

    pair_s: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Size:
    """What is reconstructed: acquired, working and coarse grid, voxels of the mask, echoes."""

    full: Shape
    work: Shape
    coarse: Shape
    mask: int
    echoes: int


@dataclass(frozen=True, slots=True)
class Need:
    """Pairs of transforms and bytes of memory traffic."""

    pairs: float
    bytes_moved: float

    def seconds(self, machine: Machine) -> float:
        """The least time that a machine needs for this."""
        return self.pairs * machine.pair_s + self.bytes_moved / machine.bandwidth


def needs(size: Size, traces: Sequence[Trace], steps: Mapping[str, int]) -> dict[str, Need]:
    """Need of every stage whose method has one, by the stage's name; ``steps`` counts what each stage reported."""
    v, n, c = prod(size.full), prod(size.work), prod(size.coarse)
    # A pair does 5 n log2(n) operations, complex lines there and back 10 v log2(nx).
    lines = 2 * v * log2(size.full[0]) / (n * log2(n))
    found = {
        "GRE phase": Need(lines, 44 * v),
        "checks": Need(0, 2 * v),
        "mask": Need(0, v),
        "field": Need(0, 48 * size.echoes * size.mask + 64 * n),
    }
    for trace in traces:
        if trace.method == "Pdf":
            i, j = trace.iterations, steps["background"] - trace.iterations
            coarse = (2 * j + 1) * c * log2(c) / (n * log2(n)) if j else 0.0
            found["background"] = Need(2 * i + 4 + coarse, 72.0 * (i * n + j * c))
        if trace.method in ("NonlinearTv", "LinearTv"):
            found["inversion"] = Need(2 * trace.iterations, 102.0 * n * trace.iterations + 32 * v)
    return found


def measured(shape: Shape, runs: int = 5) -> Machine:
    """Speed of this machine for working grids of ``shape``."""
    volume = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def pair() -> None:
        irfft(rfft(volume), shape)

    return Machine(_median_s(pair, runs), bandwidth(runs))


def bandwidth(runs: int = 5, megabytes: int = 256) -> float:
    """Bytes read and written per second by a copy on all cores, of arrays that no cache holds."""
    source = np.ones((threads(), megabytes * 2**20 // (4 * threads())), dtype=np.float32)
    target = np.zeros_like(source)
    with ThreadPoolExecutor(threads()) as pool:
        seconds = _median_s(lambda: list(pool.map(np.copyto, target, source)), runs)
    return 2 * source.nbytes / seconds


def _median_s(action: Callable[[], object], runs: int) -> float:
    action()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
