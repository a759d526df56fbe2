"""From the inbox into the journal: what came is read, kept in the spool or put away with a reason, and entered.

Headers are read by a process of its own, which stands back for receiving: whatever an object holds, it cannot hold up
or end the node. Objects wait in the inbox, also from one start to the next; a step that is cut off is done again.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from node.inbox import Inbox, Sealed, is_readable
from node.intake import Image, Useless, compare_files, examine_files
from node.journal import Journal
from node.log import get_logger
from node.records import Received
from node.site import Site
from node.spool import Spool
from node.workers import KeptWorker, Worker, WorkerLost

BATCH = 64
"""Objects that are read in one call and entered in one transaction."""
_LIMIT_S = 300.0
"""For a batch, beside reconstructions that leave the process a thirtieth of the machine."""

_Read = tuple[Sealed, Image | Useless]
_Answer = TypeVar("_Answer")

log = get_logger("node.indexing")


class Indexer:
    """Enters what is in the inbox.

    Parameters
    ----------
    new_worker
        Makes what reads headers.
    """

    def __init__(
        self,
        inbox: Inbox,
        spool: Spool,
        journal: Journal,
        site: Site,
        new_worker: Callable[[], Worker],
    ) -> None:
        self.inbox = inbox
        self._spool = spool
        self._journal = journal
        self._site = site
        self._reader = KeptWorker(new_worker, partial(examine_files, [], site), _LIMIT_S)
        self._waiting: deque[Sealed] = deque()
        self._read: list[_Read] = []
        self._entered: list[Sealed] = []

    def recover(self) -> None:
        """Take what was received before the node ended; what was half received is gone."""
        whole, torn = self.inbox.recover()
        self._waiting.extend(whole)
        if whole or torn:
            log.info("found in the inbox", received=len(whole), half_received=torn)

    def put(self, sealed: Sealed) -> None:
        """Enter this object soon; any thread may call, and should wake the loop."""
        self._waiting.append(sealed)

    def senders(self) -> frozenset[str]:
        """AE titles whose objects wait."""
        return frozenset(sealed.sender for sealed in self._waiting.copy())

    def step(self) -> None:
        """Enter all that waits, and write what was counted."""
        self._journal.tally()
        self._take_away()
        try:
            while self._waiting:
                self._enter_batch()
        except WorkerLost:
            if not self._reader.ended:
                raise

    def _enter_batch(self) -> None:
        try:
            self._read = self._read or self._examined(list(islice(self._waiting, BATCH)))
        except OSError:
            if not self._leave_unread():
                raise
            return
        self._enter(self._read)
        self._entered, self._read = [sealed for sealed, _ in self._read], []
        self._take_away()

    def _take_away(self) -> None:
        """Out of the inbox with what is entered."""
        for sealed in self._entered:
            sealed.path.unlink(missing_ok=True)
        for _ in self._entered:
            self._waiting.popleft()
        self._entered = []

    def _leave_unread(self) -> bool:
        """Leave what cannot be read to the next start, so that it holds up no other; whether there is any."""
        batch = list(islice(self._waiting, BATCH))
        readable = [sealed for sealed in batch if is_readable(sealed)]
        if len(readable) == len(batch):
            return False
        self._waiting.extend(readable)  # before they are taken away: their senders are busy throughout
        for _ in batch:
            self._waiting.popleft()
        return True

    def end(self) -> None:
        """Read no more; what waits is entered at the next start."""
        self._reader.end()

    def _examined(self, batch: Sequence[Sealed]) -> list[_Read]:
        """What the objects are."""
        deadly = Useless("rejected", "reading its header takes too long or too much memory, or ends the process", "")
        found = self._ask(examine_files, [(sealed.path, sealed.start) for sealed in batch])
        return [(sealed, what or deadly) for sealed, what in zip(batch, found, strict=True)]

    def _ask(
        self, task: Callable[..., list[_Answer]], things: Sequence[Any], attempts: int = 2
    ) -> list[_Answer | None]:
        """What the reader says of each thing; None of what alone ends it, or lacks memory in it, twice.

        Raises
        ------
        WorkerLost
            The node ends.
        """
        try:
            return [*self._reader.run(task, things, self._site)]
        except (WorkerLost, MemoryError):
            if self._reader.ended:
                raise
            alone = len(things) == 1
            if alone and attempts == 1:
                return [None]
            return [answer for thing in things for answer in self._ask(task, [thing], attempts - alone)]

    def _enter(self, read: Sequence[_Read]) -> None:
        """Files into the spool, then rows into the journal; until the end, the inbox holds them too."""
        images, useless = {}, []
        later = []
        for sealed, found in read:
            if isinstance(found, Useless):
                useless.append((sealed, found))
            elif found.sop_instance_uid in images:
                later.append((sealed, found))
            else:
                images[found.sop_instance_uid] = (sealed, found)
        self._put_away([sealed for sealed, found in useless if found.kind == "rejected"])
        self._enter_images(list(images.values()))
        if later:
            self._enter(later)
        self._count(useless)  # last: what fails above is done again

    def _enter_images(self, images: Sequence[tuple[Sealed, Image]]) -> None:
        """Images with different instance UIDs."""
        repeated = self._repeated(images)
        again: Counter[tuple[int, str]] = Counter()
        fresh: list[Received] = []
        files: dict[str, Path] = {}
        for sealed, image in images:
            if image.sop_instance_uid in repeated:
                again[repeated[image.sop_instance_uid], sealed.sender] += 1
            else:
                fresh.append(
                    Received(
                        image.study_uid, image.key, image.sop_instance_uid, sealed.sha256, sealed.sender, image.header
                    )
                )
                files[sealed.sha256] = sealed.path
        self._spool.take(files)
        for received, outcome in zip(fresh, self._journal.add(*fresh), strict=True):
            if outcome == "conflict":
                log.warning(
                    "same instance UID, other content or encoding: the first is used, the other kept",
                    sender=received.sender, instance=received.sop_instance_uid, kept=f"{received.sha256}.dcm",
                )  # fmt: skip
        for (acquisition, sender), count in again.items():
            log.info(
                f"came again: nothing to do; `qsm-node jobs retry {acquisition}` sets going what stopped",
                acquisition=acquisition, sender=sender, images=count,
            )  # fmt: skip

    def _repeated(self, images: Sequence[tuple[Sealed, Image]]) -> dict[str, int]:
        """Those that are here already, by instance UID, and the acquisitions that have them.

        The same bytes are, and others that differ from what is here in nothing that reconstruction takes from them.
        """
        acquisitions: dict[str, int] = {}
        to_compare: dict[str, tuple[Path, Path]] = {}
        for sealed, image in images:
            if holder := self._journal.holder(image.sop_instance_uid):
                acquisitions[image.sop_instance_uid], sha256 = holder
                if sha256 != sealed.sha256:
                    to_compare[image.sop_instance_uid] = self._spool.path(sha256), sealed.path
        if to_compare:
            answers = self._ask(compare_files, [*to_compare.values()])
            for uid, agree in zip(to_compare, answers, strict=True):
                if not agree:
                    del acquisitions[uid]
        return acquisitions

    def _put_away(self, rejected: Sequence[Sealed]) -> None:
        """What is unusable stays in the spool for a while, since its sender counts on it.

        Not in the place of an image: the same data set may have come in another transfer syntax than its own.
        """
        files = {sealed.sha256: sealed.path for sealed in rejected}
        unknown = self._journal.keeping.unknown_objects(files)
        self._spool.take({sha256: files[sha256] for sha256 in unknown})

    def _count(self, useless: Sequence[tuple[Sealed, Useless]]) -> None:
        """Tell of what is not taken."""
        for sealed, found in useless:
            if found.kind == "rejected":
                log.warning(
                    "rejected",
                    reason=found.reason, sender=sealed.sender, instance=found.sop_instance_uid,
                    kept=f"{sealed.sha256}.dcm",
                )  # fmt: skip
            self._journal.count(found.kind, found.reason, sealed.sender)
