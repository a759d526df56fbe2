"""Progress of long work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

BREATH_S = 10.0
"""Plain lines about one step come no faster than this."""


class Steps:
    """One bar for each step while the ``with`` block lasts; elsewhere one line for each step that is done.

    ``remaining`` tells how long a step will go on, where that is long enough to ask; elsewhere a line now and then.
    """

    def __init__(self, console: Console, remaining: bool = False) -> None:
        self._console = console
        self._remaining = remaining
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]\N{CHECK MARK}"),
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            *((TimeRemainingColumn(),) if remaining else ()),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Time a step; its ``with`` block is given a function that says how many of ``total`` are done."""
        begun = told = time.monotonic()
        task = self._progress.add_task(what, total=total)

        def advance(done: int) -> None:
            nonlocal told
            self._progress.update(task, completed=done)
            now = time.monotonic()
            if self._remaining and total and done and not self._console.is_terminal and now - told > BREATH_S:
                told, left_s = now, (now - begun) * (total - done) / done
                self._console.print(f"{what:<24} {now - begun:6.0f} s  {done} of {total}, about {left_s:.0f} s left")

        yield advance
        self._progress.update(task, total=total or 1, completed=total or 1)
        if not self._console.is_terminal:
            self._console.print(f"{what:<24} {time.monotonic() - begun:6.1f} s")
