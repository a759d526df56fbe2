"""What is known about a reconstruction: the convention applied, warnings, sign check, fitness of the acquisition.

Every reconstruction yields a `Report`, in the node and offline. The journal keeps it as JSON, `qsm-node jobs show`
and `qsm-node reconstruct` print it, and derived objects carry what a reader of the images must know. Values alone:
they are made in `node.work`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from node.errors import Refusal, Refused

CONTRADICTION = "contradiction"


@dataclass(frozen=True, slots=True)
class Finding:
    """One recommendation beside what was acquired.

    Parameters
    ----------
    rule
        What is compared.
    measured, recommended
        Numbers with their unit, in words.
    met
        None: the images do not say, or nothing is recommended here.
    warning
        What a reader of the map should know; empty unless it limits the map's quality.
    """

    rule: str
    measured: str
    recommended: str
    met: bool | None
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What is known about one reconstruction.

    Parameters
    ----------
    convention
        How the stored images were taken to mean phase, in words.
    warnings
        What happened to the images before, and what the stages warn of.
    fitness
        The acquisition beside the consensus recommendations.
    sign, sign_evidence
        Verdict of the sign check, and what it rests on in one sentence.
    """

    convention: str
    warnings: tuple[str, ...] = ()
    fitness: tuple[Finding, ...] = ()
    sign: str = "no evidence"
    sign_evidence: str = ""

    @property
    def contradiction(self) -> str:
        """That the sign check contradicts, as a sentence; empty if it does not."""
        if self.sign != CONTRADICTION:
            return ""
        return ": ".join(filter(None, ("Sign check", self.sign, self.sign_evidence.rstrip(".")))) + "."

    @property
    def limits(self) -> tuple[str, ...]:
        """What in the acquisition limits the quality of the map."""
        return tuple(finding.warning for finding in self.fitness if finding.warning)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Everything that a reader of the result should know, the gravest first."""
        return (*filter(None, (self.contradiction,)), *self.limits, *self.warnings)

    def to_json(self) -> str:
        """As one line of JSON; equal reports give equal text."""
        return _ADAPTER.dump_json(self).decode()

    @classmethod
    def from_json(cls, line: str) -> Report:
        """The report that `to_json` wrote."""
        return _ADAPTER.validate_json(line)


_ADAPTER = TypeAdapter(Report)


def withhold_contradiction(report: Report) -> None:
    """Raise Refused (`sign-contradiction`) if the sign check contradicts."""
    if report.contradiction:
        sentence = f"the map contradicts the sign that the headers imply and is withheld: {report.sign_evidence}"
        raise Refused(Refusal("sign-contradiction", sentence))
