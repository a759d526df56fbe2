"""Journals whose time passes when told: with images that came, a job that is queued, one that is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from node.assemble import acquisition_key
from node.headers import Header
from node.journal import Journal
from node.records import Job, Received, Result

DERIVED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def arrive(journal: Journal, headers: Iterable[Header], sender: str = "PACS") -> None:
    """Images with these headers come from the sender."""
    for header in headers:
        uid = header.sop_instance_uid
        journal.add(Received(header.study_uid, acquisition_key(header), uid, uid, sender, header.to_json()))


def queue(journal: Journal, *uids: str, key: str = "key") -> None:
    """An acquisition of these images, in the spool as ``sha<uid>``; its job is queued."""
    for uid in uids:
        journal.add(Received("1.2", key, uid, f"sha{uid}", "PACS", "{}"))
    (gathering,) = journal.receiving()
    journal.complete(gathering, "default", DERIVED_AT)


def lease(journal: Journal) -> Job:
    """The next job, which is there."""
    job = journal.lease()
    assert job is not None
    return job


def finish(journal: Journal, results: Sequence[Result], peers: Sequence[str]) -> None:
    """An acquisition whose job is done, with results that these peers are to get."""
    queue(journal, "1")
    journal.finish(lease(journal), results, peers)
