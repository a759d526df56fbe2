"""Sending what is due, and noting what became of each object.

Every destination has a lane of its own. The first association of a round finds out whether the peer is there; then
others help, each taking a few objects at a time. Waits and attempts are in the journal, so they survive the node.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from node.config import Settings
from node.deliver import Item, Link, Sent, Unreachable
from node.deliveries import LONGEST_PAUSE_S
from node.journal import Journal
from node.lanes import Lanes
from node.log import get_logger
from node.records import Attempt, Delivery

FIRST_PAUSE_S = 5.0
HANDFUL = 4
"""Objects whose answers are one transaction."""
GRACE_S = 2.0
"""So long an object that is on its way may take when the node stops."""

log = get_logger("node.outbox")

Open = Callable[[str, frozenset[str]], Link]
"""(name of the peer, SOP classes) -> a way to it; raises `Unreachable`."""


class Outbox:
    """Sends, from `step` to `end`.

    Parameters
    ----------
    open_link
        See `Open`.
    clock
        Seconds since the epoch, as the journal's.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        open_link: Open,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._open_link = open_link
        self._clock = clock
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self.lanes = Lanes()

    def step(self) -> None:
        """Start a round for every destination that something is due for, unless the last one still runs."""
        for destination in self._journal.deliveries.waiting():
            self.lanes.start(destination, partial(self._round, destination))

    def end(self) -> None:
        """Finish the objects that are on their way, or cut them off where this takes long; then send no more."""
        self.lanes.end()
        if self.lanes.join(GRACE_S):
            return
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()
        if not self.lanes.join(GRACE_S):
            log.warning("left behind: a peer that answers nothing")

    def _round(self, destination: str) -> None:
        due = self._journal.deliveries.due(destination)
        classes = frozenset(delivery.sop_class_uid for delivery in due)
        rest = deque(due)
        try:
            with self._link(destination, classes) as link:
                width = min(self._settings.peers[destination].associations, -(-len(due) // HANDFUL))
                for _ in range(width - 1):
                    self.lanes.start(destination, partial(self._help, destination, classes, rest), width)
                problem = self._empty(link, rest, destination)
        except Unreachable as why:
            self._put_off(due, Sent("lost", str(why)), destination)
        else:
            if problem.outcome == "lost":
                self._put_off(_taken(rest, len(rest)), problem, destination)

    def _help(self, destination: str, classes: frozenset[str], rest: deque[Delivery]) -> None:
        if not rest:
            return
        try:
            with self._link(destination, classes) as link:
                self._empty(link, rest, destination)
        except Unreachable as why:
            log.info("fewer associations than wanted", destination=destination, reason=str(why))

    @contextmanager
    def _link(self, destination: str, classes: frozenset[str]) -> Iterator[Link]:
        link = self._open_link(destination, classes)
        with self._lock:
            self._links.add(link)
        try:
            yield link
            link.close()
        finally:
            with self._lock:
                self._links.remove(link)

    def _empty(self, link: Link, rest: deque[Delivery], destination: str) -> Sent:
        """Send the rest, a handful at a time, as long as the link lives; a problem, ``lost`` if nothing was answered.

        A link that is dead already is tried as well: that it is, is entered as an attempt.
        """
        outcomes: Counter[str] = Counter()
        problem = Sent("stored")
        while rest and (link.alive or not outcomes) and not self.lanes.ending:
            handful = _taken(rest, max(HANDFUL, link.at_once))
            answers = self._send(link, handful)
            self._note(handful, answers)
            outcomes.update(answer.outcome for answer in answers)
            problem = next((answer for answer in answers if answer.outcome != "stored"), problem)
        if problem.outcome != "stored" and not self.lanes.ending:
            failed = outcomes.total() - outcomes["stored"]
            log.warning("delivery failed", destination=destination, objects=failed, reason=problem.note)
        if outcomes["stored"]:
            log.info("delivered", destination=destination, objects=outcomes["stored"])
        return problem if outcomes["lost"] == outcomes.total() else Sent("stored")

    def _send(self, link: Link, handful: Sequence[Delivery]) -> list[Sent]:
        """Answers for all, or for the first ones if the node stops meanwhile."""
        folder = self._settings.data_dir
        items = [Item(d.sop_class_uid, d.sop_instance_uid, folder / d.path, d.sha256) for d in handful]
        answers: list[Sent] = []
        for start in range(0, len(items), link.at_once):
            if self.lanes.ending:
                break
            answers += link.send(items[start : start + link.at_once])
        return answers

    def _note(self, deliveries: Sequence[Delivery], answers: Sequence[Sent]) -> None:
        """Enter the answers; those that there are not because the node stops are no attempts."""
        pairs = zip(deliveries, answers, strict=False)
        self._enter([self._attempt(d, a) for d, a in pairs if not (a.outcome == "lost" and self.lanes.ending)])

    def _enter(self, attempts: Sequence[Attempt]) -> None:
        """Enter attempts, as soon as the journal can: nothing more is sent before, so nothing again and again."""
        while True:
            try:
                return self._journal.deliveries.enter(attempts)
            except Exception:
                if self.lanes.ending:
                    raise
                log.exception("what was sent cannot be entered yet", objects=len(attempts))
                self.lanes.rest()

    def _put_off(self, deliveries: Sequence[Delivery], answer: Sent, destination: str) -> None:
        """The peer is not there: all wait for the same time, so that they are one round again."""
        if not deliveries or self.lanes.ending:
            return
        pause = pause_s(max(delivery.attempts for delivery in deliveries))
        self._enter([self._attempt(delivery, answer, pause) for delivery in deliveries])
        log.warning("delivery put off", destination=destination, objects=len(deliveries), reason=answer.note)

    def _attempt(self, delivery: Delivery, answer: Sent, pause: float | None = None) -> Attempt:
        if answer.outcome == "stored":
            wanted = self._settings.peers[delivery.destination].commitment
            return Attempt(delivery, "stored" if wanted else "delivered", answer.note)
        hours = self._settings.give_up_hours
        tried_h = (self._clock() - delivery.queued_at) / 3600
        if tried_h > hours and delivery.attempts >= hours:  # a node that was off has not tried
            return Attempt(delivery, "undeliverable", answer.note)
        if answer.outcome == "refused":
            pause = LONGEST_PAUSE_S
        elif pause is None:
            pause = pause_s(delivery.attempts)
        return Attempt(delivery, "pending", answer.note, pause)


def pause_s(attempts: int, chance: Callable[[], float] = random.random) -> float:
    """How long to wait after so many failed attempts: doubling, at most a quarter of an hour, scattered."""
    longest = min(FIRST_PAUSE_S * 2.0 ** min(attempts, 20), LONGEST_PAUSE_S)
    return longest * (0.5 + chance() / 2)


def _taken(rest: deque[Delivery], most: int) -> list[Delivery]:
    """Up to so many from the left; other threads take from it too."""
    taken = []
    for _ in range(most):
        try:
            taken.append(rest.popleft())
        except IndexError:
            break
    return taken
