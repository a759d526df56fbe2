"""Everything that a validation run found, and ``results.json``: complete numbers for a machine, no pictures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter

from node.validate.promises import Level, PromiseRow
from node.validate.scores import SolverScores
from phantoms.protocol import Protocol
from phantoms.study.reading import Reader
from phantoms.study.record import PatientRecord
from phantoms.study.tables import Study


@dataclass(frozen=True, slots=True)
class Results:
    """A run of the validation.

    Parameters
    ----------
    versions
        Of qsm-node, Python and the libraries that compute, by name.
    level, study_seed, protocol, readers
        What was run: the seed of the cohort, how every patient was scanned (B0 direction and SNR are the patients'
        own), and who read.
    through_dicom
        Whether the patients went through C-STORE, the node and back, or were reconstructed from arrays.
    recipe
        The default recipe as plain values, ``recon.recipe.as_dict``.
    finished, seconds, cores
        When the run ended, wall time of its parts by name, and the cores that it had.
    promises, study, scores, patients
        What came out. ``patients`` are the records of every lesion: the tables can be made again from them.
    """

    versions: dict[str, str]
    level: Level
    through_dicom: bool
    study_seed: int
    protocol: Protocol
    readers: tuple[Reader, ...]
    recipe: dict[str, object]
    finished: datetime
    cores: int
    seconds: dict[str, float]
    promises: tuple[PromiseRow, ...]
    study: Study
    scores: tuple[SolverScores, ...]
    patients: tuple[PatientRecord, ...]

    @property
    def broken(self) -> tuple[PromiseRow, ...]:
        """The promises that are not held."""
        return tuple(row for row in self.promises if not row.held)


def as_json(results: Results) -> str:
    """The content of ``results.json``: keys in the order of the fields; a number that does not exist is null."""
    return TypeAdapter(Results).dump_json(results, indent=1).decode() + "\n"
