"""TLS at the port and to peers, over real connections and with DCMTK: who gets in, and how files change."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.association import Association

from node.association import on_open
from node.config import ConfigError, Settings
from node.deliver import Item, StoreLink, Unreachable
from node.inbox import Inbox
from node.indexing import Indexer
from node.journal import Journal
from node.listener import DEFAULT_LIMITS, Limits
from node.overview import asides, summaries
from node.peers import Peer, Tls
from node.receive import Receiver
from node.service import CannotStart, Node
from node.spool import Spool
from node.tls import Credentials, names
from node.workers import InlineWorker

NODE = "QSMNODE"

# pynetdicom does not close the socket of a connection that fails.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:Exception ignored in. <(ssl|socket)\.:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module", autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


@dataclass
class Running:
    """A receiver with both ports open, and what it writes to."""

    receiver: Receiver
    journal: Journal
    port: int
    tls_port: int

    def reasons(self) -> list[str]:
        return [aside.reason for aside in asides(self.journal) if aside.kind == "rejected"]


@pytest.fixture(scope="module")
def authority(new_authority: Callable[..., Any]) -> Any:
    return new_authority()


@pytest.fixture(scope="module")
def stranger(new_authority: Callable[..., Any]) -> Any:
    return new_authority("stranger")


@pytest.fixture
def files(authority: Any, tmp_path: Path) -> Tls:
    """Files of the node, its own copies."""
    pair = authority.issue("node")
    certificate, key, authorities = (tmp_path / name for name in ("node.pem", "node.key", "authorities.pem"))
    for source, copy in ((pair.certificate, certificate), (pair.key, key), (authority.certificate, authorities)):
        shutil.copy2(source, copy)
    return Tls(certificate=certificate, key=key, authorities=authorities, port=0)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path, files: Tls) -> Iterator[Start]:
    running: list[Running] = []

    def go(limits: Limits = DEFAULT_LIMITS, **peers: Peer) -> Running:
        scanner = Peer(ae_title="SCANNER", host="127.0.0.1", port=104)
        settings = Settings(port=0, tls=files, data_dir=tmp_path, peers={"scanner": scanner, **peers})
        journal = Journal(tmp_path / "journal.sqlite")
        indexer = Indexer(Inbox(tmp_path / "inbox"), Spool(tmp_path / "spool"), journal, settings.site, InlineWorker)
        receiver = Receiver(settings, indexer, journal, indexer.step, None, Credentials(files), limits)
        receiver.start()
        assert receiver.tls_port
        running.append(Running(receiver, journal, receiver.port, receiver.tls_port))
        return running[-1]

    yield go
    for node in running:
        node.receiver.stop()
        node.journal.close()


def client(authority: Any, pair: Any = None, **attributes: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if pair:
        context.load_cert_chain(pair.certificate, pair.key)
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


@contextlib.contextmanager
def association(port: int, tls: ssl.SSLContext | None, calling: str = "SCANNER") -> Iterator[Association]:
    ae = AE(calling)
    ae.acse_timeout = ae.connection_timeout = 20
    ae.add_requested_context(MRImageStorage)
    assoc = ae.associate(
        "127.0.0.1", port, ae_title=NODE, tls_args=(tls, "localhost") if tls else None,
        evt_handlers=[(evt.EVT_CONN_OPEN, on_open)],
    )  # fmt: skip
    yield assoc
    if assoc.is_established:
        assoc.release()


def is_heard(port: int, tls: ssl.SSLContext | None, calling: str = "SCANNER") -> bool:
    with association(port, tls, calling) as assoc:
        return bool(assoc.is_established)


# --- at the port


def test_images_come_over_tls(start: Start, authority: Any, tiny_study: list[Path]) -> None:
    node = start()
    with association(node.tls_port, client(authority, authority.issue("scanner"))) as assoc:
        assert [assoc.send_c_store(pydicom.dcmread(path)).Status for path in tiny_study[:5]] == [0] * 5
    assert [summary.images for summary in summaries(node.journal)] == [5]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_bcp_195_are_spoken(start: Start, authority: Any, version: ssl.TLSVersion) -> None:
    node = start()
    tls = client(authority, authority.issue("scanner"), maximum_version=version, minimum_version=version)
    assert is_heard(node.tls_port, tls)


def test_every_suite_has_ephemeral_keys_and_authenticated_encryption(files: Tls) -> None:
    credentials = Credentials(files)
    for context in (credentials.server(), credentials.client()):
        for suite in context.get_ciphers():
            assert suite["protocol"] == "TLSv1.3" or suite["name"].startswith("ECDHE-")
            assert suite["aead"]
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("weak", ["TLSv1_1", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-SHA384"])
def test_what_bcp_195_forbids_is_not_spoken(
    start: Start, authority: Any, weak: str, eventually: Callable[..., None]
) -> None:
    """An old version, no ephemeral keys, no authenticated encryption."""
    node = start()
    tls = client(authority, authority.issue("scanner"), minimum_version=ssl.TLSVersion.TLSv1)
    tls.maximum_version = ssl.TLSVersion.TLSv1_1 if weak.startswith("TLS") else ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("ALL:@SECLEVEL=0" if weak.startswith("TLS") else f"{weak}:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", node.tls_port), timeout=20) as connection,
        pytest.raises(ssl.SSLError),
    ):
        tls.wrap_socket(connection, server_hostname="localhost")
    eventually(node.reasons, "the failed handshake is told", 10)
    (reason,) = node.reasons()
    assert reason in {"TLS handshake failed: unsupported protocol", "TLS handshake failed: no shared cipher"}


def test_a_caller_without_a_trusted_certificate_is_not_heard(
    start: Start, authority: Any, stranger: Any, eventually: Callable[..., None]
) -> None:
    node = start()
    assert not is_heard(node.tls_port, client(authority))
    assert not is_heard(node.tls_port, client(authority, stranger.issue("scanner")))
    assert not is_heard(node.tls_port, client(authority, authority.issue("scanner", days=-1)))
    assert not is_heard(node.tls_port, None)
    eventually(lambda: len(node.reasons()) == 4, "each is told", 10)
    assert sorted(node.reasons()) == [
        "TLS handshake failed: peer did not return a certificate",
        "TLS handshake failed: the peer's certificate: certificate has expired",
        "TLS handshake failed: the peer's certificate: unable to get local issuer certificate",
        "TLS handshake failed: wrong version number",
    ]
    assert is_heard(node.tls_port, client(authority, authority.issue("scanner")))


def test_a_peer_bound_to_tls_and_a_certificate_is_heard_with_it_alone(start: Start, authority: Any) -> None:
    bound = Peer(ae_title="BOUND", host="127.0.0.1", port=104, tls=True, certified_as="MR1")
    node = start(bound=bound)
    right, wrong = (client(authority, authority.issue(name)) for name in ("mr1", "mr2"))
    assert is_heard(node.tls_port, right, "BOUND")
    assert not is_heard(node.tls_port, wrong, "BOUND")
    assert not is_heard(node.port, None, "BOUND")
    assert node.reasons() == [
        "association refused: the certificate is not that of MR1",
        "association refused: BOUND is heard over TLS alone",
    ]
    assert is_heard(node.tls_port, wrong, "SCANNER")
    assert is_heard(node.port, None, "SCANNER")


def test_a_caller_that_shakes_no_hands_holds_up_nobody(
    start: Start, authority: Any, eventually: Callable[..., None]
) -> None:
    node = start(Limits(handshake_s=2.0))
    tls = client(authority, authority.issue("scanner"))
    silent = [socket.create_connection(("127.0.0.1", node.tls_port), timeout=20) for _ in range(8)]
    assert is_heard(node.tls_port, tls)
    for connection in silent:
        assert connection.recv(1) == b""  # closed by the node
        connection.close()
    eventually(lambda: sum(aside.count for aside in asides(node.journal)) == 8, "they are told", 10)
    assert node.reasons() == ["TLS handshake failed: not finished in time"]


def test_a_monitor_that_opens_and_closes_the_port_is_nothing(start: Start, eventually: Callable[..., None]) -> None:
    node = start()
    socket.create_connection(("127.0.0.1", node.tls_port), timeout=20).close()
    with socket.create_connection(("127.0.0.1", node.tls_port), timeout=20) as connection:
        connection.sendall(b"\x16\x03\x01")
    eventually(node.reasons, "only who began to say something is told", 10)
    (reason,) = node.reasons()
    assert reason in {
        f"TLS handshake failed: {why}" for why in ("the connection ended", "unexpected eof while reading")
    }


# --- files


def test_changed_files_are_used_for_new_connections_and_open_ones_stay(
    start: Start, files: Tls, authority: Any, stranger: Any, captured_log: io.StringIO
) -> None:
    node = start()
    tls = client(authority, authority.issue("scanner"))
    with association(node.tls_port, tls) as before:
        new = stranger.issue("node")
        replace(new.certificate, files.certificate)
        assert is_heard(node.tls_port, tls)  # certificate and key do not fit yet: the old ones stay
        assert "is not the key of" in captured_log.getvalue()
        replace(new.key, files.key)
        assert not is_heard(node.tls_port, tls)  # the node now shows the stranger's certificate
        assert is_heard(node.tls_port, client(stranger, authority.issue("scanner")))
        replace(stranger.certificate, files.authorities)
        assert not is_heard(node.tls_port, client(stranger, authority.issue("scanner")))
        assert is_heard(node.tls_port, client(stranger, stranger.issue("scanner")))
        assert before.is_established
    files.key.unlink()
    assert is_heard(node.tls_port, client(stranger, stranger.issue("scanner")))
    assert captured_log.getvalue().count("cannot be used") == 2


def test_the_certificate_of_a_peer_itself_can_be_trusted(start: Start, files: Tls, authority: Any) -> None:
    scanner, other = authority.issue("scanner"), authority.issue("other")
    replace(scanner.certificate, files.authorities)
    node = start()
    assert is_heard(node.tls_port, client(authority, scanner))
    assert not is_heard(node.tls_port, client(authority, other))


def test_a_revoked_certificate_is_not_heard(
    start: Start, files: Tls, new_authority: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    authority = new_authority()
    replace(authority.certificate, files.authorities)
    scanner, thief = authority.issue("scanner"), authority.issue("thief")
    node = start()
    own = client(authority, scanner, check_hostname=False, verify_mode=ssl.CERT_NONE)
    stolen = client(authority, thief, check_hostname=False, verify_mode=ssl.CERT_NONE)
    assert is_heard(node.tls_port, own)
    assert is_heard(node.tls_port, stolen)
    with files.authorities.open("a") as authorities:
        authorities.write(authority.revoke(thief).read_text())
    assert is_heard(node.tls_port, own)
    assert not is_heard(node.tls_port, stolen)
    eventually(node.reasons, "it is told", 10)
    assert node.reasons() == ["TLS handshake failed: the peer's certificate: certificate revoked"]


def replace(source: Path, target: Path) -> None:
    """As certificate managers do it."""
    shutil.copy2(source, target.with_suffix(".new"))
    target.with_suffix(".new").replace(target)


def test_files_that_cannot_be_used_say_why(files: Tls, authority: Any, tmp_path: Path) -> None:
    def problem(**changed: Path) -> str:
        with pytest.raises(ConfigError) as error:
            Credentials(files.model_copy(update=changed))
        return str(error.value)

    other, old = authority.issue("other"), authority.issue("old", days=-1)
    mail, secret = authority.issue("mail", usage="emailProtection"), authority.encrypt(other)
    weak = authority.issue("weak", key=("-newkey", "rsa:1024", "-nodes"))
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("nothing")
    nothing.chmod(0o600)
    assert f"tls: {other.key} is not the key of {files.certificate}" in problem(key=other.key)
    assert "certificate has expired" in problem(certificate=old.certificate, key=old.key)
    assert "unsuitable certificate purpose" in problem(certificate=mail.certificate, key=mail.key)
    assert "no passphrase" in problem(certificate=secret.certificate, key=secret.key)
    assert "ee key too small" in problem(certificate=weak.certificate, key=weak.key)
    assert "there is no certificate in it" in problem(authorities=nothing)
    assert "PEM is needed" in problem(certificate=nothing)
    assert "PEM is needed" in problem(key=nothing)
    missing = tmp_path / "missing"
    assert f"tls.key: {missing}: No such file" in problem(key=missing)
    assert "No such file" in problem(certificate=missing)
    assert f"tls: {missing}: No such file" in problem(authorities=missing)


@pytest.mark.parametrize(("mode", "fit"), [(0o600, True), (0o440, True), (0o660, False), (0o604, False)])
def test_a_key_that_others_can_read_or_change_is_refused(files: Tls, mode: int, fit: bool) -> None:
    files.key.chmod(mode)
    with contextlib.nullcontext() if fit else pytest.raises(ConfigError, match="chmod 0600"):
        Credentials(files)


def test_a_certificate_that_soon_expires_is_told(files: Tls, captured_log: io.StringIO) -> None:
    Credentials(files)
    assert '"days": 0' in captured_log.getvalue()


def test_names_of_a_certificate() -> None:
    subject = ((("organizationName", "Hospital"),), (("commonName", "MR 1"),))
    shown = {
        "subject": subject,
        "subjectAltName": (("DNS", "MR1.example"), ("IP Address", "10.0.0.1"), ("URI", "x:y")),
    }
    assert names(shown) == {"mr 1", "mr1.example", "10.0.0.1"}
    assert names({}) == frozenset()


# --- to peers


@pytest.fixture
def pacs(start: Start) -> Peer:
    """The node itself as a peer that is sent to over TLS: it wants a certificate and shows one for localhost."""
    return Peer(ae_title=NODE, host="127.0.0.1", port=start().tls_port, tls=True)


def send_one(peer: Peer, path: Path, credentials: Credentials | None) -> tuple[bool, str]:
    ds = pydicom.dcmread(path, stop_before_pixels=True)
    item = Item(ds.SOPClassUID, ds.SOPInstanceUID, path)
    try:
        link = StoreLink(peer, "SCANNER", [item.sop_class_uid], credentials.client() if credentials else None)
    except Unreachable as why:
        return False, str(why)
    (sent,) = link.send([item])
    link.close()
    return sent.outcome == "stored", sent.note


def test_results_go_out_over_tls(pacs: Peer, files: Tls, tiny_study: list[Path]) -> None:
    assert send_one(pacs, tiny_study[0], Credentials(files)) == (True, "")
    assert send_one(pacs, tiny_study[0], None)[0] is False


def test_a_peer_must_show_a_trusted_certificate_of_its_name(
    pacs: Peer, files: Tls, stranger: Any, tiny_study: list[Path]
) -> None:
    for name, heard in (("node", True), ("localhost", True), ("pacs", False)):
        taken, note = send_one(pacs.model_copy(update={"certified_as": name}), tiny_study[0], Credentials(files))
        assert taken is heard, name
        assert heard or "certificate" in note
    distrustful = Credentials(files.model_copy(update={"authorities": stranger.certificate}))
    assert send_one(pacs, tiny_study[0], distrustful)[0] is False


def test_a_node_listens_and_delivers_with_its_files(
    pacs: Peer, files: Tls, tmp_path: Path, tiny_study: list[Path]
) -> None:
    settings = Settings(
        ae_title="SCANNER", port=0, tls=files, data_dir=tmp_path / "other", peers={"pacs": pacs}, deliver_to=("pacs",)
    )
    ds = pydicom.dcmread(tiny_study[0], stop_before_pixels=True)
    with Node(settings, InlineWorker) as node:
        assert node.healthy()
        assert node.tls_port not in {None, node.port}
        link = node._link("pacs", frozenset({ds.SOPClassUID}))
        (sent,) = link.send([Item(ds.SOPClassUID, ds.SOPInstanceUID, tiny_study[0])])
        link.close()
        assert sent.outcome == "stored"
    taken = settings.model_copy(update={"tls": files.model_copy(update={"port": pacs.port})})
    with pytest.raises(CannotStart, match=f"cannot listen on 127.0.0.1:{pacs.port}: Address already in use"):
        Node(taken, InlineWorker).start()
    files.key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 0600"):
        Node(settings, InlineWorker).start()


# --- with DCMTK


def dcmtk(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.peers
def test_dcmtk_sends_over_tls(
    start: Start, authority: Any, stranger: Any, peer: Callable[[str], str], tiny_study: list[Path]
) -> None:
    node = start()
    to, pair = ("-aet", "SCANNER", "-aec", NODE, "127.0.0.1", node.tls_port), authority.issue("scanner")
    trusted = ("+cf", authority.certificate)
    known = ("+tls", pair.key, pair.certificate, *trusted)
    assert dcmtk(peer("echoscu"), *known, *to).returncode == 0
    stored = dcmtk(peer("storescu"), *known, *to, *tiny_study[:3])
    assert stored.returncode == 0, stored.stderr
    assert [summary.images for summary in summaries(node.journal)] == [3]
    unknown = stranger.issue("scanner")
    assert dcmtk(peer("echoscu"), "+tls", unknown.key, unknown.certificate, *trusted, *to).returncode != 0
    assert dcmtk(peer("echoscu"), "+tla", *trusted, *to).returncode != 0
    assert dcmtk(peer("echoscu"), *to).returncode != 0


@pytest.mark.peers
def test_dcmtk_receives_over_tls(
    files: Tls, authority: Any, peer: Callable[[str], str], tiny_study: list[Path], tmp_path: Path,
    eventually: Callable[..., None],
) -> None:  # fmt: skip
    pair, folder = authority.issue("pacs"), tmp_path / "in"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [peer("storescp"), "-od", folder, "+tls", pair.key, pair.certificate, "+cf", authority.certificate]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with subprocess.Popen([*map(str, command), str(port)], env=environment, stderr=subprocess.DEVNULL) as scp:
        try:
            pacs = Peer(ae_title="PACS", host="127.0.0.1", port=port, tls=True, certified_as="pacs")
            credentials = Credentials(files)
            eventually(
                lambda: send_one(pacs, tiny_study[0], credentials) == (True, ""), "storescp takes an image", 20
            )
        finally:
            scp.terminate()
    assert len(list(folder.iterdir())) == 1


def accepts(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=20):
        return True
    return False
