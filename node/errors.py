"""The error tree of `node`. Whether to try again is a property of the class and of nothing else.

::

    NodeError
    ├── PermanentError      trying again gives the same
    │   ├── Refused         the input is not what the node reconstructs; carries a `Refusal`
    │   ├── Unreadable      not a DICOM file, truncated, or pixels that cannot be decoded
    │   ├── BadMask         a supplied mask is no mask of these images
    │   └── NotReproduced   a result does not come out again as it was
    └── TransientError      worth another attempt

Knows no DICOM: a `Refusal` is a value, made where the reason is seen, read by the person who can act.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not reconstructed.

    Parameters
    ----------
    code
        Stable, kebab-case: `no-phase`, `incomplete`, `phase-difference`, ... For machines and for counting.
    sentence
        One sentence with the numbers that an administrator needs to act. No patient data.
    """

    code: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}"


class NodeError(Exception):
    """Base of everything that the node raises on purpose."""

    transient: ClassVar[bool] = False


class PermanentError(NodeError):
    """Trying again gives the same."""


class TransientError(NodeError):
    """Worth another attempt: a peer, a disk or a worker that may come back."""

    transient: ClassVar[bool] = True


def is_full(error: BaseException) -> bool:
    """Whether this is for lack of space on a disk, or of a quota."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


class Refused(PermanentError):
    """The input is not what the node reconstructs."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal

    def __reduce__(self) -> tuple[type[Refused], tuple[Refusal]]:
        return type(self), (self.refusal,)


class Unreadable(PermanentError):
    """Not a DICOM file, truncated, or pixels that cannot be decoded."""


class BadMask(PermanentError):
    """A supplied mask is no mask of these images."""


class NotReproduced(PermanentError):
    """A result does not come out again as it was: what others hold of it would not fit."""
