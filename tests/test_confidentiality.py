"""Patient data stays in the spool and in derived objects: marked values on every way into the node leave no trace.

Everything else that the node writes is searched for them: log, journal, names of files and folders, answers to
peers, what `qsm-node jobs` prints.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import os
import random
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pynetdicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, StoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import Verification
from typer.testing import CliRunner

from associations import listen, refused_connection
from dicom_sets import renewed
from node import work
from node.association import on_open
from node.cli import app
from node.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from node.config import HEALTH_AE_TITLE, Settings
from node.overview import asides, summaries
from node.peers import Peer, Tls
from node.query import FIND, MOVE
from node.service import Node
from node.workers import InlineWorker, SpawnedWorker

MARK = "ZZMARK"
BORN = "18830317"
ENDED = -1
"""The node ended the association instead of an answer."""
PRIVATE_CLASS = "1.3.12.2.1107.5.9.1"
COMMAND = "from node.cli import main; main()"

NAMED = {
    "PatientName": f"{MARK}Ä^Jöhn",
    "OtherPatientNames": f"{MARK}^Other",
    "PatientID": f"{MARK}-4711",
    "OtherPatientIDs": f"{MARK}-4712",
    "PatientBirthDate": BORN,
    "PatientAddress": f"1 {MARK} street",
    "PatientComments": f"{MARK} is \"ill\" [said] 'so'\r\n{MARK} again",
    "AccessionNumber": f"{MARK}A",
    "ReferringPhysicianName": f"{MARK}^Doctor",
    "PerformingPhysicianName": f"{MARK}^Other Doctor",
    "OperatorsName": f"{MARK}^Operator",
    "InstitutionName": f"{MARK} hospital",
    "StationName": f"{MARK}ST",
    "StudyDescription": f"{MARK} head",
    "StudyID": f"{MARK}S",
    "SeriesDescription": f"{MARK} series",
    "ProtocolName": f"gre {MARK} O'Neill",
    "ImageComments": f"{MARK}\\{MARK}",
    "RequestedProcedureDescription": f"{MARK} request",
    "PerformedProcedureStepDescription": f"{MARK} step",
    "DeviceSerialNumber": f"{MARK}SN",
}
"""Every kind of text that a person writes or that points at one."""


def marked(ds: Dataset, **changes: object) -> Dataset:
    """A copy with a marked value in every text, and with other values."""
    ds = deepcopy(ds)
    ds.SpecificCharacterSet = "ISO_IR 100"
    for keyword, value in NAMED.items():
        setattr(ds, keyword, value)
    item = Dataset()
    item.PatientID, item.CodeMeaning = f"{MARK}-item", f"{MARK} meaning"
    ds.OtherPatientIDsSequence = [item]
    block = ds.private_block(0x0029, f"{MARK} CREATOR", create=True)
    block.add_new(0x10, "LO", f"{MARK} private")
    block.add_new(0x20, "UN", MARK.encode("utf-16-le"))
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, implicit: bool = False) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = encode(ds, implicit, True)
    assert data is not None
    return data


def unusual(ds: Dataset) -> bytes:
    """A data set that makes pydicom complain about its values, quoting them."""
    ds = marked(ds, EthnicGroup="SEXSEX", PatientWeight="765432", PatientSize="765432", SoftwareVersions=MARK)
    ds.add(DataElement(0x00081155, "UI", "7.65432.7"))
    ds.add(DataElement(0x00080020, "DA", "20260317"))
    ds.add(DataElement(0x00321000, "DA", "20260318"))
    data = encoded(ds)
    for plain, strange in (
        (b"765432", MARK.encode()),
        (b"SEXSEX", MARK.lower().encode()),
        (b"7.65432.7", f"'\"{MARK}'".encode()),
        (b"20260317", f"{MARK}19".encode()),
        (b"20260318", f"{MARK}19".encode()),
    ):
        data = data.replace(plain, strange)
    wanted = b"\x08\0\x05\0CS\x0a\0ISO_IR 100"
    assert wanted in data
    return data.replace(wanted, b"\x08\0\x05\0CS\x12\0ISO_IR 192\\" + MARK.encode() + b" ")


def shifted(data: bytes, seed: int) -> bytes:
    """A data set with wrong lengths, so that elements swallow those that follow."""
    rng, changed = random.Random(seed), bytearray(data)
    texts = [n for n in range(len(data) - 8) if data[n : n + 2] in {b"LO", b"SH", b"CS", b"UI", b"PN", b"IS", b"DS"}]
    for at in rng.sample(texts, min(len(texts), rng.choice((1, 1, 2, 5)))):
        length = int.from_bytes(data[at + 2 : at + 4], "little")
        changed[at + 2 : at + 4] = rng.choice((length + 2, length + rng.randrange(300), 0, 512)).to_bytes(2, "little")
    return bytes(changed)


def spellings() -> dict[str, bytes]:
    """The marks, in small letters, as they may be written."""
    mark = MARK.encode()
    found = {"plain": mark, "date": BORN.encode(), "utf-16": MARK.encode("utf-16-le"), "hex": mark.hex().encode()}
    found |= {"spaced hex": mark.hex(" ").encode(), "utf-16-be": MARK.encode("utf-16-be")}
    for shift in range(3):
        coded = base64.b64encode(b"x" * shift + mark + b"x" * ((-shift) % 3))
        found[f"base64 {shift}"] = coded[4 * (shift > 0) : -4 if shift else None]
    return {name: spelling.lower() for name, spelling in found.items()}


SPELLINGS = spellings()


def traces(content: bytes | str, what: str) -> list[str]:
    """Where a mark is in what was written, with what stands around it."""
    content = (content.encode() if isinstance(content, str) else content).lower()
    return [
        f"{name} mark in {what}: {content[max(0, found.start() - 150) : found.end() + 50]!r}"
        for name, spelling in SPELLINGS.items()
        for found in re.finditer(re.escape(spelling), content)
    ]


def traces_in_files(folder: Path, but: Sequence[str] = ()) -> list[str]:
    """Marks in names, and in the content of files outside these folders; and files that others may read."""
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        found += traces(str(inside), "a file's name")
        if path.is_file():
            if path.stat().st_mode & 0o077:
                found.append(f"{inside} has mode {path.stat().st_mode:o}")
            if inside.parts[0] not in but:
                found += traces(path.read_bytes(), str(inside))
    return found


class Scanner:
    """Sends what no scanner would."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.told: list[str] = []

    @contextmanager
    def association(
        self, sop_class: str = MRImageStorage, syntax: str = ExplicitVRLittleEndian, calling: str = "SCANNER"
    ) -> Iterator[Association]:
        ae = AE(calling)
        ae.add_requested_context(sop_class, syntax)
        who = UserIdentityNegotiation()
        who.user_identity_type, who.primary_field, who.secondary_field = 2, MARK.encode(), MARK.encode()
        ae.acse_timeout = ae.dimse_timeout = 60
        opened: list[socket.socket] = []
        keep = (evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc.dul.socket.socket))
        handlers = [(evt.EVT_CONN_OPEN, on_open), keep]
        assoc = ae.associate("127.0.0.1", self.port, ae_title="QSMNODE", ext_neg=[who], evt_handlers=handlers)
        try:
            yield assoc
        finally:
            if assoc.is_established:
                assoc.release()
            for connection in opened:  # pynetdicom leaves it open where the other side ended it
                connection.close()

    def store(self, data: bytes, uid: str, sop_class: str = MRImageStorage, **how: Any) -> int:
        """Status of a C-STORE that announces what it likes, or `ENDED`."""
        with self.association(sop_class, **how) as assoc:
            assert assoc.is_established
            return self._store(assoc, data, uid, sop_class)

    def store_all(self, datasets: Sequence[Dataset], as_bytes: Callable[[Dataset], bytes] = encoded) -> None:
        with self.association() as assoc:
            for ds in datasets:
                assert self._store(assoc, as_bytes(ds), ds.SOPInstanceUID, MRImageStorage) == 0x0000

    def _store(self, assoc: Association, data: bytes, uid: str, sop_class: str) -> int:
        request = C_STORE()
        request.MessageID, request.Priority, request.DataSet = 1, 2, io.BytesIO(data)
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, uid
        assoc._reactor_checkpoint.clear()
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
        _, answer = assoc.dimse.get_msg(block=True)
        assoc._reactor_checkpoint.set()
        if not isinstance(answer, C_STORE):
            return ENDED
        self.told.append(str(answer.ErrorComment or ""))
        assert answer.Status is not None
        return answer.Status

    def recorded(self, data: bytes, uid: str) -> list[bytes]:
        """The PDUs of an association that stores an object."""
        sent: list[bytes] = []
        ae = AE("SCANNER")
        ae.add_requested_context(MRImageStorage, ExplicitVRLittleEndian)
        keep = (evt.EVT_DATA_SENT, lambda event: sent.append(event.data))
        assoc = ae.associate(
            "127.0.0.1", self.port, ae_title="QSMNODE", evt_handlers=[(evt.EVT_CONN_OPEN, on_open), keep]
        )
        self._store(assoc, data, uid, MRImageStorage)
        assoc.release()
        return sent

    def play(self, request: bytes, *messages: bytes) -> None:
        """Send a request and, after its answer, all messages; what comes back until the node ends it is kept."""
        came = bytearray()
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection, suppress(OSError):
            connection.sendall(request)
            if messages:
                connection.recv(1, socket.MSG_PEEK)
                connection.sendall(b"".join(messages))
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                came += more
        while len(came) > 6:
            end = 6 + int.from_bytes(came[2:6], "big")
            if came[0] == 4:  # P-DATA
                self.told.append(came[:end].partition(b"\0\0\x02\x09")[2].decode("latin-1"))  # from ErrorComment on
            del came[:end]


class Pacs:
    """Answers the first objects with failures that quote them, takes the others, and never commits everything."""

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self.refused = 0
        self._ae = AE("PACS")
        self._ae.supported_contexts = StoragePresentationContexts
        self._ae.add_supported_context(Verification)
        for uid in (PUSH_MODEL, FIND, MOVE):
            self._ae.add_supported_context(uid)
        self.node_port = 0

    def __enter__(self) -> Pacs:
        self.port = listen(
            self._ae, (evt.EVT_C_STORE, self._on_store), (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_C_FIND, self._on_find),
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._ae.shutdown()

    def _on_store(self, event: evt.Event) -> Dataset:
        answer = Dataset()
        ds = event.dataset
        assert MARK in str(ds.PatientName)
        answer.Status = (0xA700, 0xC000, 0xB000, 0x0110)[self.refused % 4] if self.refused < 8 else 0x0000
        if answer.Status:
            self.refused += 1
            answer.ErrorComment = f"no room for {ds.PatientName} {BORN}"[:64]
            answer.OffendingElement = [0x00100010]
        if answer.Status in {0x0000, 0xB000}:
            self.stored.add(str(ds.SOPInstanceUID))
        return answer

    def _on_find(self, _: evt.Event) -> Iterator[tuple[Dataset, Dataset | None]]:
        """Tells more than it was asked for, and fails."""
        status, found, failed = Dataset(), Dataset(), Dataset()
        status.Status, failed.Status = 0xFF00, 0xC001
        found.PatientName, found.SeriesDescription, found.Modality = f"{MARK}^Found", MARK, "MR"
        found.SeriesInstanceUID, found.NumberOfSeriesRelatedInstances = MARK, 16
        failed.ErrorComment = f"{MARK}^Found"
        yield status, found
        yield failed, None

    def _on_action(self, event: evt.Event) -> tuple[int, None]:
        """Reports nonsense, then that the first object failed."""
        request = event.action_information
        threading.Thread(target=self._report, args=(request,), daemon=True).start()
        return 0x0000, None

    def _report(self, request: Dataset) -> None:
        ae = AE("PACS")
        ae.add_requested_context(PUSH_MODEL)
        role = pynetdicom.build_role(PUSH_MODEL, scu_role=False, scp_role=True)
        assoc = ae.associate("127.0.0.1", self.node_port, ae_title="QSMNODE", ext_neg=[role])
        report = Dataset()
        report.TransactionUID, report.PatientName = request.TransactionUID, f"{MARK}^Report"
        report.RetrieveAETitle, report.StorageMediaFileSetID = MARK, MARK
        report.ReferencedSOPSequence = request.ReferencedSOPSequence[1:]
        report.FailedSOPSequence = request.ReferencedSOPSequence[:1]
        report.FailedSOPSequence[0].FailureReason = 0x0110
        report.FailedSOPSequence[0].PatientComments = MARK
        if assoc.is_established:
            assoc.send_n_event_report(report, 2, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            assoc.release()


class Web:
    """A DICOMweb server that answers everything with a failure that quotes the patient."""

    def __init__(self) -> None:
        self.asked = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                web.asked += 1
                status, kind, body = web.answer()
                self.send_response(status, f"no room for {MARK}")
                self.send_header("Content-Type", kind)
                self.send_header("X-Patient", MARK)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://localhost:{self._http.server_address[1]}/dicom-web"

    def __enter__(self) -> Web:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answer(self) -> tuple[int, str, bytes]:
        said = Dataset()
        said.FailedSOPSequence = [Dataset()]
        said.FailedSOPSequence[0].FailureReason = 0x0110
        said.FailedSOPSequence[0].ReferencedSOPInstanceUID = f"{MARK}"
        said.ErrorComment = f"{MARK}^Web"
        body = json.dumps(said.to_json_dict(suppress_invalid_tags=True)).encode()
        answers = (
            (409, "application/dicom+json", body),
            (400, "text/html", f"<h1>{MARK}</h1>".encode()),
            (200, "application/dicom+json", f'{{"00081199": "{MARK}"}}'.encode()),
            (503, "text/plain", MARK.encode()),
            (202, f"{MARK}/{MARK}", b"\xff" + MARK.encode()),
        )
        return answers[self.asked % len(answers)]


class Served:
    """`qsm-node serve` in a process of its own, as it is run by a site, with a temporary folder of its own."""

    def __init__(self, folder: Path, more: str) -> None:
        self.data, self.log, self.temp = folder / "data", folder / "log.jsonl", folder / "temp"
        self.config = folder / "node.toml"
        self.temp.mkdir()
        self.config.write_text(f'port = 0\nquiet_s = 1\nthreads = 1\ndata_dir = "{self.data}"\n{more}')
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "serve", "--config", str(self.config)], stdout=log, stderr=log,
                env={**os.environ, "TMPDIR": str(self.temp)},
            )  # fmt: skip

    def port(self) -> int:
        """0 until it listens."""
        for line in self.log.read_text().splitlines():
            if "node started" in line:
                return int(json.loads(line)["port"])
        return 0

    def run(self, *arguments: str) -> str:
        """What a command prints; its configuration is the node's."""
        return CliRunner().invoke(app, arguments, env={"QSM_NODE_CONFIG": str(self.config)}).output

    def acquisitions(self) -> dict[int, dict[str, Any]]:
        found = json.loads(self.run("jobs", "--json"))["acquisitions"]
        return {one["id"]: one for one in found}

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


def scans(files: Sequence[Path]) -> list[Dataset]:
    return [marked(pydicom.dcmread(path)) for path in files]


def send_nonsense(scanner: Scanner, images: Sequence[Dataset]) -> None:
    """Everything that is answered with a failure, ignored or counted aside."""
    first, uid = encoded(images[0]), images[0].SOPInstanceUID
    changed = marked(images[0], PatientName=f"{MARK}^Changed", PixelData=images[1].PixelData)
    report = marked(pydicom.dataset.Dataset(), SOPClassUID=EnhancedSRStorage, SOPInstanceUID="1.2.3")
    for data, announced in (
        (first, uid),
        (encoded(changed), uid),  # a conflict
        (first[:-900], uid),
        (first[:300], uid[:50] + ".8"),
        (first, "1.2.3"),
    ):
        assert scanner.store(data, announced) == 0x0000
    for sop_class in (EnhancedSRStorage, SecondaryCaptureImageStorage, PRIVATE_CLASS):
        assert scanner.store(encoded(report), "1.2.3", sop_class) == 0x0000
    assert scanner.store(first, uid, syntax=JPEG2000) == 0x0000
    send_strange_uids(scanner, images[0])
    for seed in range(40):
        scanner.store(shifted(first, seed), uid[:48] + f".1{seed:03d}")
        scanner.store(MARK.encode() * 200 + random.Random(seed).randbytes(50 * seed), uid)
    with scanner.association(calling=HEALTH_AE_TITLE) as assoc:
        assert not assoc.is_established or not assoc.accepted_contexts
    with scanner.association(calling="STRANGER") as assoc:
        assert not assoc.is_established
    send_strange_messages(scanner, first, uid)


def send_strange_uids(scanner: Scanner, image: Dataset) -> None:
    """UIDs that are paths, names or nothing: of the object in request and data set, of its series and study."""
    data, uid = encoded(image), image.SOPInstanceUID
    for strange in (f"../../etc/{MARK}", MARK, f"1.2.{MARK}\r\n{MARK}", f"/{MARK}/'", "1." + "2" * 80, ""):
        if 0 < len(strange) <= 64:  # what pynetdicom sends
            assert scanner.store(data, strange) == ENDED
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert scanner.store(with_uid(image, keyword, strange), uid) == 0x0000


def with_uid(image: Dataset, keyword: str, value: str) -> bytes:
    """The data set with anything for a UID."""
    tag = image[keyword].tag
    element = struct.pack("<HH2sH", tag.group, tag.element, b"UI", 0)
    emptied = deepcopy(image)
    emptied[keyword].value = ""
    data = value.encode() + b"\0" * (len(value) % 2)
    return encoded(emptied).replace(element, element[:-2] + struct.pack("<H", len(data)) + data, 1)


def send_strange_messages(scanner: Scanner, data: bytes, uid: str) -> None:
    request, *messages = scanner.recorded(data, uid)
    spoilt = f"{MARK}.10008.{MARK}"[:19].encode()
    explicit, mr = ExplicitVRLittleEndian.encode(), MRImageStorage.encode()
    assert len(spoilt) == len(explicit) == 19
    for changed in (
        [request.replace(explicit, spoilt), *messages],
        [request.replace(mr, spoilt + spoilt[: len(mr) - 19]), *messages],
        [request, *(m.replace(mr, spoilt + spoilt[: len(mr) - 19]) for m in messages)],
        [request, messages[0][:-8] + MARK.encode() + messages[0][-2:], *messages[1:]],
        [request, *(MARK.encode() * 10 for _ in range(2))],
        [request.replace(b"SCANNER ", b"STR\xe4NGE "), *messages],
        [request.replace(b"PYNETDICOM_", MARK.encode() + b"'\xe4 \0\n"), *messages],
        [f"GET /{MARK} HTTP/1.1\r\nHost: {MARK}\r\n\r\n".encode()],
        [b"\x01\0\0\0\0\x44" + MARK.encode() * 20],
    ):
        scanner.play(*changed)


@refused_connection
def test_a_site_at_work(
    tmp_path: Path, tiny_study: list[Path], eventually: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """From images to PACS, and everything that can go wrong on the way, in the process that a site runs."""
    caplog.set_level(logging.CRITICAL)
    with Pacs() as pacs, Web() as web:
        served = Served(
            tmp_path,
            'deliver_to = ["pacs", "web"]\nnotice_after_min = 0.02\nsegmentation = true\nparametric_map = true\n'
            '[peers.scanner]\nae_title = "SCANNER"\n'
            f'[peers.pacs]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
            "commitment = true\nfetch = true\n"
            f'[peers.web]\nurl = "{web.url}"\n',
        )
        try:
            eventually(served.port, "the node listens")
            scanner, images = Scanner(served.port()), scans(tiny_study)
            pacs.node_port = served.port()
            scanner.store_all(images)
            scanner.store_all(renewed(images[:-1], "incomplete"))
            scanner.store_all(renewed([ds for ds in images if ds.ImageType[2] == "M"], "no phase"))
            scanner.store_all(renewed(images, "unusual"), unusual)  # highdicom raises, and quotes a value
            blank = renewed(images, "blank")
            for ds in blank:
                ds.PixelData = bytes(len(ds.PixelData))
            scanner.store_all(blank)
            send_nonsense(scanner, renewed(images, "nonsense"))
            eventually(lambda: len(pacs.stored) >= 24 and web.asked >= 5, "results are delivered", 120)
            eventually(
                lambda: not {a["state"] for a in served.acquisitions().values()} & {"receiving", "queued", "running"},
                "all is judged and done",
                120,
            )
            printed = [served.run("jobs"), served.run("jobs", "list", "--json"), served.run("health")]
            acquisitions = served.acquisitions()
            for number in acquisitions:
                printed += [served.run("jobs", "show", str(number), *more) for more in ((), ("--json",))]
            printed += [served.run("jobs", "retry", str(number)) for number in acquisitions]
        finally:
            served.stop()
    gc.collect()  # a report on commitment may have found no node: pynetdicom drops such sockets without closing them
    states = {a["state"] for a in acquisitions.values()}
    for what in ("pacs was asked", "conflict", "SeriesInstanceUID is no UID", "object without Study", "JPEG 2000"):
        assert what in "".join(printed), what
    assert states >= {"incomplete", "refused", "failed", "delivering"}, states
    found = traces("\n".join(scanner.told), "an answer") + traces("\n".join(printed), "what is printed")
    found += traces(served.log.read_bytes(), "the log")
    found += traces_in_files(served.data, but=("inbox", "spool", "results")) + traces_in_files(served.temp)
    assert not found, "\n".join(found)
    assert "Traceback" not in served.log.read_text()
    assert (served.data / "inbox").stat().st_mode & 0o777 == 0o700
    for name in ("spool", "results"):
        assert (served.data / name).stat().st_mode & 0o777 == 0o700
        assert any(MARK.encode() in path.read_bytes() for path in (served.data / name).rglob("*.dcm"))


@pytest.mark.parametrize(
    "raised",
    [
        ValueError(f"cannot use '{MARK}'"),
        OSError(5, f"{MARK} is gone", f"/{MARK}"),
        RuntimeError(MARK),
        ExceptionGroup(MARK, [ValueError(MARK)]),
        UnicodeDecodeError("ascii", MARK.encode(), 0, 1, MARK),
        MemoryError(MARK),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_an_exception_quotes_is_told_to_nobody(
    tmp_path: Path,
    tiny_study: list[Path],
    captured_log: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Callable[..., None],
    raised: Exception,
) -> None:
    """In a job, in its page, in storing, in deciding about a caller and in a loop; the log at its most talkative."""
    logging.getLogger("node").setLevel(logging.DEBUG)

    def fails(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(work, "load", fails)
    monkeypatch.setattr(work, "write_notice", fails)
    monkeypatch.setattr("node.loops.RETRY_AFTER_S", 0.01)
    settings = Settings(
        port=0, data_dir=tmp_path / "data", quiet_s=0.2, notice_after_min=0.01,
        peers={"scanner": Peer(ae_title="SCANNER", host="127.0.0.1", port=1)},
    )  # fmt: skip
    with Node(settings, InlineWorker) as node:
        scanner, images = Scanner(node.port), scans(tiny_study)
        scanner.store_all(images)
        eventually(
            lambda: any(s.notice for s in summaries(node.journal)), "the job failed and the study is to get a page"
        )
        with monkeypatch.context() as patch:
            patch.setattr(node.journal, "add", fails)
            patch.setattr(node.journal, "receiving", fails)
            (other,) = renewed(images[:1], "other")
            assert scanner.store(encoded(other), other.SOPInstanceUID) == 0x0000
            patch.setattr("node.inbox.Arrival.seal", fails)
            assert scanner.store(encoded(other), other.SOPInstanceUID) in {0x0110, 0xA700}
            patch.setattr("node.receive.denial", fails)
            with scanner.association() as assoc:
                assert assoc.is_rejected
            eventually(lambda: "a step failed" in captured_log.getvalue(), "a loop has met it")
        node.journal.query("PRAGMA wal_checkpoint(TRUNCATE)")
        found = traces(str(summaries(node.journal)), "what jobs show")
    found += traces("\n".join(scanner.told), "an answer") + traces(captured_log.getvalue(), "the log")
    found += traces((tmp_path / "data" / "journal.sqlite").read_bytes(), "the journal")
    assert not found, "\n".join(found)


def warn(said: str) -> None:
    """As `logging.captureWarnings` has it logged."""
    logging.getLogger("py.warnings").warning(warnings.formatwarning(said, UserWarning, __file__, 1))


@pytest.mark.parametrize(
    "said",
    [
        f"Invalid value for VR UI: '{MARK}'",
        f"Invalid value for VR CS: 'O'{MARK}'",
        f'Value "{MARK}\n{MARK}" is not valid',
        f"Value '{MARK}\r\n{MARK}",
        f"The value is {{'x': [{MARK}]}}",
        f"ignoring: {MARK}",
        f"cannot read ({MARK} (of [{MARK}]) )",
    ],
)
@pytest.mark.parametrize("library", ["pydicom", "highdicom.base", "dicomweb_client", "pynetdicom.dul", "a warning"])
def test_libraries_may_say_what_they_like(captured_log: io.StringIO, library: str, said: str) -> None:
    if library == "a warning":
        warn(said)
    elif not (library.startswith("pynetdicom") and "'" not in said and '"' not in said and "(" not in said):
        logging.getLogger(library).error(said)
    assert not traces(captured_log.getvalue(), "the log")


def test_the_network_may_be_spoken_of(captured_log: io.StringIO) -> None:
    """What an administrator needs to mend a connection."""
    said = "TCP Initialisation Error: [SSL: X] certificate verify failed: Hostname mismatch, not valid for 'a'. (x:1)"
    logging.getLogger("pynetdicom.transport").error(said)
    warn("Unknown encoding 'X'")
    assert (
        "certificate verify failed: Hostname mismatch, not valid for …"
        in json.loads(captured_log.getvalue().splitlines()[0])["event"]
    )
    assert "test_confidentiality.py" in captured_log.getvalue()
    assert "UserWarning: Unknown encoding" in captured_log.getvalue()


def test_a_worker_writes_no_more_than_the_node(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = SpawnedWorker(1, tmp_path)
    try:
        worker.submit(warnings.warn, f"Invalid value: '{MARK}'").result()
    finally:
        worker.kill()
    said = capfd.readouterr().err
    assert "Invalid value" in said
    assert not traces(said, "standard error")


def test_callers_of_the_tls_port_are_not_quoted(
    tmp_path: Path, new_authority: Callable[..., Any], captured_log: io.StringIO, eventually: Callable[..., None]
) -> None:
    authority, stranger = new_authority("hospital"), new_authority("elsewhere")
    own, theirs = authority.issue("node"), stranger.issue(MARK.lower())
    files = Tls(certificate=own.certificate, key=own.key, authorities=authority.certificate, port=0)
    peer = Peer(ae_title="SCANNER", host="127.0.0.1", port=1, tls=True)
    with Node(Settings(port=0, tls=files, data_dir=tmp_path / "data", peers={"scanner": peer}), InlineWorker) as node:
        with socket.create_connection(("127.0.0.1", node.tls_port)) as connection, suppress(OSError):
            connection.sendall(f"GET /{MARK} HTTP/1.1\r\n\r\n".encode())
            connection.recv(1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(theirs.certificate, theirs.key)
        with (
            suppress(OSError),
            context.wrap_socket(socket.create_connection(("127.0.0.1", node.tls_port))) as connection,
        ):
            connection.recv(1)
        eventually(lambda: sum(a.count for a in asides(node.journal)) >= 2, "both are counted")
        found = traces(str(asides(node.journal)), "what jobs show")
    assert not found + traces(captured_log.getvalue(), "the log")
