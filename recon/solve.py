"""Iterative solvers are generators that yield a :class:`Step` per iteration and return their result.

The caller owns the loop: it shows progress, keeps the trace, or stops early by closing the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """Where a solver stands: ``iteration`` of at most ``limit``, with its own measure of the residual."""

    iteration: int
    limit: int
    residual: float


def run(solver: Generator[Step, None, T], report: Callable[[Step], None]) -> tuple[T, Step]:
    """Drive a solver to its end, reporting every step; its result and its last step."""
    last = Step(0, 0, 0.0)
    while True:
        try:
            last = next(solver)
        except StopIteration as end:
            return end.value, last
        report(last)


def solved(solver: Generator[Step, None, T]) -> T:
    """The result of a solver whose steps interest nobody."""
    return run(solver, lambda _: None)[0]
