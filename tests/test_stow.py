"""STOW-RS: every object has its own answer, a bad server is named, and no secret is told to anybody else."""

from __future__ import annotations

import base64
import io
import json
import logging
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydantic import SecretStr
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage

from node import log
from node import stow as stow_module
from node.deliver import Item, Sent, Unreachable
from node.peers import Login, Peer
from node.stow import StowLink

Answer = tuple[int, str, bytes]
Script = Callable[[list[Dataset]], Answer]
JSON = "application/dicom+json"


class Server:
    """A DICOMweb server that answers what the script says, and remembers what it was asked."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.script: Script = stored
        self.requests: list[tuple[str, dict[str, str], list[Dataset]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                datasets = parts(self.headers["Content-Type"], body)
                server.requests.append((self.path, dict(self.headers), datasets))
                status, kind, answer = server.script(datasets)
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  the client went away, as it should
        if context:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        scheme = "https" if context else "http"
        self.url = f"{scheme}://localhost:{self._http.server_address[1]}/dicom-web"

    def stop(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def parts(content_type: str, body: bytes) -> list[Dataset]:
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    payload = message.get_payload()
    assert isinstance(payload, list)
    return [pydicom.dcmread(io.BytesIO(part.get_payload(decode=True))) for part in payload]  # type: ignore[union-attr,arg-type]


def stored(
    datasets: list[Dataset],
    warned: dict[int, int] | None = None,
    failed: dict[int, int] | None = None,
    status: int = 200,
) -> Answer:
    """A response after PS3.18 Annex I; by position which are stored with a warning, and which fail."""
    warned, failed = warned or {}, failed or {}
    response = Dataset()
    response.ReferencedSOPSequence, response.FailedSOPSequence = [], []
    for n, ds in enumerate(datasets):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
        if n in failed:
            item.FailureReason = failed[n]
            response.FailedSOPSequence.append(item)
        else:
            if n in warned:
                item.WarningReason = warned[n]
            response.ReferencedSOPSequence.append(item)
    return status, JSON, json.dumps(response.to_json_dict()).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def items(tiny_study: list[Path]) -> list[Item]:
    return [Item(MRImageStorage, str(pydicom.dcmread(path).SOPInstanceUID), path) for path in tiny_study[:4]]


def send(server: Server, items: list[Item], **peer: Any) -> list[Sent]:
    link = StowLink(Peer(url=server.url, **peer))
    try:
        return link.send(items)
    finally:
        link.close()


def outcomes(sent: list[Sent]) -> list[str]:
    return [answer.outcome for answer in sent]


def test_objects_arrive_as_they_are_in_one_request(server: Server, items: list[Item]) -> None:
    assert send(server, items) == [Sent("stored")] * 4
    ((path, headers, datasets),) = server.requests
    assert path == "/dicom-web/studies"
    assert headers["Host"] == server.url.split("/")[2]
    assert datasets == [pydicom.dcmread(item.path) for item in items]


def test_every_object_has_its_own_answer(server: Server, items: list[Item]) -> None:
    server.script = lambda d: stored(d, {1: 0xB000}, {2: 0xA700, 3: 0xC000}, 202)
    sent = send(server, items)
    assert outcomes(sent) == ["stored", "stored", "later", "refused"]
    assert "0xB000" in sent[1].note
    assert "0xA700" in sent[2].note


@pytest.mark.parametrize(
    ("answer", "outcome", "note"),
    [
        ((200, "", b""), "stored", ""),
        ((200, "application/xml", b"<x/>"), "stored", ""),
        ((202, "", b""), "later", "answered 202 without naming this object"),
        ((202, JSON, b"{nonsense"), "later", "answered 202"),
        ((409, "text/html", b"<html>"), "later", "answered 409"),
        ((400, "", b""), "refused", "answered 400"),
        ((413, "", b""), "refused", "answered 413"),
        ((415, "", b""), "refused", "answered 415"),
        ((401, "", b""), "lost", "answered 401 (credentials refused)"),
        ((403, "", b""), "lost", "answered 403 (not authorised)"),
        ((404, "", b""), "lost", "answered 404"),
        ((429, "", b""), "lost", "answered 429"),
        ((500, "", b""), "lost", "answered 500"),
        ((503, "", b""), "lost", "answered 503"),
        ((307, "", b""), "lost", "answered 307"),
        ((0, "", b""), "lost", "no connection"),
    ],
)
def test_what_a_status_means(server: Server, items: list[Item], answer: Answer, outcome: str, note: str) -> None:
    server.script = lambda _: answer
    link = StowLink(Peer(url=server.url))
    sent = link.send(items)
    link.close()
    assert outcomes(sent) == [outcome] * 4
    assert note in sent[0].note
    singly = 4 if outcome == "refused" else 0
    assert len(server.requests) == 1 + singly, "the library repeats nothing by itself"
    assert link.alive == (outcome != "lost")


def test_all_failed_with_reasons(server: Server, items: list[Item]) -> None:
    server.script = lambda d: stored(d, failed={0: 0x0122, 1: 0xA700, 2: 0x0110, 3: 0x0111}, status=409)
    assert outcomes(send(server, items)) == ["refused", "later", "later", "stored"]


@pytest.mark.parametrize("reason", [{"vr": "US"}, {"vr": "US", "Value": [1, 2]}, {"vr": "LO", "Value": ["full"]}])
def test_a_reason_that_is_no_status_fails_its_object_alone(
    server: Server, items: list[Item], reason: dict[str, object]
) -> None:
    def script(datasets: list[Dataset]) -> Answer:
        status, kind, answer = stored(datasets, warned={0: 0xB000}, failed={1: 0xA700}, status=202)
        told = json.loads(answer)
        told["00081199"]["Value"][0]["00081196"] = reason
        told["00081198"]["Value"][0]["00081197"] = reason
        return status, kind, json.dumps(told).encode()

    server.script = script
    sent = send(server, items)
    assert outcomes(sent) == ["stored", "later", "stored", "stored"]
    assert "0x0110" in sent[1].note


def test_an_object_that_spoils_the_request_does_not_hold_up_the_others(server: Server, items: list[Item]) -> None:
    spoilt = items[2].sop_instance_uid
    server.script = lambda d: (400, "", b"") if spoilt in {ds.SOPInstanceUID for ds in d} else stored(d)
    assert outcomes(send(server, items)) == ["stored", "stored", "refused", "stored"]


def test_what_cannot_be_read_does_not_hold_up_the_others(server: Server, items: list[Item], tmp_path: Path) -> None:
    gone = Item(MRImageStorage, "1.2", tmp_path / "gone.dcm")
    sent = send(server, [items[0], gone, items[1]])
    assert outcomes(sent) == ["stored", "refused", "stored"]


def test_a_server_that_answers_nothing_is_given_up_in_time(
    server: Server, items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def hang(datasets: list[Dataset]) -> Answer:
        go_on.wait(30)
        return stored(datasets)

    monkeypatch.setattr(stow_module, "ANSWER_S", 0.2)
    server.script = hang
    sent = send(server, items)
    go_on.set()
    assert outcomes(sent) == ["lost"] * 4
    assert "did not answer in time" in sent[0].note


def test_nobody_there(items: list[Item]) -> None:
    link = StowLink(Peer(url="http://127.0.0.1:1/dicom-web"))
    assert "nobody answers there" in link.send(items)[0].note
    link.close()


# ------------------------------------------------------------------------------------------------ credentials


def test_a_token_is_shown_and_renewed_without_restart(server: Server, items: list[Item], tmp_path: Path) -> None:
    file = tmp_path / "token"
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        send(server, items, login=Login(token_file=file))
    assert [headers["Authorization"] for _, headers, _ in server.requests] == ["Bearer first", "Bearer second"]
    file.unlink()
    with pytest.raises(Unreachable, match="token or password cannot be read"):
        send(server, items, login=Login(token_file=file))


def test_user_and_password(server: Server, items: list[Item]) -> None:
    send(server, items, login=Login(user="node", password=SecretStr("s3cret")))
    shown = server.requests[0][1]["Authorization"].split()
    assert (shown[0], base64.b64decode(shown[1])) == ("Basic", b"node:s3cret")


@pytest.mark.parametrize("status", [200, 307, 401, 409, 500, 0])
def test_secrets_are_in_no_note_and_no_log(server: Server, items: list[Item], status: int) -> None:
    said = io.StringIO()
    handler = log.configure(said)
    try:
        logging.getLogger().setLevel(logging.DEBUG)
        server.script = lambda _: (status, "text/plain", b"Bearer s3cret")
        sent = send(server, items, login=Login(token=SecretStr("s3cret")))
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
    assert "s3cret" not in said.getvalue() + str(sent)


@pytest.fixture
def certificates(peer: Callable[[str], str], tmp_path: Path) -> Path:
    """A folder with an authority, and certificates of a server and a client that it vouches for."""

    def run(*arguments: str) -> None:
        subprocess.run([peer("openssl"), *arguments], cwd=tmp_path, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *curve, "-subj", "/CN=authority", "-keyout", "authority.key", "-out", "authority.pem")
    for name in ("localhost", "client"):
        (tmp_path / "names").write_text(f"subjectAltName=DNS:{name}\n")
        run("req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "authority.pem", "-CAkey", "authority.key",
            "-CAcreateserial", "-extfile", "names", "-out", f"{name}.pem",
        )  # fmt: skip
    return tmp_path


def test_mutual_tls(certificates: Path, items: list[Item]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "localhost.pem", certificates / "localhost.key")
    context.load_verify_locations(certificates / "authority.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # the client hears of its missing certificate in the handshake
    server = Server(context)
    try:
        authorities = certificates / "authority.pem"
        login = Login(certificate=certificates / "client.pem", key=certificates / "client.key")
        assert send(server, items, login=login, authorities=authorities) == [Sent("stored")] * 4
        assert outcomes(send(server, items, authorities=authorities)) == ["lost"] * 4
        untrusted = send(server, items, login=login)
        assert "TLS failed" in untrusted[0].note
        assert len(server.requests) == 1
    finally:
        server.stop()
