"""Images that lack are asked for at a PACS: what is asked, how often, and what an unhelpful PACS brings about."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from copy import deepcopy
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE, build_context, evt
from typer.testing import CliRunner

from associations import listen, store
from dicom_sets import renewed
from journals import Clock, arrive
from node.cli import app
from node.config import ConfigError, Settings, load
from node.deliver import Unreachable
from node.errors import Refusal
from node.fetch import Fetcher
from node.fetches import FIRST_PAUSE_S, FORGOTTEN_S, MOST_ATTEMPTS
from node.headers import read_header
from node.identity import PRODUCT
from node.journal import Journal
from node.overview import Fetch, fetches, summaries
from node.peers import Peer
from node.query import FIND, MOVE, Query
from node.records import Failed
from node.service import Node
from node.workers import InlineWorker

INCOMPLETE = Refusal("incomplete", "echo 3: 15 of 16 phase slices")


class Archive:
    """A query/retrieve provider on loopback that has these images, and sends them to who it knows as QSMNODE.

    Attributes
    ----------
    asked
        Level and number of UIDs of every request.
    image_level, find_status, move_status
        Whether images are listed, and what is answered instead of doing it.
    boast
        So many more images are counted than there are.
    broken
        UIDs that cannot be sent.
    """

    def __init__(self, images: Sequence[Dataset]) -> None:
        self.images = list(images)
        self.asked: list[tuple[str, str, int]] = []
        self.image_level, self.find_status, self.move_status, self.boast = True, 0x0000, 0x0000, 0
        self.broken: set[str] = set()
        self.node_port = 0
        self.hang = threading.Event()
        self.hang.set()

    def __enter__(self) -> Archive:
        self._ae = AE("ARCHIVE")
        self._ae.supported_contexts = [build_context(FIND), build_context(MOVE)]
        self.port = listen(self._ae, (evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._move))
        return self

    def __exit__(self, *_: object) -> None:
        self.hang.set()
        self._ae.shutdown()

    @property
    def peer(self) -> Peer:
        return Peer(ae_title="ARCHIVE", host="127.0.0.1", port=self.port, fetch=True)

    def _note(self, verb: str, wanted: Dataset) -> list[str]:
        uids = wanted.get("SOPInstanceUID") or []
        uids = [uids] if isinstance(uids, str) else list(uids)
        self.asked.append((verb, wanted.QueryRetrieveLevel, len(uids)))
        return uids

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        self._note("find", wanted)
        self.hang.wait(60)
        if self.find_status:
            yield self.find_status, None
            return
        study = [ds for ds in self.images if ds.StudyInstanceUID == wanted.StudyInstanceUID]
        if wanted.QueryRetrieveLevel == "IMAGE":
            if not self.image_level:
                yield 0xA900, None
                return
            for ds in study:
                if ds.SeriesInstanceUID == wanted.SeriesInstanceUID:
                    yield 0xFF00, _answer(SOPInstanceUID=ds.SOPInstanceUID)
            return
        for uid in sorted({ds.SeriesInstanceUID for ds in study}):
            of_series = [ds for ds in study if ds.SeriesInstanceUID == uid]
            yield (
                0xFF00,
                _answer(
                    SeriesInstanceUID=uid,
                    Modality=of_series[0].Modality,
                    ManufacturerModelName=of_series[0].ManufacturerModelName,
                    NumberOfSeriesRelatedInstances=len(of_series) + self.boast,
                ),
            )

    def _move(self, event: evt.Event) -> Iterator[Any]:
        wanted = event.identifier
        uids = self._note("move", wanted)
        if not self.node_port or self.move_status == 0xA801 or event.move_destination != "QSMNODE":
            yield None, None
            return
        yield "127.0.0.1", self.node_port, {"contexts": [build_context(MRImageStorage)]}
        if self.move_status:
            yield 1
            yield self.move_status, None
            return
        found = [
            ds
            for ds in self.images
            if ds.SeriesInstanceUID == wanted.SeriesInstanceUID and (not uids or ds.SOPInstanceUID in uids)
        ]
        yield len(found)
        for ds in found:
            broken = Dataset()
            broken.SOPClassUID, broken.SOPInstanceUID = CTImageStorage, ds.SOPInstanceUID
            broken.file_meta = ds.file_meta
            yield 0xFF00, broken if ds.SOPInstanceUID in self.broken else ds


def _answer(**values: object) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


class Desk:
    """A journal with an incomplete acquisition, and a fetcher whose archive need not be there."""

    def __init__(self, images: Sequence[Dataset], peer: Peer) -> None:
        self.clock = Clock(1e6)
        self.journal = Journal(None, self.clock)
        self.fetcher = Fetcher(self.journal, Settings(peers={"archive": peer}))
        self.add(images)

    def add(self, images: Sequence[Dataset]) -> None:
        arrive(self.journal, map(read_header, images))

    def settle(self, why: Refusal = INCOMPLETE) -> None:
        self.clock.now += 1
        for gathering in self.journal.receiving():
            state = "incomplete" if why.code == "incomplete" else "refused"
            assert self.journal.settle(gathering, state, why)  # type: ignore[arg-type]

    def ask(self) -> Fetch | None:
        """What the journal says when every peer was asked that is to be asked now."""
        self.fetcher.step()
        assert self.fetcher.lanes.join(60)
        return next(iter(fetches(self.journal, 1)), None)


@pytest.fixture
def images(tiny_study: list[Path]) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in tiny_study]


@pytest.fixture
def archive(images: list[Dataset]) -> Iterator[Archive]:
    with Archive(images) as archive:
        yield archive


def of_component(images: Sequence[Dataset], component: str) -> list[Dataset]:
    return [ds for ds in images if ds.ImageType[2] == component]


class Refuses(InlineWorker):
    """Reconstructs nothing: what comes is of no interest here."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        del fn, args, kwargs
        return super().submit(Failed, Refusal("bad-input", "not in this test"), transient=False)


def send(port: int, datasets: Sequence[Dataset], title: str) -> None:
    assert set(store(port, *datasets, calling=title)) == {0x0000}


def codes(node: Node) -> list[str]:
    """Why the node did no more, of every acquisition."""
    return [summary.code for summary in summaries(node.journal)]


def test_what_lacks_comes_by_itself(
    tmp_path: Path, archive: Archive, images: list[Dataset], eventually: Callable[..., None]
) -> None:
    """Three images are lost on the way to the node; it gets them without anybody's help, and says so."""
    config = tmp_path / "node.toml"
    config.write_text(
        f'port = 0\nquiet_s = 0.3\ndata_dir = "{tmp_path}/data"\ndeliver_to = ["archive"]\n'
        '[peers.scanner]\nae_title = "SCANNER"\n'
        f'[peers.archive]\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = {archive.port}\nfetch = true\n'
    )
    with Node(load(config), Refuses) as node:
        archive.node_port = node.port
        send(node.port, images[:-3], "SCANNER")
        eventually(lambda: codes(node) == ["bad-input"], "it is whole, and a job has run")
        assert summaries(node.journal)[0].images == len(images)
        assert summaries(node.journal)[0].senders == ("ARCHIVE", "SCANNER")
    assert [one for one in archive.asked if one[0] == "move"] == [("move", "IMAGE", 3)]
    ran = CliRunner().invoke(app, ["jobs", "show", "1"], env={"QSM_NODE_CONFIG": str(config)})
    assert "Fetch        archive was asked, 1 attempt: 3 images in 1 series are missing here: 3 sent" in ran.output
    ran = CliRunner().invoke(app, ["jobs", "show", "1", "--json"], env={"QSM_NODE_CONFIG": str(config)})
    assert json.loads(ran.output)["fetches"][0]["state"] == "done"


def test_a_phase_series_that_was_never_sent_comes(
    tmp_path: Path, archive: Archive, images: list[Dataset], eventually: Callable[..., None]
) -> None:
    """Only what can belong to the scan: no other sequence, nothing but MR, nothing derived here, no image twice."""
    add_series(archive, images[:7], "1.2.77", "MR")
    add_series(archive, images[:16], "1.2.78", "SR")
    add_series(archive, images[:16], "1.2.79", "MR", PRODUCT)
    settings = Settings(port=0, quiet_s=0.3, data_dir=tmp_path / "data", peers={"archive": archive.peer})
    with Node(settings, Refuses) as node:
        archive.node_port = node.port
        send(node.port, of_component(images, "M"), "ARCHIVE")
        eventually(lambda: codes(node) == ["bad-input"], "it is whole, and a job has run")
        assert [s.images for s in summaries(node.journal)] == [len(images)]
    assert [one for one in archive.asked if one[0] == "move"] == [("move", "SERIES", 0)]


def add_series(archive: Archive, images: Sequence[Dataset], uid: str, modality: str, model: str = "") -> None:
    for n, ds in enumerate(map(deepcopy, images)):
        ds.SeriesInstanceUID, ds.Modality, ds.SOPInstanceUID = uid, modality, f"{uid}.{n + 1}"
        ds.ManufacturerModelName = model or ds.ManufacturerModelName
        archive.images.append(ds)


def test_nobody_is_asked_by_default(images: list[Dataset], archive: Archive) -> None:
    desk = Desk(images[:-1], archive.peer.model_copy(update={"fetch": False}))
    desk.settle()
    assert desk.ask() is None
    assert not archive.asked


def test_who_is_asked_has_an_address(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('deliver_to = ["web"]\n[peers.web]\nurl = "https://pacs.example/dicom-web"\nfetch = true\n')
    with pytest.raises(ConfigError, match="fetch needs host and port"):
        load(config)


def test_every_judgement_is_asked_for_once(images: list[Dataset], archive: Archive) -> None:
    """The archive sends to nobody here, so that every image has to be added by hand; in the end it is not asked."""
    desk = Desk(images[:-9], archive.peer)
    assert desk.ask() is None, "what is being received is not asked for"
    for n in range(MOST_ATTEMPTS):
        desk.settle()
        before = len(archive.asked)
        told = desk.ask()
        assert told is not None
        assert told.attempts == n + 1
        assert "9 images" in told.sentence if n == 0 else told.sentence
        asked = len(archive.asked)
        assert asked > before
        desk.ask()
        assert len(archive.asked) == asked, "nothing has changed"
        desk.add([images[n - 9]])
    desk.settle()
    asked = len(archive.asked)
    desk.ask()
    assert len(archive.asked) == asked, "it was asked often enough"
    desk.journal.orders.retry(1)
    desk.settle()
    desk.ask()
    assert len(archive.asked) > asked, "somebody wants it to be tried again"


ABSENT = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=1, fetch=True)


@pytest.fixture
def nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `node.deliver.associate` says it; pynetdicom would leave a socket open, which the interpreter tells."""

    def absent(*_: object) -> None:
        raise Unreachable("no association with ARCHIVE: nobody answers there")

    monkeypatch.setattr("node.fetch.Query", absent)


@pytest.mark.usefixtures("nobody_there")
def test_an_archive_that_is_not_there_is_asked_less_and_less_often(images: list[Dataset]) -> None:
    desk = Desk(images[:-1], ABSENT)
    desk.settle()
    start, tried = desk.clock.now, []
    for _ in range(40):
        before = fetches(desk.journal, 1)
        told = desk.ask()
        assert told is not None
        assert told.state == "again"
        assert "nobody answers there" in told.sentence
        if [told] != before:
            tried.append(desk.clock.now - start)
        desk.clock.now += FIRST_PAUSE_S * 10
    assert len(tried) == MOST_ATTEMPTS
    assert 5 * 3600 < tried[-1] < 7 * 3600
    assert sorted(tried) == tried


@pytest.mark.usefixtures("nobody_there")
def test_a_clock_that_is_set_back_holds_nothing_up(images: list[Dataset]) -> None:
    desk = Desk(images[:-1], ABSENT)
    desk.settle()
    desk.ask()
    desk.clock.now -= 30 * 86400
    told = desk.ask()
    assert told is not None
    assert told.attempts == 2


def test_what_was_settled_long_ago_is_not_asked_for(images: list[Dataset], archive: Archive) -> None:
    desk = Desk(images[:-1], archive.peer)
    desk.settle()
    desk.clock.now += FORGOTTEN_S + 1
    assert desk.ask() is None
    assert not archive.asked


@pytest.mark.parametrize("why", [Refusal("no-phase", "one echo"), Refusal("epi-or-mosaic", "an EPI")])
def test_what_was_not_meant_for_qsm_is_not_asked_for(images: list[Dataset], archive: Archive, why: Refusal) -> None:
    desk = Desk([ds for ds in of_component(images, "M") if ds.EchoTime == images[0].EchoTime], archive.peer)
    desk.settle(why)
    told = desk.ask()
    assert told is None or told.state == "needless"
    assert not archive.asked


def test_without_images_by_name_the_series_is_sent(images: list[Dataset], archive: Archive) -> None:
    archive.image_level = False
    desk = Desk(images[:-1], archive.peer)
    desk.settle()
    told = desk.ask()
    assert told is not None
    assert told.sentence.startswith("1 images in 1 series")
    assert ("move", "SERIES", 0) in archive.asked


def test_an_archive_that_lists_and_counts_no_images_has_said_nothing(images: list[Dataset], archive: Archive) -> None:
    archive.image_level, archive.boast = False, -len(images) // 2
    desk = Desk(images[:-1], archive.peer)
    desk.settle()
    told = desk.ask()
    assert told is not None
    assert told.state == "again"
    assert told.sentence == "ARCHIVE answered 0xA900 (it does not support what was asked) to C-FIND of level IMAGE"


def test_an_archive_that_has_less_than_it_counts(images: list[Dataset], archive: Archive) -> None:
    archive.boast = 5
    desk = Desk(images[:-1], archive.peer)
    archive.images = archive.images[:-1]
    desk.settle()
    told = desk.ask()
    assert told is not None
    assert (told.state, told.sentence) == ("done", "it has no image that is missing here")
    assert {verb for verb, _, _ in archive.asked} == {"find"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"find_status": 0xA700}, "ARCHIVE answered 0xA700 to C-FIND of level SERIES"),
        ({"move_status": 0xA801}, "it does not know the node's AE title as a destination"),
        ({"move_status": 0xA702}, "it cannot send"),
    ],
)
def test_an_archive_that_refuses_is_quoted_and_asked_again(
    images: list[Dataset], archive: Archive, change: dict[str, int], sentence: str, tmp_path: Path
) -> None:
    for name, value in change.items():
        setattr(archive, name, value)
    desk = Desk(images[:-1], archive.peer)
    desk.settle()
    with Node(Settings(port=0, data_dir=tmp_path, peers={"archive": archive.peer}), Refuses) as node:
        archive.node_port = node.port
        for attempt in (1, 2):
            told = desk.ask()
            assert told is not None
            assert (told.state, told.attempts) == ("again", attempt)
            assert sentence in told.sentence
            desk.clock.now += FIRST_PAUSE_S + 1


def test_images_that_cannot_be_sent_are_asked_for_again(
    images: list[Dataset], archive: Archive, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    archive.broken = {images[-1].SOPInstanceUID}
    with Node(Settings(port=0, data_dir=tmp_path, peers={"archive": archive.peer}), Refuses) as node:
        archive.node_port = node.port
        desk = Desk(images[:-2], archive.peer)
        desk.settle()
        told = desk.ask()
        assert told is not None
        assert (told.state, told.sentence) == ("again", "2 images in 1 series are missing here: 1 sent, 1 failed")
        eventually(lambda: [s.images for s in summaries(node.journal)] == [1], "one has come")


def test_an_archive_that_answers_nothing_holds_up_nobody(
    images: list[Dataset], archive: Archive, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    """The node goes on and stops; it is asked again when it runs again, as if it had not been there."""
    archive.hang.clear()
    settings = Settings(port=0, quiet_s=0.2, data_dir=tmp_path / "data", peers={"archive": archive.peer})
    with Node(settings, Refuses) as node:
        send(node.port, images[:-1], "ARCHIVE")
        eventually(lambda: archive.asked, "it is asked")
        send(node.port, renewed(images, "next"), "ARCHIVE")
        eventually(lambda: "bad-input" in codes(node), "the next scan is processed")
        began = time.monotonic()
    assert time.monotonic() - began < 30
    journal = Journal(tmp_path / "data" / "journal.sqlite")
    assert [f.state for f in fetches(journal, 1)] == ["asking"]
    journal.close()


def test_uids_that_are_none_are_not_used(images: list[Dataset], archive: Archive) -> None:
    archive.images = images[:5]
    for ds, uid in zip(archive.images, ("", "../x", "Doe^Jane", "1.2.3", "*"), strict=True):
        ds.SOPInstanceUID = uid
    query = Query(archive.peer, "QSMNODE")
    assert query.images(images[0].StudyInstanceUID, images[0].SeriesInstanceUID) == {"1.2.3"}
    query.close()


def test_a_peer_without_query_is_named(images: list[Dataset], tmp_path: Path) -> None:
    """Such as another node."""
    with Node(
        Settings(port=0, data_dir=tmp_path, peers={"me": Peer(ae_title="QSMNODE", host="127.0.0.1", port=1)}), Refuses
    ) as node:
        desk = Desk(images[:-1], Peer(ae_title="QSMNODE", host="127.0.0.1", port=node.port, fetch=True))
        desk.settle()
        told = desk.ask()
    assert told is not None
    assert told.state == "again"
    assert "does not accept Study Root Query/Retrieve" in told.sentence
