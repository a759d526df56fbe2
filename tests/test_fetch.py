"""Images that lack are asked for at a PACS: what is asked, how often, and what an unhelpful PACS brings about."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, build_context, evt
from typer.testing import CliRunner

from node.assemble import acquisition_key
from node.association import on_open
from node.cli import app
from node.config import ConfigError, Peer, Settings, load
from node.deliver import Unreachable
from node.errors import Refusal
from node.fetch import Fetcher, lacking
from node.fetches import FIRST_PAUSE_S, FORGOTTEN_S, MOST_ATTEMPTS
from node.headers import read_header
from node.jobs import InlineWorker
from node.journal import Journal
from node.overview import Fetch, fetches, summaries
from node.query import FIND, MOVE, Query, Unanswered
from node.records import Gathering, Received
from node.service import Node

# pynetdicom drops the socket of a refused connection without closing it; the interpreter does, and says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)

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
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_CONN_OPEN, on_open), (evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._move),
        ]  # fmt: skip
        server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        self.port: int = server.server_address[1]
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
                    NumberOfSeriesRelatedInstances=len(of_series) + self.boast,
                ),
            )

    def _move(self, event: evt.Event) -> Iterator[Any]:
        wanted = event.identifier
        uids = self._note("move", wanted)
        if self.move_status == 0xA801 or event.move_destination != "QSMNODE":
            yield None, None
            return
        yield "127.0.0.1", self.node_port, {"contexts": [build_context(MRImageStorage)]}
        if self.move_status:
            yield 0
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
            broken.SOPClassUID, broken.SOPInstanceUID = MRImageStorage, ds.SOPInstanceUID
            broken.file_meta = ds.file_meta
            yield 0xFF00, broken if ds.SOPInstanceUID in self.broken else ds


def _answer(**values: object) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


class Clock:
    now = 1e6

    def __call__(self) -> float:
        return self.now


class Desk:
    """A journal with an incomplete acquisition, and a fetcher whose archive need not be there."""

    def __init__(self, images: Sequence[Dataset], peer: Peer) -> None:
        self.clock = Clock()
        self.journal = Journal(None, self.clock)
        self.fetcher = Fetcher(self.journal, Settings(peers={"archive": peer}))
        self.add(images)

    def add(self, images: Sequence[Dataset]) -> None:
        for ds in images:
            header = read_header(ds)
            uid = header.sop_instance_uid
            self.journal.add(Received(header.study_uid, acquisition_key(header), uid, uid, "MR", header.to_json()))

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


def test_what_lacks_comes_and_is_reconstructed(
    tmp_path: Path, archive: Archive, images: list[Dataset], tiny_study: list[Path], eventually: Callable[..., None]
) -> None:
    """Three images are lost on the way to the node; it gets them without anybody's help."""
    config = tmp_path / "node.toml"
    config.write_text(
        f'port = 0\nquiet_s = 0.3\ndata_dir = "{tmp_path}/data"\ndeliver_to = ["archive"]\n'
        '[peers.scanner]\nae_title = "SCANNER"\n'
        f'[peers.archive]\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = {archive.port}\nfetch = true\n'
    )
    with Node(load(config), InlineWorker) as node:
        archive.node_port = node.port
        send_all(node.port, images[:-3])
        eventually(lambda: summaries(node.journal)[0].state in {"done", "delivering"}, "it is reconstructed")
        assert summaries(node.journal)[0].images == len(images)
        assert ("move", "IMAGE", 3) in archive.asked
        ran = CliRunner().invoke(app, ["jobs", "show", "1"], env={"QSM_NODE_CONFIG": str(config)})
        assert (
            "Fetch        archive was asked, 1 attempts: 3 images in 1 series are missing here: 3 sent" in ran.output
        )
        ran = CliRunner().invoke(app, ["jobs", "show", "1", "--json"], env={"QSM_NODE_CONFIG": str(config)})
        assert json.loads(ran.output)["fetches"][0]["state"] == "done"


def send_all(port: int, datasets: Sequence[Dataset]) -> None:
    ae = AE("SCANNER")
    ae.add_requested_context(MRImageStorage)
    assoc = ae.associate("127.0.0.1", port, ae_title="QSMNODE", evt_handlers=[(evt.EVT_CONN_OPEN, on_open)])
    for ds in datasets:
        assert assoc.send_c_store(ds).Status == 0
    assoc.release()


def test_a_phase_series_that_was_never_sent_comes(
    tmp_path: Path, archive: Archive, images: list[Dataset], eventually: Callable[..., None]
) -> None:
    """Only what can belong to the scan: not another sequence, and not what is no MR."""
    other = [deepcopy(ds) for ds in images[:7]]
    report = deepcopy(images[:16])
    for k, (series, modality, group) in enumerate([("1.2.77", "MR", other), ("1.2.78", "SR", report)]):
        for n, ds in enumerate(group):
            ds.SeriesInstanceUID, ds.Modality, ds.SOPInstanceUID = series, modality, f"1.2.{k}.{n + 1}"
    archive.images += other + report
    settings = Settings(port=0, quiet_s=0.3, data_dir=tmp_path / "data", peers={"archive": archive.peer})
    with Node(settings, InlineWorker) as node:
        archive.node_port = node.port
        journal_images = of_component(images, "M")
        with_title(node.port, journal_images, "ARCHIVE")
        eventually(lambda: summaries(node.journal)[0].state in {"done", "delivering"}, "it is reconstructed")
        assert [s.images for s in summaries(node.journal)] == [len(images)]
    assert [one for one in archive.asked if one[0] == "move"] == [("move", "SERIES", 0)]


def with_title(port: int, datasets: Sequence[Dataset], title: str) -> None:
    ae = AE(title)
    ae.add_requested_context(MRImageStorage)
    assoc = ae.associate("127.0.0.1", port, ae_title="QSMNODE", evt_handlers=[(evt.EVT_CONN_OPEN, on_open)])
    for ds in datasets:
        assert assoc.send_c_store(ds).Status == 0
    assoc.release()
