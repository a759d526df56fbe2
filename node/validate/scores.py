"""What a reconstruction scored on one head of the solver part."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from phantoms.score import Scores


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


def flat(scores: Scores) -> dict[str, float]:
    """Scores as numbers by name; those of a size of lesions carry its name."""
    numbers = asdict(scores)
    sizes = numbers.pop("sizes")
    return numbers | {
        f"{measure} {size['name']}": float(size[measure])
        for size in sizes
        for measure in ("count", "slope", "bias_ppb")
    }
