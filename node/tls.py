"""TLS as BCP 195 wants it: 1.2 with ECDHE and AEAD, or 1.3, and both sides show a certificate.

The files are read again when they change: connections that are made afterwards use what they hold then, and those
that are open stay. Knows no DICOM and opens no connection.

References: BCP 195 (RFC 9325, RFC 8996); PS3.15 Annex B.12 (Modified BCP 195 profile).
"""

from __future__ import annotations

import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from node.config import ConfigError
from node.log import get_logger
from node.peers import Tls

_SUITES = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
"""Of TLS 1.2; those of 1.3 are all fit. Level 2: keys of at least 112 bits of security, no SHA-1."""
_FOREIGN_ACCESS = 0o027
"""Group may read a key, which is how services are handed one; nobody else, and nobody but the owner may write."""
_WARN_BEFORE_S = 30 * 86400.0

log = get_logger("node.tls")


class Credentials:
    """The node's certificate and key, and the authorities that vouch for its peers.

    Raises
    ------
    ConfigError
        A file is missing, is not what it should be, or is open to others; the key belongs to another certificate;
        the certificate is not valid today.
    """

    def __init__(self, files: Tls) -> None:
        self._files = files
        self._reading = threading.Lock()
        self._stamp = _stamp(files)
        self._server, self._client = _contexts(files)

    def server(self) -> ssl.SSLContext:
        """For connections to the node: the caller must show a certificate of one of the authorities."""
        self._renew()
        return self._server

    def client(self) -> ssl.SSLContext:
        """For connections to peers, whose certificate must carry the name that they are called by."""
        self._renew()
        return self._client

    def _renew(self) -> None:
        with self._reading:
            stamp = _stamp(self._files)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._server, self._client = _contexts(self._files)
            except ConfigError as why:
                log.error("the changed TLS files cannot be used: those from before stay", reason=str(why))  # noqa: TRY400
            else:
                log.info("TLS files have changed and are in use")


def names(certificate: Any) -> frozenset[str]:
    """Host names, addresses and common names of a certificate from ``SSLSocket.getpeercert``, in small letters."""
    subject = (pair for part in certificate.get("subject", ()) for pair in part)
    found = [value for kind, value in subject if kind == "commonName"]
    found += [value for kind, value in certificate.get("subjectAltName", ()) if kind in {"DNS", "IP Address"}]
    return frozenset(name.lower() for name in found)


def why_failed(error: OSError) -> str:
    """What a handshake failed of, in OpenSSL's words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return "not finished in time" if isinstance(error, TimeoutError) else "the connection ended"


def _stamp(files: Tls) -> tuple[object, ...]:
    """Changes whenever a file does."""

    def of(path: Path) -> object:
        try:
            stat = path.stat()
        except OSError as error:
            return error.errno
        return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode

    return tuple(of(path) for path in (files.certificate, files.key, files.authorities))


def _contexts(files: Tls) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the server's and for the client's side."""
    _check_access(files.key)
    server = _context(ssl.PROTOCOL_TLS_SERVER, files.authorities)
    server.options |= ssl.OP_NO_RENEGOTIATION
    client = _context(ssl.PROTOCOL_TLS_CLIENT, files.authorities)
    for context in (server, client):
        _show(context, files)
    _check_certificate(server, files.certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    return server, client


def _context(protocol: int, trusted: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # who is named is trusted, root or not
    try:
        context.load_verify_locations(trusted)
    except ssl.SSLError:
        raise ConfigError(f"tls: {trusted}: there is no certificate in it (PEM)") from None
    except OSError as error:
        raise ConfigError(f"tls: {trusted}: {error.strerror}") from None
    if context.cert_store_stats()["crl"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _check_access(key: Path) -> None:
    try:
        mode = key.stat().st_mode & 0o777
    except OSError as error:
        raise ConfigError(f"tls.key: {key}: {error.strerror}") from None
    if mode & _FOREIGN_ACCESS:
        raise ConfigError(f"tls.key: {key}: others may read or change it (mode {mode:04o}): chmod 0600")


def _show(context: ssl.SSLContext, files: Tls) -> None:
    """Have a context show the node's certificate."""

    def no_passphrase() -> NoReturn:
        raise ConfigError(f"tls.key: {files.key}: is encrypted, and the node knows no passphrase")

    try:
        context.load_cert_chain(files.certificate, files.key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
            raise ConfigError(f"tls: {files.key} is not the key of {files.certificate}") from None
        what = f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
        raise ConfigError(f"tls: {files.certificate} and {files.key} cannot be used{what}: PEM is needed") from None
    except OSError as error:
        raise ConfigError(f"tls: {files.certificate} or {files.key}: {error.strerror}") from None


def _check_certificate(server: ssl.SSLContext, certificate: Path) -> None:
    """A handshake in memory with a client that trusts the certificate: is it valid today, and for a server?"""
    client = _context(ssl.PROTOCOL_TLS_CLIENT, certificate)
    client.check_hostname = False
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up)
    try:
        for side in (theirs, ours) * 3:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ConfigError(f"tls.certificate: {certificate}: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise ConfigError(f"tls.certificate: {certificate}: {why_failed(error)}") from None
    shown = theirs.getpeercert() or {}
    left_s = ssl.cert_time_to_seconds(str(shown["notAfter"])) - time.time()
    if left_s < _WARN_BEFORE_S:
        log.warning("the node's TLS certificate expires soon", days=int(left_s // 86400))
