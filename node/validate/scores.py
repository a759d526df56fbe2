"""What a reconstruction scored on one head of the solver part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SolverScores:
    """One recipe on one head.

    ``snr`` is the protocol's, ``seconds`` the wall time of the reconstruction; ``scores`` are numbers by name, the
    unit at the end of the name.
    """

    recipe: str
    head_seed: int
    snr: float
    seconds: float
    scores: dict[str, float]
