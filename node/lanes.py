"""Threads in lanes: what hangs in one lane holds up neither the others nor the end. Knows nothing of what runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from node.log import get_logger

REST_S = 5.0
"""After a failure of ours, such as a journal on a full disk."""

log = get_logger("node.lanes")


class Lanes:
    """Runs tasks in daemon threads; each lane takes so many at a time.

    What a task raises is logged, and its lane rests. After `end` nothing starts, and what a task raises is of no more
    interest: what it worked with may be closed.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[str, int] = {}
        self._ending = False

    @property
    def ending(self) -> bool:
        """Whether `end` was called."""
        return self._ending

    def start(self, lane: str, task: Callable[[], object], width: int = 1) -> bool:
        """Run a task, unless ``width`` tasks run in this lane already. Whether it starts."""
        with self._changed:
            if self._ending or self._running.get(lane, 0) >= width:
                return False
            self._running[lane] = self._running.get(lane, 0) + 1
        try:
            threading.Thread(target=self._run, args=(lane, task), name=f"lane-{lane}", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            self._leave(lane)
            return False
        return True

    def _run(self, lane: str, task: Callable[[], object]) -> None:
        try:
            task()
        except Exception:
            if not self._ending:
                log.exception("a task failed and is repeated", lane=lane)
            self.rest()
        finally:
            self._leave(lane)

    def rest(self) -> None:
        """Wait a while, or until the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending, REST_S)

    def _leave(self, lane: str) -> None:
        with self._changed:
            self._running[lane] -= 1
            self._changed.notify_all()

    def end(self) -> None:
        """Start no further task."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait until nothing runs. False if something still does after so long."""
        with self._changed:
            return self._changed.wait_for(lambda: not any(self._running.values()), timeout_s)
