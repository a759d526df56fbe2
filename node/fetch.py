"""Fetching images that lack from a PACS: what is worth asking for, and asking.

An acquisition that was judged incomplete, or meant for QSM and without phase, is asked for at every peer with
``fetch = true``. What the peer sends comes in as any image does and opens the acquisition again. Every judgement is
asked for once, with repetitions where the peer fails; all in all `node.fetches.MOST_ATTEMPTS` times at most.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from node.config import Settings
from node.deliver import Unreachable
from node.fetches import Outcome, Wanted
from node.headers import Header
from node.journal import Journal
from node.lanes import Lanes
from node.log import get_logger
from node.notices import meant_for_qsm
from node.peers import Peer
from node.query import Query, Unanswered

MOST_SERIES = 32
"""So many series are fetched that the node has nothing of: 16 echoes as series of their own, in two components."""
COMPONENTS = 4
"""Magnitude, phase, real, imaginary."""
GRACE_S = 2.0

log = get_logger("node.fetch")


@dataclass(frozen=True, slots=True)
class Lack:
    """Images of a series that the node lacks; none named: the whole series is to be sent."""

    series_uid: str
    images: int
    sop_instance_uids: tuple[str, ...] = ()


class Fetcher:
    """Asks, from `step` to `end`.

    Parameters
    ----------
    tls
        What to connect to a peer with; None: without TLS.
    """

    def __init__(
        self, journal: Journal, settings: Settings, tls: Callable[[Peer], ssl.SSLContext | None] = lambda _: None
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._tls = tls
        self._open: set[Query] = set()
        self._lock = threading.Lock()
        self.lanes = Lanes()

    def step(self) -> None:
        """Start asking every peer that something is to be asked of, unless it is being asked."""
        for name in self._settings.fetched_from:
            if self._journal.fetches.due(name):
                self.lanes.start(name, partial(self._ask_all, name))

    def end(self) -> None:
        """Ask no more, and cut off what waits for an answer: it is asked again when the node runs again."""
        self.lanes.end()
        with self._lock:
            for query in self._open:
                query.cut()
        if not self.lanes.join(GRACE_S):
            log.warning("left behind: a peer that answers nothing")

    def _ask_all(self, name: str) -> None:
        for wanted in self._journal.fetches.due(name):
            if self.lanes.ending:
                return
            self._journal.fetches.begin(wanted, name)
            outcome, sentence = self._ask(name, wanted)
            if self.lanes.ending and outcome == "again":
                return
            self._journal.fetches.enter(wanted, name, outcome, sentence)
            if outcome != "needless":
                say = log.warning if outcome == "again" else log.info
                say("images asked for", acquisition=wanted.acquisition_id, peer=name, outcome=sentence)

    def _ask(self, name: str, wanted: Wanted) -> tuple[Outcome, str]:
        headers = [Header.from_json(line) for line in self._journal.headers(wanted.acquisition_id)]
        if wanted.code != "incomplete" and not meant_for_qsm(wanted.code, headers):
            return "needless", "not meant for QSM: nothing is asked for"
        try:
            with self._query(self._settings.peers[name]) as query:
                return self._fetch(query, wanted, headers)
        except (Unreachable, Unanswered) as why:
            return "again", str(why)

    @contextmanager
    def _query(self, peer: Peer) -> Iterator[Query]:
        query = Query(peer, self._settings.ae_title, self._tls(peer))
        with self._lock:
            self._open.add(query)
        try:
            yield query
            query.close()
        except BaseException:
            query.abort()
            raise
        finally:
            with self._lock:
                self._open.remove(query)

    def _fetch(self, query: Query, wanted: Wanted, headers: Sequence[Header]) -> tuple[Outcome, str]:
        study = wanted.study_uid
        lacks = list(lacking(query, study, headers, self._journal.fetches.known(study)))
        if not lacks:
            return "done", "it has no image that is missing here"
        moved = [query.move(study, lack.series_uid, lack.sop_instance_uids) for lack in lacks]
        sent, failed = sum(m.sent for m in moved), sum(m.failed for m in moved)
        problem = next((m.problem for m in moved if m.problem), "")
        told = f"{sum(lack.images for lack in lacks)} images in {len(lacks)} series are missing here: {sent} sent"
        told += f", {failed} failed" if failed else ""
        told += f"; {problem}" if problem else ""
        return "again" if failed or problem else "done", told


def lacking(query: Query, study_uid: str, headers: Sequence[Header], known: dict[str, set[str]]) -> Iterator[Lack]:
    """What the peer has and the node lacks: of the acquisition's series, and series that may belong to it.

    The latter are MR series of the study of which the node has nothing and whose number of images is that of some
    echoes in some components of the acquisition, as far as it is known.

    Raises
    ------
    Unanswered
        The peer lists nothing, or neither lists nor counts the images of a series.
    """
    mine = {header.series_uid for header in headers}
    listed = query.series(study_uid)
    for series in sorted(mine & set(listed)):
        have = known.get(series, set())
        try:
            missing = query.images(study_uid, series) - have
        except Unanswered:  # not every PACS lists images
            if not listed[series]:
                raise
            if listed[series] > len(have):
                yield Lack(series, listed[series] - len(have))
            continue
        if missing:
            most = len(missing) > len(have)
            yield Lack(series, len(missing), () if most else tuple(sorted(missing)))
    fitting = [Lack(uid, n) for uid, n in sorted(listed.items()) if uid not in known and _may_belong(n, headers)]
    yield from fitting[:MOST_SERIES]


def _may_belong(images: int, headers: Sequence[Header]) -> bool:
    """Whether a series of so many images can be of the scan; one of multi-frame objects can have any number."""
    frames = [frame for header in headers for frame in header.frames]
    slices, echoes = len({frame.position_mm for frame in frames}), len({round(frame.te_s, 5) for frame in frames})
    enhanced = len(frames) > len(headers)
    return images > 0 and (enhanced or (images % slices == 0 and images <= COMPONENTS * echoes * slices))
