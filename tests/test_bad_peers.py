"""Whatever a peer does: the journal says it, nothing is given up, and once it recovers everything is there once."""

from __future__ import annotations

import gc
import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from pydicom.uid import MRImageStorage, SegmentationStorage

from associations import refused_connection
from journals import Clock, finish
from node import deliver
from node.config import Settings
from node.deliver import Item, Link, Sent, StoreLink, Unreachable
from node.deliveries import LONGEST_PAUSE_S
from node.journal import Journal
from node.outbox import FIRST_PAUSE_S, Outbox
from node.overview import deliveries, summaries
from node.records import Result
from node.stow import StowLink

pytestmark = refused_connection

OBJECTS = 18
HOUR_S = 3600.0


class Sender:
    """A journal with one finished job, and the outbox that delivers it; both may be started anew."""

    def __init__(self, folder: Path, study: list[Path]) -> None:
        self.folder, self.clock = folder, Clock(1_700_000_000.0)
        self.port = 1
        self.paths: dict[str, Path] = {}
        for n, source in enumerate(study[:OBJECTS]):
            ds = pydicom.dcmread(source)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{n}"
            if n == 0:
                ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SegmentationStorage
            self.paths[f"2.25.{n}"] = folder / f"{n:02}.dcm"
            ds.save_as(self.paths[f"2.25.{n}"])
        self.open_link: Callable[[str, frozenset[str]], Link] = self._connect
        self.start()
        results = [
            Result(
                "mask" if n == 0 else "qsm", SegmentationStorage if n == 0 else MRImageStorage, uid, path.name, sha
            )
            for n, (uid, path) in enumerate(self.paths.items())
            for sha in (hashlib.sha256(path.read_bytes()).hexdigest(),)
        ]
        finish(self.journal, results, ("pacs",))

    def _connect(self, _: str, classes: frozenset[str]) -> Link:
        peer = deliver.Peer(ae_title="PACS", host="127.0.0.1", port=self.port)
        return StoreLink(peer, "QSMNODE", classes)

    def start(self) -> None:
        self.journal = Journal(self.folder / "journal.sqlite", self.clock)
        peer = deliver.Peer(ae_title="PACS", host="127.0.0.1", port=104)
        config = Settings(data_dir=self.folder, peers={"pacs": peer})
        self.outbox = Outbox(self.journal, config, self.open_link, clock=self.clock)

    def stop(self) -> None:
        self.outbox.end()
        self.journal.close()

    def step(self) -> None:
        self.outbox.step()
        assert self.outbox.lanes.join(60)

    def exhaust(self) -> None:
        """Step as long as something is due; a round that sends nothing puts off all that is."""
        for _ in range(OBJECTS + 1):
            if not self.journal.deliveries.due():
                return
            self.step()
        pytest.fail("what failed is tried again without a pause")

    def deliver(self) -> float:
        """Steps every half minute; the hours until all is delivered."""
        start_s = self.clock.now
        while summaries(self.journal)[0].state != "delivered":
            assert self.clock.now < start_s + 12 * HOUR_S, self.told()
            self.step()
            self.clock.now += 30
        return (self.clock.now - start_s) / HOUR_S

    def told(self) -> set[str]:
        """What the journal says of objects that are not delivered."""
        return {group.sentence for group in deliveries(self.journal, 1) if group.state != "delivered"}


@pytest.fixture(scope="module")
def bad(bad_peer: ModuleType) -> Iterator[Any]:
    with bad_peer.BadPeer() as peer:
        yield peer


@pytest.fixture
def pacs(bad: Any) -> Iterator[Any]:
    yield bad
    bad.recover()  # lets go of what still waits


@pytest.fixture
def sender(tmp_path: Path, tiny_study: list[Path]) -> Iterator[Sender]:
    sender = Sender(tmp_path, tiny_study)
    yield sender
    sender.stop()
    gc.collect()  # of these sockets


ENDED = "PACS ended the association or did not answer in time"
SENTENCES = {
    "resets the connection": "takes connections, but answers no association request|nobody answers there",
    "closes the connection": "takes connections, but answers no association request",
    "talks another protocol": "takes connections, but answers no association request",
    "answers no request": "takes connections, but answers no association request",
    "aborts every request": "takes connections, but answers no association request",
    "does not know us": "refuses the association: Calling AE title not recognised",
    "has no room for associations": "refuses the association: Local limit exceeded",
    "takes other classes alone": "PACS does not accept MR Image Storage",
    "takes other syntaxes alone": "PACS does not accept MR Image Storage uncompressed in little endian",
    "lacks a class": "PACS does not accept Segmentation Storage",
    "aborts at once": "accepts the association and ends it|answers no association request|PACS ended the association",
    "aborts in the middle": ENDED,
    "stores and aborts": ENDED,
    "stores and closes": ENDED,
    "stores and is silent": ENDED,
    "stores and talks nonsense": ENDED,
    "aborts at one object": ENDED,
    "is full": r"PACS answered 0xA700 \(Refused: Out of Resources\)",
    "cannot process": r"PACS answered 0x0110 \(Processing Failure\)",
    "refuses every object": r"PACS answered 0xC000 \(Cannot Understand\)",
    "fails every 7th": r"PACS answered 0x0110 \(Processing Failure\)",
    "is down": "nobody answers there",
}
TAKES_ALL_TIME = [way for way, sentence in SENTENCES.items() if "answers no" in sentence]
TAKES_ALL_TIME += ["stores and is silent", "stores and talks nonsense"]
ASSOCIATE = deliver.associate
STORES_AND_DOES_NOT_SAY = [way for way in SENTENCES if way.startswith("stores and")]


def check_arrived(sender: Sender, pacs: Any, digests: Callable[..., dict[Path, str]], twice: bool) -> int:
    """Everything is stored, with the bytes of the file every time; how many objects came more than once."""
    of_file = digests(sender.paths.values())
    expected = {(uid, of_file[path]) for uid, path in sender.paths.items()}
    assert set(pacs.received) == expected
    assert set(pacs.stored) == set(sender.paths)
    assert twice or set(pacs.stored.values()) == {1}
    return len(pacs.received) - len(expected)


@pytest.mark.parametrize("way", SENTENCES)
def test_everything_arrives_once_the_peer_recovers(
    way: str, sender: Sender, pacs: Any, bad_peer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node starts anew in between: it neither forgets what failed nor hurries."""
    if way in TAKES_ALL_TIME:
        monkeypatch.setattr(deliver, "associate", partial(ASSOCIATE, timeout_s=0.4))
    poison = SegmentationStorage if way == "lacks a class" else "2.25.0"
    pacs.play("good" if way == "is down" else way, poison=poison)
    sender.port = pacs.port
    if way == "is down":
        pacs.hang_up()
    for _ in range(3):
        sender.exhaust()
        tried, told = pacs.associations, sender.told()
        assert not told or any(re.search(SENTENCES[way], sentence) for sentence in told), told
        sender.stop()
        sender.start()
        sender.clock.now += FIRST_PAUSE_S / 2 - 0.1
        sender.step()
        assert (pacs.associations, sender.told()) == (tried, told), "a restart does not shorten the pause"
        sender.clock.now += LONGEST_PAUSE_S
    if way == "is down":
        pacs.listen()
    pacs.recover()
    monkeypatch.setattr(deliver, "associate", ASSOCIATE)
    assert sender.deliver() < 1
    check_arrived(sender, pacs, bad_peer.digests, twice=way in STORES_AND_DOES_NOT_SAY)


@pytest.mark.parametrize("way", ["answers slowly", "warns", "fails every 7th", "aborts in the middle"])
def test_a_peer_that_takes_some_gets_all_without_recovering(
    way: str, sender: Sender, pacs: Any, bad_peer: ModuleType
) -> None:
    pacs.play(way)
    sender.port = pacs.port
    assert sender.deliver() < 1
    sent_again = check_arrived(sender, pacs, bad_peer.digests, twice=False)
    assert (sent_again == 0) == (way in {"answers slowly", "warns"})


@pytest.mark.parametrize("seed", range(3))
def test_everything_arrives_whatever_a_peer_does_next(
    seed: int, sender: Sender, pacs: Any, bad_peer: ModuleType
) -> None:
    """Another way on every association, good ones among them; the node starts anew now and then."""
    order = random.Random(seed)
    ways = sorted(set(SENTENCES) - {"is down", *TAKES_ALL_TIME} | {"good", "warns", "answers slowly"})
    pacs.play(*order.choices(ways, k=40), "good", poison="2.25.0")
    sender.port = pacs.port
    for _ in range(4):
        sender.exhaust()
        sender.stop()
        sender.start()
        sender.clock.now += order.uniform(1, LONGEST_PAUSE_S)
    assert sender.deliver() < 8
    check_arrived(sender, pacs, bad_peer.digests, twice=True)


def test_an_object_that_makes_the_peer_abort_does_not_hold_up_the_others(sender: Sender, pacs: Any) -> None:
    """Not even the first of all: those behind it are never tried in vain for long."""
    pacs.play("aborts at one object", poison="2.25.0")
    sender.port = pacs.port
    for _ in range(240):
        sender.step()
        sender.clock.now += 30
    assert set(pacs.stored) == set(sender.paths) - {"2.25.0"}
    (waiting,) = [group for group in deliveries(sender.journal, 1) if group.state == "pending"]
    assert (waiting.objects, waiting.sentence) == (1, ENDED)


# ------------------------------------------------------------------------------------------------- DICOMweb

WEB_SENTENCES = {
    "closes": "no connection: nobody answers there, or it was closed",
    "stores and closes": "no connection: nobody answers there, or it was closed",
    "401": r"answered 401 \(credentials refused\)",
    "500": "answered 500",
    "503": "answered 503",
    "409": r"answered 0xA700 \(Refused: Out of Resources\)",
    "413": "answered 413",
    "202": "answered 202 without naming this object",
    "fails every 7th": r"answered 0x0110 \(Processing Failure\)",
}


class BadServer:
    """The script of a DICOMweb server; ``stored`` is how often each instance was."""

    def __init__(self, way: str, stow: ModuleType) -> None:
        self.way, self._stow = way, stow
        self.received: list[pydicom.Dataset] = []
        self.stored: Counter[str] = Counter()
        self.requests = 0

    def __call__(self, datasets: list[pydicom.Dataset]) -> tuple[int, str, bytes]:
        first = len(self.received)
        self.requests += 1
        self.received += datasets
        failed = {
            "409": dict.fromkeys(range(len(datasets)), 0xA700),
            "fails every 7th": {n: 0x0110 for n in range(len(datasets)) if (first + n) % 7 == 6},
        }.get(self.way, {})
        if self.way in {"", "stores and closes", "fails every 7th"}:
            self.stored.update(str(ds.SOPInstanceUID) for n, ds in enumerate(datasets) if n not in failed)
        if "closes" in self.way:
            return 0, "", b""
        if self.way.isdigit() and self.way != "409":
            return int(self.way), "", b""
        answer: tuple[int, str, bytes] = self._stow.stored(datasets, failed=failed, status=202 if failed else 200)
        return answer


@pytest.mark.parametrize("way", WEB_SENTENCES)
def test_everything_arrives_once_the_web_server_recovers(way: str, sender: Sender, stow: ModuleType) -> None:
    server, script = stow.Server(), BadServer(way, stow)
    server.script = script
    try:
        sender.open_link = lambda *_: StowLink(deliver.Peer(url=server.url))
        for _ in range(3):
            sender.stop()
            sender.start()
            sender.exhaust()
            tried, told = script.requests, sender.told()
            assert not told or any(re.search(WEB_SENTENCES[way], sentence) for sentence in told), told
            sender.stop()
            sender.start()
            sender.step()
            assert (script.requests, sender.told()) == (tried, told), "a restart does not shorten the pause"
            sender.clock.now += LONGEST_PAUSE_S
        script.way = ""
        assert sender.deliver() < 1
    finally:
        server.stop()
    files = {uid: pydicom.dcmread(path) for uid, path in sender.paths.items()}
    assert all(ds == files[ds.SOPInstanceUID] for ds in script.received)
    assert set(script.stored) == set(files)
    assert way == "stores and closes" or set(script.stored.values()) == {1}


@pytest.mark.parametrize("web", [False, True])
def test_a_damaged_file_does_not_hold_up_the_others(web: bool, sender: Sender, pacs: Any, stow: ModuleType) -> None:
    """Cut off in the middle of its header it can be read, and says nothing of what it is."""
    sender.port = pacs.port
    whole = sender.paths["2.25.3"].read_bytes()
    sender.paths["2.25.3"].write_bytes(whole[:180])
    server, script = stow.Server(), BadServer("", stow)
    server.script = script
    if web:
        sender.open_link = lambda *_: StowLink(deliver.Peer(url=server.url))
    try:
        sender.stop()
        sender.start()
        sender.exhaust()
        assert sender.told() == {
            "03.dcm in the data folder is damaged, not what was written; `qsm-node jobs retry` makes it again"
        }
        sender.paths["2.25.3"].write_bytes(whole)
        assert sender.deliver() < 1
    finally:
        server.stop()


# ------------------------------------------------------------------------------------------------- patience


class Away:
    """A link whose peer gives one answer to all."""

    at_once = 1
    alive = True

    def __init__(self, answer: Sent) -> None:
        self._answer = answer

    def send(self, items: Sequence[Item]) -> list[Sent]:
        return [self._answer] * len(items)

    def close(self) -> None:
        """Nothing is open."""

    cut = close


@pytest.mark.parametrize("outcome", ["unreachable", "lost", "later", "refused"])
def test_nothing_is_given_up_within_three_days(outcome: Any, sender: Sender) -> None:
    """That is the default; the node starts anew every day."""

    def connect(*_: object) -> Link:
        if outcome == "unreachable":
            raise Unreachable("nobody answers there")
        return Away(Sent(outcome, "no"))

    sender.open_link = connect
    sender.stop()
    sender.start()
    start_s = sender.clock.now
    while sender.clock.now < start_s + 71.9 * HOUR_S:
        sender.step()
        if (sender.clock.now - start_s) % (24 * HOUR_S) < LONGEST_PAUSE_S:
            sender.stop()
            sender.start()
        sender.clock.now += LONGEST_PAUSE_S
    assert {group.state for group in deliveries(sender.journal, 1)} == {"pending"}
    sender.clock.now += HOUR_S
    sender.step()
    assert {group.state for group in deliveries(sender.journal, 1)} == {"undeliverable"}, "and then it is said"
