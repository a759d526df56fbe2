"""Which images belong together, and whether they are whole. Pure: headers in, verdict out; no files, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from node.errors import Refusal
from node.headers import Header

State = Literal["announced", "whole", "incomplete", "refused"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the images of one acquisition amount to so far.

    Parameters
    ----------
    state
        `announced`: whole, and as many echoes and slices as announced: may start at once. `whole`: every
        echo has the same slices in both components: may start after quiet time. `incomplete`: complex
        gradient echo of which images lack. `refused`: not what the node reconstructs. While images still arrive, both of the
        latter may change.
    refusal
        Why, when `incomplete` or `refused`.
    echoes, slices
        Echoes and slices seen so far.
    """

    state: State
    refusal: Refusal | None
    echoes: int
    slices: int


def acquisition_key(header: Header) -> str:
    """A key that all images of one acquisition share; 32 hexadecimal digits, unique over studies."""
    raise NotImplementedError


def judge(headers: Iterable[Header]) -> Verdict:
    """What the images of one acquisition (equal `acquisition_key`) amount to so far.

    The order of headers and repeated ones (equal SOP instance UID) make no difference.
    """
    raise NotImplementedError
